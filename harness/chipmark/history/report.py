"""A look back in words, as JSON, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console

from chipmark.foreign_text import console_text, csv_text
from chipmark.gate.findings import finite
from chipmark.gate.outputs.numbers import signed
from chipmark.gate.thresholds import Thresholds
from chipmark.gate.unpaired_effect import shift
from chipmark.gate.verdict import Estimate, exceeds
from chipmark.history.changes import Change, Drift, History
from chipmark.history.observations import Key, Observation, Series
from chipmark.table.listing import name, show, words

FORMATS = ("rich", "json", "csv")


@dataclass(frozen=True, slots=True)
class Worse:
    """A series whose latest state is worse. effect, low, high: ln, above zero is worse."""

    series: Series
    effect: float
    low: float
    high: float


def regressed(history: History, thresholds: Thresholds) -> list[Worse]:
    """What is worse now beyond the gate's margins: the level since the last step against the best
    level before, or a drift."""
    steps: dict[Key, list[Change]] = {}
    for change in history.changes:
        steps.setdefault(change.series.key, []).append(change)
    found = []
    for series in history.judged:
        if series.key in steps:
            values = [o.value for o in series.points]
            levels = np.split(np.log(values), [change.at for change in steps[series.key]])
            best = min(levels[:-1], key=lambda level: series.sign * float(np.median(level)))
            found.append((series, shift(best, levels[-1]), float(np.exp(np.median(best)))))
    for drift in history.drifts:
        n = len(drift.series.points)
        estimate = Estimate(drift.effect, drift.low, drift.high, n, "runs")
        found.append((drift.series, estimate, drift.series.points[0].value))
    worse = []
    for series, estimate, scale in found:
        benchmark, metric = series.key[2:]
        if series.sign < 0:
            low, high = -estimate.high, -estimate.low
            estimate = replace(estimate, effect=-estimate.effect, low=low, high=high)
        gated = not thresholds.not_gated(benchmark, metric)
        if gated and exceeds(estimate, thresholds.margins(benchmark, metric), scale, 1):
            worse.append(Worse(series, estimate.effect, estimate.low, estimate.high))
    return worse


def where(o: Observation) -> str:
    """A run for people: its day and commit."""
    return f"{o.created[:16]}{' ' + o.commit[:10] if o.commit else ''}"


def print_history(history: History, worse: Sequence[Worse], console: Console) -> None:
    """A line a finding, worst news first, and what could not be decided."""
    rows = []
    items: list[Change | Drift] = [*history.changes, *history.drifts]
    items.sort(key=lambda item: (not item.worse, -abs(item.effect)))
    for item in items:
        mark = "worse" if item.worse else "better"
        first, last = item.series.points[0], item.series.points[-1]
        what, ends = f"{mark} step", (first, last)
        if isinstance(item, Change):
            ends = (item.before, item.after)
        else:
            what = f"{mark} drift over {item.days:.0f} days"
        size = f"{signed(item.effect)} ({signed(item.low)} to {signed(item.high)})"
        rows.append([*item.series.key[2:], what, size, where(ends[0]), where(ends[1])])
    if items:
        heads = ("size (95 %)", "between", "and")
        columns = [name("benchmark"), name("metric"), words("what"), *map(words, heads)]
        styles = {r"\bworse(?= step| drift)": "red", r"\bbetter(?= step| drift)": "green"}
        show(console, columns, rows, lead=2, styles=styles)
    runs = {o.run for s in (*history.judged, *history.short) for o in s.points}
    console.print(
        f"{len(runs)} runs, {len(history.judged)} series: {len(history.changes)} changes, "
        f"{len(history.drifts)} drifts; {len(worse)} worse now"
    )
    for now in worse:
        size = f"{signed(now.effect)} ({signed(now.low)} to {signed(now.high)})"
        line = f"[red]worse now[/]: {console_text(now.series.name)} by {size}"
        console.print(line, soft_wrap=True)
    if history.short:
        console.print(
            f"{len(history.short)} series of under {history.least_runs} runs tell nothing yet: "
            + ", ".join(console_text(s.name) for s in history.short[:3])
            + (", .." if len(history.short) > 3 else ""),
            soft_wrap=True,
        )


def as_json(history: History, worse: Sequence[Worse], notes: Sequence[str]) -> dict[str, Any]:
    """Everything: series with their values, changes, drifts, notes."""
    return {
        "schema": "chipmark.history_report/1",
        "least_runs": history.least_runs,
        "worse": [
            {
                **_series_name(w.series), "effect_ln": w.effect, "low_ln": finite(w.low),
                "high_ln": finite(w.high),
            }
            for w in worse
        ],
        "changes": [
            {
                **_series_name(c.series), "effect_ln": c.effect, "low_ln": finite(c.low),
                "high_ln": finite(c.high), "worse": c.worse, "p": c.p,
                "last_run_before": _run(c.before), "first_run_after": _run(c.after),
            }
            for c in history.changes
        ],
        "drifts": [
            {
                **_series_name(d.series), "effect_ln": d.effect, "low_ln": d.low,
                "high_ln": d.high, "worse": d.worse, "days": d.days, "p": d.p,
            }
            for d in history.drifts
        ],
        "series": [
            {
                **_series_name(s), "unit": s.points[0].unit, "direction": s.points[0].direction,
                "judged": len(s.points) >= history.least_runs,
                "runs": [_run(o) | {"value": o.value, "samples": o.samples} for o in s.points],
            }
            for s in (*history.judged, *history.short)
        ],
        "notes": list(notes),
    }  # fmt: skip


def as_csv(series: Sequence[Series]) -> str:
    """A line an observation, in the order of time."""
    out = io.StringIO()
    names = ("machine", "benchmark", "metric", "unit", "created", "commit", "run", "value")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for s in series:
        for o in s.points:
            values = [getattr(o, name) for name in names]
            writer.writerow([csv_text(v) if isinstance(v, str) else str(v) for v in values])
    return out.getvalue()


def _series_name(s: Series) -> dict[str, str]:
    machine, work, benchmark, metric = s.key
    return {"machine": machine, "work": work, "benchmark": benchmark, "metric": metric}


def _run(o: Observation) -> dict[str, Any]:
    return {"run": o.run, "created": o.created, "commit": o.commit}
