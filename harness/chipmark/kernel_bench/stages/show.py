"""What people see of the stages: the plan of the calls, and what a call left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chipmark.kernel_bench.stages.contract import Stage, StageStep
from chipmark.kernel_bench.stages.document import Entry, State
from chipmark.kernel_bench.stages.plan import START_S, calls_of
from chipmark.kernel_bench.stages.runner import wanted
from chipmark.terminal.progress import duration

TITLES = {
    Stage.RUNS: "does it run, what are the roofs, where does the time go",
    Stage.DESIGNS: "designs in the whole step, and tiles",
    Stage.RECORDS: "records of whole models",
}
UNVERIFIED = "estimates are by arithmetic for an H200, compiled kernels at hand"


@dataclass(frozen=True, slots=True)
class Planned:
    """A step of the plan. needed_s: None where nothing is left to do. call: from 1, None where it
    fits no call of the budget or nothing is left."""

    step: StageStep
    entry: Entry
    needed_s: float | None
    call: int | None

    def as_json(self) -> dict[str, Any]:
        """Flat."""
        return {
            "key": self.step.key, "stage": int(self.step.stage), "about": self.step.about,
            "estimate_s": self.step.estimate_s, "limit_s": self.step.limit_s,
            "state": str(self.entry.state), "needed_s": self.needed_s, "call": self.call,
        }  # fmt: skip


def planned(
    steps: Sequence[StageStep], entries: Sequence[Entry], budget_s: float, retry: bool
) -> list[Planned]:
    """Which call would do which step by the runner's rule."""
    needs = [
        entry.needed_s(step) if wanted(step, entry, retry) else None
        for step, entry in zip(steps, entries, strict=True)
    ]
    todo = [i for i, need in enumerate(needs) if need is not None]
    calls = calls_of([needs[i] or 0.0 for i in todo], budget_s)
    by_step = dict(zip(todo, calls, strict=True))
    return [
        Planned(step, entry, needs[i], by_step.get(i))
        for i, (step, entry) in enumerate(zip(steps, entries, strict=True))
    ]


def plan_json(plan: Sequence[Planned], budget_s: float) -> dict[str, Any]:
    """The whole plan."""
    return {
        "budget_s": budget_s, "start_s": START_S, "calls": _n_calls(plan),
        "needed_s": sum(p.needed_s or 0.0 for p in plan), "estimates": UNVERIFIED,
        "verified": "unverified on hardware", "steps": [p.as_json() for p in plan],
    }  # fmt: skip


def print_plan(plan: Sequence[Planned], budget_s: float, console: Console) -> None:
    """A table a stage, fit for 80 columns, and a last line of totals."""
    for stage in Stage:
        rows = [p for p in plan if p.step.stage is stage]
        if not rows:
            continue
        # Not the table's own title, which is wrapped where the table is narrow.
        console.print(f"[bold]stage {int(stage)}[/]: {TITLES[stage]}")
        table = Table()
        table.add_column("call", justify="right")
        for name in ("step", "what it tells"):
            table.add_column(name, overflow="fold")
        table.add_column("s", justify="right")
        table.add_column("state")
        for p in rows:
            call = "-" if p.needed_s is None else "none" if p.call is None else str(p.call)
            seconds = p.step.estimate_s if p.needed_s is None else p.needed_s
            table.add_row(
                call, escape(p.step.key), escape(p.step.about), f"{seconds:.0f}",
                str(p.entry.state),
            )  # fmt: skip
        done = sum(p.needed_s is None for p in rows)
        seconds = math.fsum(p.needed_s or 0.0 for p in rows)
        console.print(table)
        console.print(f"{done} of {len(rows)} ended, {duration(seconds)} are needed\n")
    total = math.fsum(p.needed_s or 0.0 for p in plan if p.call)
    over = [p.step.key for p in plan if p.needed_s is not None and p.call is None]
    calls = _n_calls(plan)
    console.print(
        f"{duration(total)} in {calls} call{'s' * (calls != 1)} of {budget_s:.0f} s, each with "
        f"{START_S:.0f} s to start\n{UNVERIFIED}: unverified on hardware"
    )
    if over:
        console.print(f"fits no call of {budget_s:.0f} s: {escape(', '.join(over))}")


def print_results(
    steps: Sequence[StageStep], entries: Sequence[Entry], title: str, console: Console
) -> None:
    """Step, state, main figure and seconds."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("step", overflow="fold")
    table.add_column("state")
    table.add_column("main figure", overflow="fold")
    table.add_column("s", justify="right")
    for step, entry in zip(steps, entries, strict=True):
        begun = entry.state is not State.OPEN
        table.add_row(
            escape(step.key), str(entry.state), escape(entry.main_figure) if begun else "",
            f"{entry.seconds:.0f}" if begun else "",
        )  # fmt: skip
    console.print(table)


def results_json(steps: Sequence[StageStep], entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """An object a step."""
    return [
        {
            "key": step.key, "stage": int(step.stage), "state": str(entry.state),
            "main_figure": entry.main_figure, "seconds": entry.seconds,
            "failures": entry.failures,
        }
        for step, entry in zip(steps, entries, strict=True)
    ]  # fmt: skip


def _n_calls(plan: Sequence[Planned]) -> int:
    return max((p.call or 0 for p in plan), default=0)
