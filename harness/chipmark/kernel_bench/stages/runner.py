"""Runs steps one after another while the call's time lasts, and saves each part when it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from chipmark.errors import MissingBackendError
from chipmark.kernel_bench.stages.bench import BETWEEN
from chipmark.kernel_bench.stages.contract import Stage, StageStep
from chipmark.kernel_bench.stages.document import Entry, StageFile, State
from chipmark.kernel_bench.supervisor import Answer

MOST_NEW_PROCESSES = 3
"""Of one step: each costs about ten seconds, and a card that loses so many is not well."""


class Asker(Protocol):
    """A worker, or a fake one in tests."""

    def ask(
        self,
        request: Mapping[str, Any],
        step_s: float,
        until_s: float,
        told: Callable[[str, Any], None] | None = None,
    ) -> Answer:
        """As `supervisor.Worker.ask`."""


class Reporter(Protocol):
    """Who hears of it; `chipmark.terminal.console.ConsoleReporter` is one."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def stage(self, text: str) -> None:
        """What is being done now."""

    def step(self) -> None:
        """One step is done."""


@dataclass(slots=True)
class Call:
    """One call of the command.

    worker_of: the process for a step, with the variables that it asks for. files: by stage. code:
    hash of a step's sources, by key. card: uuid of the card. left_files: called after a step, to
    bring its files to safety. until_s: `time.monotonic` at which the call must have ended.
    """

    worker_of: Callable[[StageStep], Asker]
    files: Mapping[Stage, StageFile]
    code: Mapping[str, str]
    folder: Path
    reporter: Reporter
    until_s: float
    card: str = ""
    retry: bool = False
    left_files: Callable[[], None] = lambda: None
    tried: set[str] = field(default_factory=set)
    """Steps that this call has begun: none is begun twice."""

    def entry(self, step: StageStep) -> Entry:
        """What stands of a step."""
        return self.files[step.stage].entry(step, self.code[step.key])


def wanted(step: StageStep, entry: Entry, retry: bool) -> bool:
    """Whether a call has something to do at the step."""
    if entry.state is State.FAILED:
        return retry or step.repeats_after_failure
    return entry.state is not State.DONE


def run(call: Call, steps: Sequence[StageStep]) -> list[StageStep]:
    """Do what fits, in order; the steps that are left, each not begun or cut.

    Raises KeyboardInterrupt with everything saved.
    """
    left = []
    for step in steps:
        entry = call.entry(step)
        if not wanted(step, entry, call.retry):
            continue
        remaining = call.until_s - time.monotonic()
        if entry.needed_s(step) > remaining:
            call.reporter.say(
                f"{step.key}: not begun, needs {entry.needed_s(step):.0f} s and "
                f"{max(0.0, remaining):.0f} s are left"
            )
            left.append(step)
            continue
        call.reporter.stage(f"stage {int(step.stage)}: {step.key}")
        try:
            _do(call, step, entry)
        except MissingBackendError as error:  # the device is gone for good; what was saved stands
            call.reporter.say(f"{step.key}: {error.message}")
            return left + [s for s in steps[steps.index(step) :] if _open(call, s)]
        call.left_files()
        call.reporter.say(f"{step.key}: {entry.state}, {entry.main_figure}")
        call.reporter.step()
        if entry.state is State.CUT:
            left.append(step)
    return left


def _open(call: Call, step: StageStep) -> bool:
    return step.key not in call.tried and wanted(step, call.entry(step), call.retry)


def _do(call: Call, step: StageStep, entry: Entry) -> None:
    file = call.files[step.stage]
    file.begin(step, entry)
    if entry.state is State.FAILED:
        entry.forget_failures()
    call.tried.add(step.key)
    entry.state, entry.card = State.CUT, call.card  # until it is known to have ended
    entry.begun = entry.begun or datetime.now(UTC).isoformat(timespec="seconds")
    entry.cut = None
    file.save()
    begun, before = time.monotonic(), entry.seconds
    try:
        entry.state = _ask_until_done(call, step, entry)
    except MissingBackendError as error:
        entry.parts[BETWEEN] = {"error": error.message}
        entry.state = State.FAILED
        raise
    finally:
        entry.seconds = round(before + time.monotonic() - begun, 3)
        file.save()


def _ask_until_done(call: Call, step: StageStep, entry: Entry) -> State:
    """Ask for the parts that are missing, in a new process after one that a part has ended."""
    file = call.files[step.stage]
    worker = call.worker_of(step)

    since = time.monotonic()

    def told(name: str, figures: Any) -> None:
        nonlocal since
        entry.parts[name] = figures
        file.save()
        since = time.monotonic()

    for _ in range(1 + MOST_NEW_PROCESSES):
        request = {
            "work": step.work, "parameters": dict(step.parameters), "have": list(entry.parts),
            "broke": list(entry.broke), "folder": str(call.folder), "until_s": call.until_s,
        }  # fmt: skip
        since = time.monotonic()
        answer = worker.ask(request, step.limit_s, call.until_s, told)
        if answer.ended == "done":
            return State.FAILED if entry.failures else State.DONE
        if answer.ended == "budget":
            entry.cut = {"part": answer.step, "seconds": round(time.monotonic() - since, 3)}
            return State.CUT
        name = answer.step or BETWEEN
        error = dict(entry.parts.get(name, {})).get("error")
        entry.parts[name] = {"error": f"{error}; {answer.reason}" if error else answer.reason}
        again = name == BETWEEN or name in entry.broke
        entry.broke.append(name)
        file.save()
        call.reporter.say(f"{step.key}, {name}: {entry.parts[name]['error']}")
        if again:
            break
    return State.FAILED
