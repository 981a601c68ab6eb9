"""Devices looked up in a process of their own: one that crashes or hangs costs its own line.

A module that is asked prints a line for each name (`answer`); `scan` runs it and reads them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from chipmark.errors import ChipmarkError
from chipmark_models.plain_text import one_line

LIMIT_S = 60.0
"""Of a process; plug-ins take seconds to be registered."""

RunModule = Callable[..., subprocess.CompletedProcess[str]]
"""`Machine.run_module`."""

_MARK = "chipmark-device "
"""Libraries print what they like to stdout; only lines with this mark are answers."""

_WORDS = 300


@dataclass(frozen=True, slots=True)
class DeviceHere:
    """`text` names a device that is here, or says what is missing."""

    name: str
    here: bool
    text: str
    remedy: str = ""


def scan(module: str, names: Sequence[str], run_module: RunModule) -> list[DeviceHere]:
    """What `python -m module NAME...` answers, in order; after a crash the rest is looked up in
    another process."""
    found: list[DeviceHere] = []
    left = list(names)
    while left:
        lines, how = attempt(module, left, run_module)
        found += lines
        left = left[len(lines) :]
        if left:
            found.append(DeviceHere(left[0], False, f"looking for it {how}"))
            left = left[1:]
    return found


def attempt(
    module: str, names: Sequence[str], run_module: RunModule
) -> tuple[list[DeviceHere], str]:
    """The answers of one process, and how it ended."""
    try:
        done = run_module(module, *names, limit_s=LIMIT_S)
        output, how = done.stdout, f"ended with exit code {done.returncode}"
        words = [line for line in done.stderr.splitlines() if line.strip()]
        if done.returncode and words:
            how += f": {one_line(words[-1], _WORDS)}"
    except subprocess.TimeoutExpired as error:
        raw = error.stdout or b""
        output = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
        how = f"took over {LIMIT_S:.0f} s"
    lines = (_read(line) for line in output.splitlines() if line.startswith(_MARK))
    return [found for found in lines if found is not None], how


def _read(line: str) -> DeviceHere | None:
    """An answer; None where a library printed the mark, but no answer."""
    try:
        told = json.loads(line.removeprefix(_MARK))
        found = DeviceHere(**told)
    except (ValueError, TypeError):
        return None
    texts = (found.name, found.text, found.remedy)
    return found if all(isinstance(text, str) for text in texts) else None


def answer(names: Sequence[str], look: Callable[[str], str]) -> None:
    """Print a line for each name: what `look` returns of a device that is here, or the words and
    the remedy of what it raises."""
    for name in names:
        try:
            found = DeviceHere(name, True, look(name))
        except ChipmarkError as error:
            found = DeviceHere(name, False, error.message, error.hint)
        except Exception as error:  # a vendor's package may raise anything as it is imported
            found = DeviceHere(name, False, one_line(f"{type(error).__name__}: {error}"))
        print(_MARK + json.dumps(asdict(found)), flush=True)
