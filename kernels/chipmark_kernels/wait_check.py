"""Whether a kernel that is launched early waits before it could see or harm an earlier result.

Read from its PTX, the last form in which every way through the kernel and every pointer's origin
can be seen: the assembler moves no access to memory over `griddepcontrol.wait`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

READ_BEFORE_WAIT: Mapping[str, tuple[str, ...]] = {
    "_gemv_kernel": ("w_ptr",),
    "_embedding_rmsnorm_kernel": ("weight_ptr",),
    "_decode_attention_kernel": ("kv_lens_ptr",),
    "_merge_splits_kernel": ("kv_lens_ptr",),
    "_rope_decode_attention_kernel": (
        "kv_lens_ptr",
        "page_table_ptr",
        "positions_ptr",
        "slots_ptr",
        "cos_ptr",
        "sin_ptr",
        "q_norm_ptr",
        "k_norm_ptr",
    ),
}
"""What kernels may read before they wait, by their own names of it: weights, gains and tables of
angles, which no launch writes, and lengths, positions and pages, which are uploaded before the
first launch of a step."""

_PARAMETER = re.compile(r"_param_(\d+)\b")
_REGISTER = re.compile(r"%\w+")
_END = "// -- End function"
_LABEL = re.compile(r"^(\$\w+):$")
_INSTRUCTION = re.compile(r"^(?:@!?(?P<guard>%\w+)\s+)?(?P<name>[a-z][\w.:]*)\s*(?P<rest>.*)$")
_ELSEWHERE = ("st.shared", "st.local", "st.param", "ld.shared", "ld.local", "ld.param", "ld.const")
_WRITES = ("st.", "red.", "atom.", "cp.reduce", "cp.async.bulk")
_READS = ("ld.", "cp.async.ca", "cp.async.cg")


@dataclass(frozen=True, slots=True)
class _Instruction:
    text: str
    name: str
    guarded: bool
    rest: str

    @property
    def ends(self) -> bool:
        return self.name in ("ret", "exit", "trap")

    @property
    def jumps(self) -> bool:
        return self.name.startswith("bra")


def _instructions(ptx: str) -> Iterator[str | _Instruction]:
    """Labels (as text) and instructions of the one kernel, in order."""
    body = ptx[ptx.index(".entry") :].partition(_END)[0]
    body = re.sub(r"//[^\n]*", "", body[body.index("\n{") + 2 :])
    for line in body.splitlines():
        if label := _LABEL.match(line.strip()):
            yield label[1]
            continue
        for part in line.split(";"):
            text = " ".join(part.split()).lstrip("{} ")
            found = _INSTRUCTION.match(text)
            if found is not None and not text.startswith("."):
                yield _Instruction(text, found["name"], found["guard"] is not None, found["rest"])


def _origins(code: Sequence[str | _Instruction]) -> dict[str, set[int]]:
    """By register, the parameters from which its value can have come, in whatever order."""
    flows: list[tuple[list[str], list[str]]] = []
    origin: dict[str, set[int]] = {}
    for step in code:
        if isinstance(step, str) or step.name.startswith(("st.", "bra", "bar.")):
            continue
        target, _, sources = (
            step.rest.partition("}") if step.rest.startswith("{") else step.rest.partition(",")
        )
        targets = _REGISTER.findall(target)
        for number in _PARAMETER.findall(sources):
            for register in targets:
                origin.setdefault(register, set()).add(int(number))
        flows.append((targets, _REGISTER.findall(sources)))
    changed = True
    while changed:
        changed = False
        for targets, sources_of in flows:
            came = set().union(*(origin.get(register, set()) for register in sources_of))
            for register in targets:
                if not came <= origin.setdefault(register, set()):
                    origin[register] |= came
                    changed = True
    return origin


def _addresses(step: _Instruction) -> list[str]:
    """Registers of the places in global memory that an instruction touches."""
    places = re.findall(r"\[([^\]]*)\]", step.rest)
    # A copy to shared memory names that place first.
    places = places[1:] if step.name.startswith("cp.async") else places
    return [register for place in places for register in _REGISTER.findall(place)]


def _faults(
    step: _Instruction,
    free: Collection[int],
    names: Sequence[str],
    origin: Mapping[str, set[int]],
) -> Iterator[str]:
    """What is wrong with an instruction that may be run before the wait."""
    if step.name.startswith(_ELSEWHERE):
        return
    if step.ends:
        yield "a block may end before it waits"
    elif step.name.startswith("griddepcontrol.launch_dependents"):
        yield "lets the next launch begin before it waits"
    elif step.name.startswith(_WRITES):
        yield f"may write before it waits: {step.text}"
    elif step.name.startswith(_READS):
        of = set().union(*(origin.get(register, set()) for register in _addresses(step)))
        if not of or not of <= set(free):
            told = ", ".join(names[n] for n in sorted(of) if n < len(names)) or "an unknown place"
            yield f"may read {told} before it waits"


def unordered(ptx: str, names: Sequence[str], free: Collection[str]) -> tuple[str, ...]:
    """What a kernel may do before `griddepcontrol.wait` and must not, each told once.

    names: its arguments in order, constants left out. free: those that it may read from before.
    A wait under a guard is none. Raises ValueError for PTX without a kernel.
    """
    code = list(_instructions(ptx))
    labels = {step: n for n, step in enumerate(code) if isinstance(step, str)}
    # An integer parameter moves a pointer and is none: only pointers tell whose memory it is.
    pointers = {int(n) for n in re.findall(r"\.param \.u64 \.ptr[^,)]*?_param_(\d+)", ptx)}
    origin = {register: of & pointers for register, of in _origins(code).items()}
    allowed = {n for n, name in enumerate(names) if name in free}
    found: dict[str, None] = {}
    seen: set[int] = set()
    ahead = [0]
    while ahead:  # every instruction that some way reaches without the wait
        at = ahead.pop()
        if at in seen or at >= len(code):
            continue
        seen.add(at)
        step = code[at]
        if isinstance(step, str):
            ahead.append(at + 1)
            continue
        if step.name == "griddepcontrol.wait" and not step.guarded:
            continue
        found |= dict.fromkeys(_faults(step, allowed, names, origin))
        if step.jumps:
            ahead += [labels[label] for label in re.findall(r"\$\w+", step.rest)]
        if not (step.jumps or step.ends) or step.guarded:
            ahead.append(at + 1)
    return tuple(found)
