"""One process of an arm, from its start until nothing of it is left."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chipmark.errors import ChipmarkError, UsageError
from chipmark.processes import LogTail
from chipmark.supervised import ASK_S, Supervised

_POLL_S = 0.05


class ArmFailedError(ChipmarkError):
    """A process of an arm ended without a measurement; the message names arm, round and cause."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended by itself. wall_s: from its start to its end, interpreter included,
    without what supervises it."""

    code: int
    wall_s: float
    log: str


def run_process(
    argv: Sequence[str], cwd: Path, env: Mapping[str, str], limit_s: float, what: str
) -> Finished:
    """Run to the end in a session of its own; whatever happens, its whole tree is gone afterwards.

    `what` names arm and round in errors. Raises UsageError where it cannot be started,
    ArmFailedError where it takes longer than `limit_s` or floods its output.
    """
    try:
        program = Supervised(argv, env, cwd=cwd)
    except OSError as error:
        raise UsageError(f"{what}: {argv[0]} cannot be started: {error.strerror}") from error
    return _finished(program, limit_s, what)


def _finished(program: Supervised, limit_s: float, what: str) -> Finished:
    process = program.process
    assert process.stdout is not None
    log = LogTail(process.stdout)
    started = time.perf_counter()
    try:
        while True:
            try:
                process.wait(timeout=_POLL_S if log.flooded else min(limit_s, 1.0))
                break
            except subprocess.TimeoutExpired:
                if log.flooded:
                    raise ArmFailedError(
                        f"{what}: flooded its output with {log.total >> 20} MiB"
                    ) from None
                if time.perf_counter() - started > limit_s:
                    raise ArmFailedError(
                        f"{what}: no end within {limit_s:g} s{_tail(log)}",
                        "a longer one: --limit-s",
                    ) from None
    finally:
        program.end(ASK_S)
        log.join()
    # Without an answer something has killed the supervisor, and with it the process.
    code = program.code(0.0)
    wall_s = program.wall_s
    return Finished(
        process.returncode if code is None else code,
        time.perf_counter() - started if wall_s is None else wall_s,
        log.tail().decode(errors="replace"),
    )


def _tail(log: LogTail) -> str:
    lines = log.tail().decode(errors="replace").splitlines()[-5:]
    return "; the end of its output:\n" + "\n".join(lines) if lines else ""
