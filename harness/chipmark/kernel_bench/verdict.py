"""The verdicts of a document: each case, its time, its share of the roof, its targets and peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from chipmark.kernel_bench.document import Document, Row, failed
from chipmark.kernel_bench.figures import derive
from chipmark.kernel_bench.selection import Peers
from chipmark.kernel_bench.targets import MOST_OF_ROOF, Target, TargetJudgement, judge

State = Literal["failed", "missed", "met", "not judged"]
_COLOUR = {"failed": "bold red", "missed": "red", "met": "green", "not judged": "yellow"}


@dataclass(frozen=True, slots=True)
class CaseVerdict:
    """One row. time_s, fraction_of_roof, time_of_best_peer: None where not measured."""

    kernel: str
    case: str
    state: State
    time_s: float | None
    fraction_of_roof: float | None
    best_peer: str | None
    time_of_best_peer: float | None
    judgements: tuple[TargetJudgement, ...]
    problem: str
    remarks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """With plain values only."""
        return {
            "kernel": self.kernel, "case": self.case, "state": self.state, "time_s": self.time_s,
            "fraction_of_roof": self.fraction_of_roof, "best_peer": self.best_peer,
            "time_of_best_peer": self.time_of_best_peer, "problem": self.problem,
            "targets": [j.as_json() for j in self.judgements], "remarks": list(self.remarks),
        }  # fmt: skip


def verdicts(document: Document, targets: Sequence[Target]) -> list[CaseVerdict]:
    """A verdict a row, judged anew by `targets`."""
    return [_verdict(row, document["roofs"], targets) for row in document["rows"]]


def _verdict(row: Row, roofs: Mapping[str, Any], targets: Sequence[Target]) -> CaseVerdict:
    time = row.get("time") or {}
    row = dict(row)
    derive(row, roofs.get(str(time.get("uuid", ""))))
    problem = failed(row)
    judged = tuple(judge(row, targets))
    states = [j.state for j in judged]
    state: State = "not judged"
    if problem:
        state = "failed"
    elif "missed" in states:
        state = "missed"
    elif "met" in states:
        state = "met"
    return CaseVerdict(
        row["kernel"], row["case"], state, (time.get("ours") or {}).get("median_s"),
        row.get("fraction_of_roof"), row.get("best_peer"), row.get("time_of_best_peer"), judged,
        problem, tuple(_remarks(row, time)),
    )  # fmt: skip


def _remarks(row: Row, time: Mapping[str, Any]) -> list[str]:
    said = []
    if row.get("parity", {}).get("ok") and not time.get("done"):
        said.append("not timed to the end yet")
    if time.get("done") == Peers.NONE:
        said.append("not timed next to its peers yet")
    if time.get("ours") and not time.get("cold_l2"):
        said.append("inputs lie in the L2")
    if (row.get("fraction_of_roof") or 0.0) > MOST_OF_ROOF:
        said.append("over the roof: one of the two is measured wrong")
    if row.get("throttled"):
        said.append(f"throttled: {', '.join(row['throttled'])}")
    for name, peer in time.get("peers", {}).items():
        if "differs" in peer:
            said.append(f"{name} computes something else: {peer['differs']}")
        elif "error" in peer:
            said.append(f"{name}: {peer['error']}")
    return said


def exit_code(found: Sequence[CaseVerdict], left: int) -> int:
    """3 nothing measured, or cases are left; 1 a kernel failed or missed a target; else 0."""
    if left or not any(v.time_s is not None or v.problem for v in found):
        return 3
    return 1 if any(v.state in ("failed", "missed") for v in found) else 0


def print_verdicts(document: Document, found: Sequence[CaseVerdict], console: Console) -> None:
    """The table, remarks on its rows, and a last line of counts."""
    identity = document["identity"]
    table = Table(
        title=f"{identity.get('device')}, torch {identity.get('torch')}, "
        f"Triton {identity.get('triton')}",
        title_justify="left",
    )
    for name in ("kernel", "case"):
        table.add_column(name, overflow="fold")
    for name in ("time", "of roof"):
        table.add_column(name, justify="right")
    table.add_column("target", overflow="fold")
    table.add_column("verdict")
    table.add_column("best peer")
    table.add_column("ours / peer", justify="right")
    for v in found:
        own = [j for j in v.judgements if j.target.metric != "time_of_best_peer"]
        ratio = f"{v.time_of_best_peer:.2f}" if v.time_of_best_peer is not None else "-"
        table.add_row(
            v.kernel, v.case, _microseconds(v.time_s),
            f"{v.fraction_of_roof:.0%}" if v.fraction_of_roof is not None else "-",
            ", ".join(j.target.text() for j in own) or "-",
            f"[{_COLOUR[v.state]}]{v.state}{_beside(v)}[/]", v.best_peer or "-", ratio,
        )  # fmt: skip
    console.print(table)
    for text, cases in _reasons(found).items():
        shown = ", ".join(cases[:4]) + (f" and {len(cases) - 4} more" if len(cases) > 4 else "")
        console.print(f"{text}: {shown}", markup=False, soft_wrap=True)
    counts = {s: sum(v.state == s for v in found) for s in ("met", "missed", "failed")}
    judged = sum(counts.values())
    console.print(
        f"{len(found)} cases: {counts['met']} met, {counts['missed']} missed, "
        f"{counts['failed']} failed, {len(found) - judged} not judged"
    )


def _beside(v: CaseVerdict) -> str:
    """Says that a row missed no target but the one against its peers."""
    missed = {j.target.metric for j in v.judgements if j.state == "missed"}
    return " (peer)" if v.state == "missed" and missed == {"time_of_best_peer"} else ""


def _reasons(found: Sequence[CaseVerdict]) -> dict[str, list[str]]:
    """Each remark once, with the cases of which it is true."""
    said: dict[str, list[str]] = {}
    for v in found:
        missed = [
            f"missed {j.target.text()} ({j.target.name})"
            for j in v.judgements
            if j.state == "missed"
        ]
        unjudged = [
            f"not judged, {j.reason}"
            for j in v.judgements
            if j.state == "not judged" and j.reason not in ("failed", "not timed yet", *v.remarks)
        ]
        for text in (*([v.problem] if v.problem else []), *missed, *unjudged, *v.remarks):
            said.setdefault(text, []).append(f"{v.kernel} {v.case}")
    return said


def _microseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:.2f} us"
