"""First the parity of every case, then the times of those that pass; each resumes where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from chipmark.kernel_bench.document import Document, Row, failed
from chipmark.kernel_bench.figures import derive
from chipmark.kernel_bench.supervisor import Answer
from chipmark.kernel_bench.targets import Target, judge

LEAST_S = 5.0
"""A case is not begun with less time left: it would only be cut."""


class Case(Protocol):
    """What a row needs of a case; `kernel_bench.case.Case` has it, and an operator's."""

    @property
    def kernel(self) -> str:
        """Of the kernel or operator."""

    @property
    def name(self) -> str:
        """Sizes as `key=value`."""

    @property
    def bound(self) -> str:
        """Which roof limits it: memory, matrix, roofline or latency."""

    @property
    def rate(self) -> str:
        """Of which matrix rate."""

    @property
    def bytes(self) -> int:
        """Necessary bytes of a call."""

    @property
    def flops(self) -> int:
        """Necessary FLOPs of a call."""

    @property
    def size(self) -> dict[str, int]:
        """The sizes in the name."""

    @property
    def peers(self) -> Mapping[str, object]:
        """What else computes it, by name."""


class Asker(Protocol):
    """A worker, or a fake one in tests."""

    def ask(self, request: Mapping[str, Any], step_s: float, until_s: float) -> Answer:
        """As `supervise.Worker.ask`."""


class Reporter(Protocol):
    """Who hears of it; `chipmark.terminal.console.ConsoleReporter` is one."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def stage(self, text: str) -> None:
        """What is being done now."""

    def step(self) -> None:
        """One case is done."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the command. uuid: of the card. between: NVML samples of a span of
    `time.monotonic`. save: writes the document whole. until_s: when the call must end. targets:
    what rows are judged by."""

    worker: Asker
    document: Document
    save: Callable[[], None]
    reporter: Reporter
    between: Callable[[float, float], list[dict[str, Any]]]
    uuid: str
    step_s: float
    until_s: float
    compiled: bool = True
    targets: Sequence[Target] = ()

    def over(self) -> bool:
        """Whether there is no time for another case."""
        return time.monotonic() > self.until_s - LEAST_S


def row_of(document: Document, case: Case) -> Row:
    """The case's row, made where it is missing."""
    rows: list[Row] = document["rows"]
    for row in rows:
        if (row["kernel"], row["case"]) == (case.kernel, case.name):
            return row
    row = {
        "kernel": case.kernel, "case": case.name, "bound": case.bound, "rate": case.rate,
        "bytes": case.bytes, "flops": case.flops, "size": case.size,
    }  # fmt: skip
    rows.append(row)
    return row


def without_parity(document: Document, wanted: Sequence[Case]) -> list[Case]:
    """Cases whose parity is not known yet."""
    known = {(r["kernel"], r["case"]) for r in document["rows"] if "parity" in r}
    return [case for case in wanted if (case.kernel, case.name) not in known]


def without_time(document: Document, wanted: Sequence[Case], compiled: bool) -> list[Case]:
    """Cases that passed and are not timed to the end; `compiled`: torch.compile is wanted too."""
    rows = {(r["kernel"], r["case"]): r for r in document["rows"]}

    def open_(case: Case) -> bool:
        row = rows.get((case.kernel, case.name), {})
        if not row.get("parity", {}).get("ok"):
            return False
        timed = row.get("time", {})
        return not timed.get("complete") or bool(compiled and timed.get("left_out"))

    return [case for case in wanted if open_(case)]


def fill_parity(call: Call, wanted: Sequence[Case]) -> str:
    """Parity of the cases that have none; "" or the case at which the time was over."""
    for case in without_parity(call.document, wanted):
        name = f"parity of {case.kernel} {case.name}"
        if call.over():
            return name
        call.reporter.stage(name)
        request = {"do": "parity", "case": (case.kernel, case.name)}
        answer = call.worker.ask(request, call.step_s, call.until_s)
        if answer.ended == "budget":
            return name
        row = row_of(call.document, case)
        row["parity"] = {"ok": False} | answer.parts.get("parity", {"error": answer.reason})
        call.save()
        if problem := failed(row):
            call.reporter.say(f"{case.kernel} {case.name}: {problem}")
        call.reporter.step()
    return ""


def fill_roofs(call: Call) -> str:
    """The roofs of this very card where they are missing; "" or what was cut."""
    if call.uuid in call.document["roofs"]:
        return ""
    call.reporter.stage("roofs")
    answer = call.worker.ask({"do": "roofs"}, call.step_s, call.until_s)
    if answer.ended == "budget":
        return "roofs"
    roofs: dict[str, Any] = {}
    for name, part in answer.parts.items():
        roofs |= {f"{name}_error": part["error"]} if "error" in part else part
    if answer.ended != "done":
        roofs[f"{answer.step}_error"] = answer.reason
    call.document["roofs"][call.uuid] = roofs
    call.save()
    return ""


def fill_times(call: Call, wanted: Sequence[Case]) -> str:
    """Times of the cases that pass and have none; "" or the case at which the time was over."""
    for case in without_time(call.document, wanted, call.compiled):
        name = f"{case.kernel} {case.name}"
        if call.over():
            return name
        call.reporter.stage(name)
        row = row_of(call.document, case)
        begun = time.monotonic()
        cut = _time_one(call, case, row)
        _watched(call, row, begun)
        finish(row, call.document, call.targets)
        call.save()
        if cut:
            return f"{name} ({cut})"
        ours = row["time"].get("ours", {})
        state = failed(row) or f"{ours['median_s']:.3e} s"
        call.reporter.say(f"{case.kernel:<22}{case.name:<40}{state}")
        call.reporter.step()
    return ""


def finish(row: Row, document: Document, targets: Sequence[Target]) -> None:
    """What follows from a row's times: rates, the fraction of its card's roof, its targets."""
    derive(row, document["roofs"].get(row.get("time", {}).get("uuid", "")))
    row["targets"] = [judged.as_json() for judged in judge(row, targets)]


def _time_one(call: Call, case: Case, row: Row) -> str:
    """Ask until the case is done; "" or the step that the end of the call's time cut."""
    timed = row.setdefault("time", {"complete": False, "peers": {}})
    timed["uuid"] = call.uuid
    while True:
        have = [f"peer {name}" for name in timed["peers"]] + ["ours"] * ("ours" in timed)
        request = {"do": "time", "case": (case.kernel, case.name), "have": have}
        answer = call.worker.ask(request, call.step_s, call.until_s)
        for step, part in answer.parts.items():
            _merge(timed, step, part)
        if answer.ended == "budget":
            return answer.step or "start"
        if answer.ended in ("late", "died"):
            _merge(timed, answer.step, {"error": answer.reason})
        if answer.ended == "done" or not answer.step.startswith("peer "):
            break
    timed["complete"] = True
    left_out = [] if call.compiled else [n for n in case.peers if n == "torch.compile"]
    timed["left_out"] = [n for n in left_out if n not in timed["peers"]]
    return ""


def _merge(timed: dict[str, Any], step: str, part: Mapping[str, Any]) -> None:
    if step == "ours":
        timed["ours"] = dict(part)
    elif step.startswith("peer "):
        timed["peers"][step.removeprefix("peer ")] = dict(part)
    elif "error" in part:
        timed["error"] = f"{step}: {part['error']}"
    else:
        timed.update(part)


def _watched(call: Call, row: Row, begun: float) -> None:
    """Samples of the whole case, and the throttle reasons while ours was timed."""
    row.setdefault("watch", []).extend(call.between(begun, time.monotonic()))
    ours = row["time"].get("ours", {})
    if "from_s" in ours:
        during = [s for s in row["watch"] if ours["from_s"] <= s["at_s"] <= ours["to_s"]]
        row["watched_samples"] = len(during)
        told = [s["throttle"] for s in during if s["throttle"] is not None]
        if told:  # where the card says nothing, nothing is known
            row["throttled"] = sorted({reason for reasons in told for reason in reasons})
