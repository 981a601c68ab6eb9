"""Case by case: parity, and at once the time of what passes, with its peers; resumes where it was.

A call that is cut has whole rows of the cases that it came to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from chipmark.kernel_bench.document import Codes, Document, Row, failed
from chipmark.kernel_bench.figures import derive
from chipmark.kernel_bench.selection import COMPILED, Peers
from chipmark.kernel_bench.supervisor import Answer
from chipmark.kernel_bench.targets import Target, judge

LEAST_S = 5.0
"""A case is not begun with less time left: it would only be cut."""

PEER = "peer "
"""What a step that times a peer begins with."""


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
    `time.monotonic`. save: writes the document whole. until_s: when the call must end. codes: of
    the sources of rows and roofs. targets: what rows are judged by."""

    worker: Asker
    document: Document
    save: Callable[[], None]
    reporter: Reporter
    between: Callable[[float, float], list[dict[str, Any]]]
    uuid: str
    step_s: float
    until_s: float
    codes: Codes
    targets: Sequence[Target] = ()

    def over(self) -> bool:
        """Whether there is no time for another case."""
        return time.monotonic() > self.until_s - LEAST_S


def row_of(call: Call, case: Case) -> Row:
    """The case's row, made where it is missing."""
    rows: list[Row] = call.document["rows"]
    for row in rows:
        if (row["kernel"], row["case"]) == (case.kernel, case.name):
            return row
    row = {
        "kernel": case.kernel, "case": case.name, "bound": case.bound, "rate": case.rate,
        "bytes": case.bytes, "flops": case.flops, "size": case.size,
        "code": call.codes.rows[case.kernel, case.name],
    }  # fmt: skip
    rows.append(row)
    return row


def known(document: Document, case: Case) -> bool:
    """Whether the document has a row of the case."""
    return any((r["kernel"], r["case"]) == (case.kernel, case.name) for r in document["rows"])


def open_cases(document: Document, wanted: Sequence[Case], peers: Peers) -> list[Case]:
    """Cases of which parity, our time or that of these peers is not known yet."""
    rows = {(r["kernel"], r["case"]): r for r in document["rows"]}

    def open_(case: Case) -> bool:
        row = rows.get((case.kernel, case.name), {})
        if "parity" not in row:
            return True
        if failed(row) or not row["parity"].get("ok"):
            return False
        compiles = peers is not Peers.ALL or COMPILED in case.peers
        needed = peers if compiles else Peers.EAGER
        return not needed.done_by(row.get("time", {}).get("done", ""))

    return [case for case in wanted if open_(case)]


def fill_roofs(call: Call) -> str:
    """The roofs of this very card where they are missing; "" or what was cut."""
    if call.uuid in call.document["roofs"]:
        return ""
    call.reporter.stage("roofs")
    answer = call.worker.ask({"do": "roofs"}, call.step_s, call.until_s)
    if answer.ended == "budget":
        return "roofs"
    roofs: dict[str, Any] = {"code": call.codes.roofs}
    for name, part in answer.parts.items():
        roofs |= {f"{name}_error": part["error"]} if "error" in part else part
    if answer.ended != "done":
        roofs[f"{answer.step}_error"] = answer.reason
    call.document["roofs"][call.uuid] = roofs
    call.save()
    return ""


def fill(call: Call, wanted: Sequence[Case], peers: Peers) -> str:
    """All of the cases that is not known yet; "" or the case at which the time was over."""
    for case in open_cases(call.document, wanted, peers):
        if call.over():
            return f"{case.kernel} {case.name}"
        call.reporter.stage(f"{case.kernel} {case.name}")
        if cut := measure(call, case, peers):
            return f"{case.kernel} {case.name} ({cut})"
        call.reporter.step()
    return ""


def measure(call: Call, case: Case, peers: Peers) -> str:
    """One case, saved and reported; "" or the step that the end of the call's time cut."""
    begun = time.monotonic()
    cut = _asked_to_the_end(call, case, peers)
    found = [
        r for r in call.document["rows"] if (r["kernel"], r["case"]) == (case.kernel, case.name)
    ]
    if not found:  # cut before its first figure
        return cut
    row = found[0]
    if "time" in row:
        _watched(call, row, begun)
        finish(row, call.document, call.targets)
    call.save()
    ours = (row.get("time") or {}).get("ours", {})
    state = failed(row) or ("median_s" in ours and f"{ours['median_s']:.3e} s")
    if state and not cut:
        call.reporter.say(f"{case.kernel:<22}{case.name:<40}{state}")
    return cut


def finish(row: Row, document: Document, targets: Sequence[Target]) -> None:
    """What follows from a row's times: rates, the fraction of its card's roof, its targets."""
    derive(row, document["roofs"].get(row.get("time", {}).get("uuid", "")))
    row["targets"] = [judged.as_json() for judged in judge(row, targets)]


def _asked_to_the_end(call: Call, case: Case, peers: Peers) -> str:
    """Ask until the case is done, again behind a peer that took the process with it; "" or the step
    that the end of the call's time cut."""
    while True:
        have = _have(call.document, case)
        request = {
            "do": "measure", "case": (case.kernel, case.name), "have": have, "peers": peers.value,
        }  # fmt: skip
        answer = call.worker.ask(request, call.step_s, call.until_s)
        if answer.ended == "budget" and not answer.parts:
            return answer.step or "start"
        row = row_of(call, case)
        for step, part in answer.parts.items():
            _merge(call, row, step, part)
        if answer.ended == "budget":
            return answer.step or "start"
        if answer.ended != "done" and "error" not in answer.parts.get(answer.step, {}):
            _merge(call, row, answer.step, {"error": answer.reason})
        if answer.ended == "done" or not answer.step.startswith(PEER):
            break
    if row.get("parity", {}).get("ok"):
        row.setdefault("time", {"peers": {}})["done"] = peers.value
    return ""


def _have(document: Document, case: Case) -> list[str]:
    """Steps of a case whose figures its row has."""
    for row in document["rows"]:
        if (row["kernel"], row["case"]) == (case.kernel, case.name):
            timed = row.get("time", {})
            names = ["parity"] * ("parity" in row) + ["ours"] * ("ours" in timed)
            return names + [PEER + name for name in timed.get("peers", {})]
    return []


def _merge(call: Call, row: Row, step: str, part: Mapping[str, Any]) -> None:
    """A step's figures, or its error, into the row."""
    if step == "parity" or "parity" not in row:  # what fails before parity leaves nothing to time
        row["parity"] = {"ok": False} | dict(part)
        return
    timed = row.setdefault("time", {"peers": {}})
    timed["uuid"] = call.uuid
    if step == "ours":
        timed["ours"] = dict(part)
    elif step.startswith(PEER):
        timed["peers"][step.removeprefix(PEER)] = dict(part)
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
