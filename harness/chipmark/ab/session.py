"""Running the slots of a session: canary, machine, the arm's process, its readings, its code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from chipmark.ab.arms import Arm, Kind, environment, program
from chipmark.ab.canary import run_canary
from chipmark.ab.machine import MachineState, look
from chipmark.ab.modules import (
    HOOK,
    Module,
    Places,
    check_own_code,
    check_unchanged,
    imported,
    top_level_names,
)
from chipmark.ab.process import ArmFailedError, run_process
from chipmark.ab.readings import PYTEST_FILE, RECORDS, Command, Lost, Reading, Readings
from chipmark.ab.schedule import ARMS, ArmName, Slot
from chipmark.errors import NothingToJudgeError, UsageError
from chipmark.gate.stored_series import load_run
from chipmark_models.foreign_file import DATA_BYTES, read_json


@dataclass(frozen=True, slots=True)
class Measured:
    """A slot that was run. canary_s: the canary just before it. before, after: the machine.
    attempt: how often the run had been resumed by then. lost: benchmarks without a value."""

    slot: Slot
    readings: tuple[Reading, ...]
    canary_s: float
    before: MachineState
    after: MachineState
    wall_s: float
    attempt: int = 0
    lost: tuple[Lost, ...] = ()


class Runner(Protocol):
    """Runs slots. The one of processes is `ProcessRunner`; tests script another."""

    def warm(self, session: int) -> None:
        """Fresh caches for both arms, filled by a round that is thrown away."""
        ...

    def run(self, slot: Slot, decided: Sequence[str]) -> Measured:
        """One slot, without the benchmarks that are decided where the command can leave them."""
        ...

    def canary(self) -> float:
        """One reading of the canary, after the last slot."""
        ...


@dataclass
class ProcessRunner:
    """Slots as processes. `scratch` is a folder of the run's own; `project` the user's checkout.

    Holds what the arms imported so far (`modules`), of their warm-up the benchmarks (`names`) and
    pytest's file (`first_files`), and what identifies the machine, as the gate reads it.
    """

    kind: Kind
    arms: Mapping[ArmName, Arm]
    commands: Mapping[ArmName, Command]
    scratch: Path
    project: Path
    limit_s: float = 900.0
    modules: dict[ArmName, dict[str, Module]] = field(default_factory=lambda: {"A": {}, "B": {}})
    names: dict[ArmName, tuple[str, ...]] = field(default_factory=dict)
    first_files: dict[ArmName, dict[str, Any]] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    _session: int = 0

    def warm(self, session: int) -> None:
        """As `Runner`; then refuses arms that ran the same code, before anything is timed."""
        self._session = session
        lost: dict[str, str] = {}
        for arm in ARMS:
            what = f"arm {arm}, warm-up"
            readings, _ = self._process(arm, what, ())
            self.names[arm] = tuple(dict.fromkeys(r.benchmark for r in readings.found))
            if arm == "A":
                lost = {name.benchmark: name.reason for name in readings.lost}
                if not readings.found:
                    raise NothingToJudgeError(
                        "arm A has measured nothing to compare with", _some_lost(lost)
                    )
            else:
                _check_lost(readings, {*lost, *self.names["A"]}, what)
        same_tree = self.kind != "commits"
        check_own_code(
            self.modules["A"], self.modules["B"], differ=not same_tree, whole_code=not same_tree
        )

    def run(self, slot: Slot, decided: Sequence[str]) -> Measured:
        """As `Runner`."""
        canary_s = self.canary()
        before = look()
        what = f"arm {slot.arm}, session {slot.session + 1}, round {slot.round + 1}"
        readings, wall_s = self._process(slot.arm, what, decided)
        return Measured(slot, readings.found, canary_s, before, look(), wall_s, lost=readings.lost)

    def canary(self) -> float:
        """As `Runner`."""
        return run_canary(dict(os.environ))

    def _process(self, name: ArmName, what: str, decided: Sequence[str]) -> tuple[Readings, float]:
        arm, command = self.arms[name], self.commands[name]
        folder = self.scratch / name / "process"
        shutil.rmtree(folder, ignore_errors=True)
        reports = folder / "modules"
        reports.mkdir(parents=True)
        caches = self.scratch / name / f"caches-{self._session}"
        env = environment(arm, os.environ, caches, reports, HOOK) | command.env(folder)
        words = command.words(folder, decided, self.names.get(name, ()))
        words[0] = program(arm, env["PATH"])
        done = run_process(words, arm.cwd, env, self.limit_s, what)
        if not command.survives(done.code, folder):
            raise ArmFailedError(
                f"{what}: {' '.join(arm.argv)} ended with {_ending(done.code)}; the end of its "
                f"output:\n{_last_lines(done.log)}",
                "nothing was written",
            )
        readings = command.read(folder, done.wall_s, what)
        if name == "A" and not readings.found and not readings.lost:
            raise UsageError(f"{what}: no benchmark was run", "check the selection")
        if name not in self.names:
            self._remember(name, folder)
        places = Places(arm.tree, self.project, top_level_names(arm.roots()))
        found = imported(reports, places)
        check_unchanged(name, self.modules[name], found)
        self.modules[name] |= found
        shutil.rmtree(folder, ignore_errors=True)
        return readings, done.wall_s

    def _remember(self, name: ArmName, folder: Path) -> None:
        source = self.commands[name].source
        file = folder / (PYTEST_FILE if source == "pytest-benchmark" else RECORDS)
        if source == "pytest-benchmark":
            self.first_files[name] = read_json(file, DATA_BYTES, finite=False)
        if file.exists() and not self.identity:
            self.identity = dict(load_run(file).identity)


def _check_lost(readings: Readings, known: Collection[str], what: str) -> None:
    """A failed test that is not a benchmark means that the arm as a whole is broken."""
    strange = {lost.benchmark: lost.reason for lost in readings.lost if lost.failed}
    strange = {name: reason for name, reason in strange.items() if name not in known}
    if strange:
        raise ArmFailedError(
            f"{what}: failed outside the benchmarks of arm A: {_some_lost(strange)}",
            "nothing was written",
        )


def _some_lost(reasons: Mapping[str, str], most: int = 3) -> str:
    listed = [f"{name}: {reason}" for name, reason in list(reasons.items())[:most]]
    more = [f"and {len(reasons) - most} more"] if len(reasons) > most else []
    return "; ".join(listed + more)


def _ending(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {-code}"


def _last_lines(log: str, lines: int = 15) -> str:
    return "\n".join(log.rstrip().splitlines()[-lines:]) or "(nothing was printed)"
