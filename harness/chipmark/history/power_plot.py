"""Power of records over time as one picture, a panel a repeat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chipmark.history.plot import MOST_PANELS
from chipmark.metrics.energy_timeline import PhaseMark, PowerTimeline
from chipmark_models.files import whole_file

F64 = NDArray[np.float64]

_BINS = 1000
"""Of W in a picture: nothing finer can be seen, and a file of every launch cannot be opened."""

_COLOURS = {
    "prefill_cold": "tab:red", "prefill_append": "tab:orange", "prefill_refill": "tab:brown",
    "decode": "tab:blue", "mixed": "tab:purple", "kv": "tab:green",
}  # fmt: skip
_LINES = ("black", "tab:cyan", "tab:pink", "tab:olive", "tab:gray")
"""Of meters, none of them a phase's colour."""


def plot_power(lines: Sequence[tuple[str, PowerTimeline]], path: Path) -> int:
    """Draw timelines, each with a title: watts of every meter, phases shaded, idle power dashed,
    gaps left open. The number of panels drawn, at most MOST_PANELS."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = lines[:MOST_PANELS]
    figure = Figure(figsize=(10, 2.6 * max(len(shown), 1)), layout="constrained")
    for number, (title, line) in enumerate(shown, 1):
        axes = figure.add_subplot(len(shown), 1, number)
        handles: list[Line2D | Patch] = []
        for phase, spans in shaded(line.phases, line.window_s).items():
            colour = _COLOURS.get(phase, "tab:gray")
            axes.broken_barh(
                spans, (0, 1), transform=axes.get_xaxis_transform(), color=colour, alpha=0.18,
                linewidth=0,
            )  # fmt: skip
            handles.append(Patch(color=colour, alpha=0.3, label=phase))
        for rank, series in enumerate(line.series):
            time_s, power_w = thinned(series.time_s, series.power_w)
            handles += axes.plot(
                time_s, power_w, linewidth=0.8, label=series.meter, color=_LINES[rank % len(_LINES)]
            )
        if line.idle_w is not None:
            low, high = line.idle_w
            axes.axhline(low, color="black", linestyle="--", linewidth=0.7)
            if high > low:
                axes.axhspan(low, high, color="black", alpha=0.1, linewidth=0)
            handles.append(Line2D([], [], color="black", linestyle="--", label="idle"))
        axes.set_xlim(0, line.window_s)
        axes.set_ylim(0, 1.25 * _most_w(line))
        axes.set_title(title, fontsize=8, loc="left", parse_math=False)
        axes.set_ylabel("power in watts", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(handles=handles, fontsize=6, loc="upper right", ncols=len(handles) or 1)
        if number == len(shown):
            axes.set_xlabel("seconds since the measured window began", fontsize=8)
    form = path.suffix.removeprefix(".")
    with whole_file(path) as partial:
        figure.savefig(
            partial, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None
        )
    return len(shown)


def _most_w(line: PowerTimeline) -> float:
    """The highest reading of any meter in W, or 1 W where there is none above 0."""
    found = [1.0]
    for series in line.series:
        inside = (series.time_s >= 0) & (series.time_s <= line.window_s)
        found += series.power_w[inside & np.isfinite(series.power_w)].tolist()
    return max(found)


def shaded(marks: Sequence[PhaseMark], window_s: float) -> dict[str, list[tuple[float, float]]]:
    """(start, length) of stretches by phase, in which it took the most of each 1,000th of W and
    more than the device stood idle."""
    if window_s <= 0:
        return {}
    edges = np.linspace(0, window_s, _BINS + 1)
    names = list(dict.fromkeys(mark.phase for mark in marks))
    taken = np.zeros((len(names) + 1, _BINS))
    for row, name in enumerate(names, 1):
        mine = [mark for mark in marks if mark.phase == name]
        start, end = (np.array([getattr(m, e) for m in mine]) for e in ("start_s", "end_s"))
        whole = np.concatenate(([0.0], np.cumsum(end - start)))
        at = np.searchsorted(start, edges, side="right")
        before = np.maximum(at - 1, 0)
        inside = np.clip(edges - start[before], 0.0, (end - start)[before])
        taken[row] = np.diff(np.where(at > 0, whole[before] + inside, 0.0))
    taken[0] = np.maximum(np.diff(edges) - taken.sum(axis=0), 0.0)
    most = taken.argmax(axis=0)
    first = np.flatnonzero(np.concatenate(([True], np.diff(most) != 0)))
    last = np.append(first[1:], _BINS)
    found: dict[str, list[tuple[float, float]]] = {}
    for a, b in zip(first.tolist(), last.tolist(), strict=True):
        if most[a]:
            span = (float(edges[a]), float(edges[b] - edges[a]))
            found.setdefault(names[most[a] - 1], []).append(span)
    return found


def thinned(time_s: F64, power_w: F64, most: int = 4 * _BINS) -> tuple[F64, F64]:
    """At most about so many points: of each group of neighbours the lowest and the highest, and a
    gap where the group has one."""
    if len(time_s) <= most:
        return time_s, power_w
    size = -(-2 * len(time_s) // most)
    starts = np.arange(0, len(time_s), size)
    low, high = np.minimum.reduceat(power_w, starts), np.maximum.reduceat(power_w, starts)
    return np.repeat(time_s[starts], 2), np.stack((low, high), axis=1).ravel()
