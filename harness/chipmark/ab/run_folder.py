"""The folder of an A/B run: what was compared, every round, and the verdicts.

ab.json        arms, code, order, machine, canary, every reading with session, round and slot
A.json B.json  of pytest-benchmark commands: files of pytest-benchmark with a sample a round,
               which `chipmark gate A.json B.json` pairs again

Beside them lies the journal of the run, with its raw samples (`journal.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from chipmark.ab.arms import differences
from chipmark.ab.journal import RUN_FILE, slot_document
from chipmark.ab.looks import Outcome
from chipmark.ab.modules import code_hash
from chipmark.ab.schedule import ARMS, ArmName
from chipmark.ab.session import Measured, ProcessRunner
from chipmark.benchmark_json.document import NAMESPACE
from chipmark.errors import UsageError
from chipmark.gate.outputs.write import write_whole
from chipmark.gate.stored_series import INTERLEAVED, ROUNDS

SCHEMA = "chipmark.ab/1"


class StoredFindings(Protocol):
    """The result of a run: `GateFindings` of `ab`, `MachineReport` of `aa`."""

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        ...


def check_new(out: Path) -> None:
    """UsageError where the folder exists and holds something, or cannot be made."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} already exists", "a run is never mixed with another: choose a new -o"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out.parent} cannot be made: {error.strerror}") from error


def write_run(
    out: Path,
    run: str,
    seed: int,
    runner: ProcessRunner,
    outcome: Outcome,
    findings: StoredFindings,
    machine: Mapping[str, Any],
    name: str = RUN_FILE,
) -> None:
    """Write each file whole, the main document `name` last: a folder without it is a run that has
    not ended."""
    documents: dict[str, Any] = {name: run_document(run, seed, runner, outcome, findings, machine)}
    for arm in ARMS:
        if arm in runner.first_files:
            documents[f"{arm}.json"] = interleaved_file(
                runner.first_files[arm], run, arm, outcome.measured, outcome.faults
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be made ({error.strerror})") from error
    for file in sorted(documents, key=lambda file: file == name):
        text = json.dumps(documents[file], indent=1, allow_nan=False, default=str) + "\n"
        write_whole(out / file, text)


def run_document(
    run: str,
    seed: int,
    runner: ProcessRunner,
    outcome: Outcome,
    findings: StoredFindings,
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """`ab.json`."""
    a, b = runner.arms["A"], runner.arms["B"]
    arms = {}
    for name in ARMS:
        arm, modules = runner.arms[name], runner.modules[name]
        arms[name] = {
            "title": arm.title,
            "revision": arm.revision,
            "argv": list(arm.argv),
            "env": dict(arm.env),
            "cwd": str(arm.cwd),
            "python": str(arm.python),
            "source": runner.commands[name].source,
            "code_sha256": code_hash(modules),
            "modules": [
                {"name": m.name, "path": m.path, "sha256": m.sha256, "own": m.inside}
                for m in modules.values()
            ],
        }
    canary = outcome.canary
    return {
        "schema": SCHEMA,
        "run": run,
        "kind": runner.kind,
        "seed": seed,
        "differences": differences(a, b),
        "same_code": code_hash(runner.modules["A"]) == code_hash(runner.modules["B"]),
        "arms": arms,
        "machine": dict(machine),
        "canary": None
        if canary is None
        else {
            "readings_s": outcome.canaries,
            "median_s": canary.median_s,
            "noise": canary.noise,
            "cv": canary.cv,
            "drift": canary.drift,
            "disturbed": canary.disturbed,
            "faults": list(canary.faults),
            "notices": list(canary.notices),
        },
        "left_out": list(outcome.left_out),
        "slots": [slot_document(m, raw=False) for m in outcome.measured],
        "findings": findings.to_dict(),
    }


def interleaved_file(
    first: Mapping[str, Any],
    run: str,
    arm: ArmName,
    measured: list[Measured],
    faults: Sequence[str] = (),
) -> dict[str, Any]:
    """A file of pytest-benchmark whose `data` are the medians of an arm's rounds, in order.

    `first` is the file of the arm's warm-up: names, parameters and the machine are taken of it.
    faults: why the machine was unfit, which a gate on the two files has to know.
    """
    from chipmark.benchmark_json.identity import without_addresses
    from chipmark.benchmark_json.stats import stats_of

    block = {"run": run, "arm": arm, "unfit": list(faults)}
    document = dict(first) | {NAMESPACE: {INTERLEAVED: block}}
    entries = []
    for entry in first["benchmarks"]:
        name = without_addresses(entry.get("fullname") if isinstance(entry, dict) else None)
        values, rounds = [], []
        for m in measured:
            for reading in m.readings:
                if m.slot.arm == arm and reading.benchmark == name:
                    values.append(reading.value)
                    rounds.append([m.slot.session, m.slot.round])
        if not values:
            continue
        extra = entry.get("extra_info") or {}
        extra = {**extra, NAMESPACE: {**(extra.get(NAMESPACE) or {}), ROUNDS: rounds}}
        entries.append({**entry, "stats": stats_of(values), "extra_info": extra})
    document["benchmarks"] = entries
    return document
