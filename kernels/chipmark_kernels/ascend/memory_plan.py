"""What Ascend's compilers said of a kernel: whether it fits, and the buffers that were planned.

Pure functions over the answer of `compile_one`. Standard library only, for both interpreters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

BUFFER_BYTES = {
    "ub": 192 * 1024,
    "cbuf": 512 * 1024,
    "cc": 128 * 1024,
    "ca": 64 * 1024,
    "cb": 64 * 1024,
}
"""On-chip memories by the compiler's name, sizes as its target specification of every A2 and A3
chip has them: the unified buffer of a vector core; L1, L0C, L0A and L0B of a cube core."""

BUFFER_NAMES = {"ub": "UB", "cbuf": "L1", "cc": "L0C", "ca": "L0A", "cb": "L0B"}
"""As Ascend's own documents call them."""

_ENDS_AT_HIVMC = "External hivmc run fails, returning module before running external compiler"
_OVERFLOW = re.compile(r"(\w+) overflow, requires (\d+) bits while (\d+) bits available")
_SPACE = re.compile(r"#hivm\.address_space<(\w+)>")
_ERROR = re.compile(r"\berror: (.+)")
_GENERAL = ("Failed to run BiShengHIR pipeline", "Failed to run BiShengIR pipeline")


class State(Enum):
    """What came of a kernel."""

    FITS = "fits"
    OVERFLOWS = "overflows"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one kernel.

    buffer: name of the fullest on-chip memory, "" where none was planned. needed_bytes,
    buffer_bytes: of it. multibuffer: whether Triton's default, a second buffer for every load, was
    kept. crashes: how often a compiler died before it answered. reason: of what does not fit.
    """

    state: State
    buffer: str = ""
    needed_bytes: int | None = None
    buffer_bytes: int | None = None
    multibuffer: bool = True
    crashes: int = 0
    reason: str = ""


def used_bytes(plan: str) -> dict[str, int]:
    """Bytes of each memory up to the end of its last buffer, from the text of `memory_info*.json`.

    There an offset is in bytes and an extent in bits. Any other text gives nothing.
    """
    try:
        records = json.loads(plan)["Record"]
        buffers = [b for record in records for b in record["memory_info_array"]]
        used: dict[str, int] = {}
        for buffer in buffers:
            found = _SPACE.search(buffer["buffer"])
            if found is not None:
                end = max(offset + -(-buffer["extent"] // 8) for offset in buffer["offset"])
                used[found[1]] = max(used.get(found[1], 0), end)
    except (ValueError, KeyError, TypeError):
        return {}
    return used


def _fullest(used: Mapping[str, int]) -> tuple[str, int, int] | None:
    known = {name: n for name, n in used.items() if name in BUFFER_BYTES}
    if not known:
        return None
    name = max(known, key=lambda n: known[n] / BUFFER_BYTES[n])
    return BUFFER_NAMES[name], known[name], BUFFER_BYTES[name]


def first_error(text: str) -> str:
    """The first error that says what is wrong, on one line and without a place in a file."""
    told = [line.strip() for line in _ERROR.findall(text)]
    telling = [line for line in told if line not in _GENERAL and line != _ENDS_AT_HIVMC]
    found: str = (telling or told or ["no error told"])[0]
    return found[:200]


def _of_attempt(attempt: Mapping[str, Any], crashes: int) -> Verdict:
    text, code = str(attempt["text"]), int(attempt["code"])
    multibuffer = bool(attempt["multibuffer"])
    if code == 0 or _ENDS_AT_HIVMC in text:
        buffer, needed, size = _fullest(attempt["used"]) or ("", None, None)
        return Verdict(State.FITS, buffer, needed, size, multibuffer, crashes)
    overflows = [(int(m[2]) // 8, int(m[3]) // 8, m[1]) for m in _OVERFLOW.finditer(text)]
    if overflows:
        # The compiler tries again with fewer buffers; the least that it asked for is what it needs.
        needed, size, name = min(overflows)
        reason = f"needs {needed / 1024:g} KB of {size / 1024:g} KB"
        buffer = BUFFER_NAMES.get(name, name)
        return Verdict(
            State.OVERFLOWS, buffer, needed, size, multibuffer, crashes, f"{buffer} {reason}"
        )
    if code < 0:
        reason = f"bishengir-compile died of signal {-code}, each of {attempt['crashes']} times"
    else:
        reason = f"bishengir-compile: {first_error(text)}"
    return Verdict(State.REFUSED, multibuffer=multibuffer, crashes=crashes, reason=reason)


def judged(answer: Mapping[str, Any]) -> Verdict:
    """The verdict of an answer: of the attempt that fits, else of the last that overflows."""
    front: Mapping[str, Any] = answer["front_end"]
    attempts: Sequence[Mapping[str, Any]] = answer["attempts"]
    crashes = int(front["crashes"]) + sum(int(attempt["crashes"]) for attempt in attempts)
    if front["error"]:
        reason = f"front end: {front['error']}"
        return Verdict(State.REFUSED, crashes=crashes, reason=reason)
    verdicts = [_of_attempt(attempt, crashes) for attempt in attempts]
    for state in (State.FITS, State.OVERFLOWS):
        for verdict in verdicts if state is State.FITS else reversed(verdicts):
            if verdict.state is state:
                return verdict
    return verdicts[0]
