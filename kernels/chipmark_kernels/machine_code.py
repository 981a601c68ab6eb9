"""What the assembler made of a kernel: registers, spills, and where the spills are.

All of it is read from the machine code itself. Another run of `ptxas` would not do: Triton gives it
options of its own (3.7: `--regAllocOptLevel=2`), without which it allocates otherwise.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton


@dataclass(frozen=True, slots=True)
class Resources:
    """registers: of a thread (VGPRs and AGPRs on AMD).

    spill_bytes: of a thread, those stored to its own memory and those loaded from it, as the
    instructions are in the code. spills_in_loops: instructions among them inside a loop.
    """

    registers: int
    spill_bytes: int
    spills_in_loops: int


_CUDA_TOOLS = Path(triton.__path__[0]) / "backends/nvidia/bin"
_SPILL = re.compile(r"\b(?:STL|LDL|scratch_store|scratch_load)(?P<kind>[._]\S+)?\s")
_WIDTHS = {
    "U8": 1,
    "S8": 1,
    "U16": 2,
    "S16": 2,
    "64": 8,
    "128": 16,
    "byte": 1,
    "ubyte": 1,
    "sbyte": 1,
    "short": 2,
    "ushort": 2,
    "sshort": 2,
    "dwordx2": 8,
    "dwordx3": 12,
    "dwordx4": 16,
}
_LABEL = re.compile(r"^\s*(\.L\w+):")
_INSTRUCTION = re.compile(
    r"^\s*(?:/\*[0-9a-f]{4,}\*/\s+)?(?P<guard>@\S+\s+)?(?P<name>[A-Za-z][\w.]*)"
)
_TARGET = re.compile(r"\.L\w+")
_JUMPS = re.compile(r"BRA\b|BRX\b|JMP\b|s_branch$|s_cbranch_")
_ENDS = re.compile(r"EXIT\b|RET\b|s_endpgm$")


def _spilled_bytes(line: str) -> int:
    """Bytes that an instruction moves to or from a thread's own memory; 0 for any other."""
    found = _SPILL.search(line)
    if found is None:
        return 0
    kinds = re.split(r"[._]", found["kind"] or "")
    return next((_WIDTHS[kind] for kind in kinds if kind in _WIDTHS), 4)


def _successors(lines: list[str]) -> list[list[int]]:
    """For every line those that may be run next."""
    labels = {label[1]: n for n, line in enumerate(lines) if (label := _LABEL.match(line))}
    following: list[list[int]] = []
    for n, line in enumerate(lines):
        after = [n + 1] if n + 1 < len(lines) else []
        found = None if _LABEL.match(line) else _INSTRUCTION.match(line)
        if found is not None and _JUMPS.match(found["name"]):
            operands = line[found.end() :]
            to = [labels[name] for name in _TARGET.findall(operands) if name in labels]
            # Taken always: no guard, and the label is the first operand (`BRA.U UP0, ...` asks).
            always = found["guard"] is None and operands.lstrip(" `(").startswith(".L")
            always = always and not found["name"].startswith("s_cbranch")
            # An indirect jump names no label; it may go to any.
            after = (to or list(labels.values())) + ([] if always and to else after)
        elif found is not None and found["guard"] is None and _ENDS.match(found["name"]):
            after = []
        following.append(after)
    return following


def _comes_back(line: int, following: list[list[int]]) -> bool:
    """Whether a way leads from a line to itself, that is, whether it is in a loop."""
    seen: set[int] = set()
    ahead = list(following[line])
    while ahead:
        at = ahead.pop()
        if at == line:
            return True
        if at not in seen:
            seen.add(at)
            ahead += following[at]
    return False


def spills(assembly: str) -> tuple[int, int]:
    """(bytes, instructions inside a loop) of loads and stores of a thread's own memory.

    Reads NVIDIA's SASS and AMD's GCN. In a loop is what can be reached from itself. The order of
    lines does not tell: Blackwell's code waits for a barrier in blocks behind the kernel's end and
    jumps back from there, which does not loop around what is between.
    """
    lines = assembly.splitlines()
    moved = {n: size for n, line in enumerate(lines) if (size := _spilled_bytes(line))}
    following = _successors(lines) if moved else []
    return sum(moved.values()), sum(_comes_back(line, following) for line in moved)


def _tool(name: str, *options: str, cubin: bytes) -> str:
    """What a tool of Triton's wheel prints of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [_CUDA_TOOLS / name, *options, file.name],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    return done.stdout


def disassembled(cubin: bytes) -> str:
    """NVIDIA's machine code as text."""
    return _tool("nvdisasm", cubin=cubin)


def resources_of_cubin(cubin: bytes) -> Resources:
    """Read NVIDIA's machine code with `cuobjdump` and `nvdisasm`; RuntimeError where it cannot."""
    usage = _tool("cuobjdump", "-res-usage", cubin=cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump gave no resource usage: {usage[:300]!r}")
    registers, stack, local = (int(n) for n in found.groups())
    # Without memory of its own a thread can spill nowhere, and need not be disassembled.
    spilled = spills(disassembled(cubin)) if stack or local else (0, 0)
    return Resources(registers, *spilled)


def resources_of_gcn(assembly: str) -> Resources:
    """Read AMD's assembly; scalar registers spill to lanes of vector registers, which is free."""

    def field(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", assembly)
        return int(found[1]) if found else 0

    moved, in_loops = spills(assembly)
    # The frame too, for scratch memory can also be reached by instructions of other names.
    moved = max(moved, field("private_segment_fixed_size"))
    return Resources(field("vgpr_count") + field("agpr_count"), moved, in_loops)
