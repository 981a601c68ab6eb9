"""Series as one picture, a panel each, with the changes marked."""

from __future__ import annotations

import datetime
from pathlib import Path

from chipmark.errors import MissingBackendError, UnknownNameError
from chipmark.gate.outputs.numbers import signed
from chipmark.history.changes import History
from chipmark_models.files import whole_file

FORMATS = (".svg", ".png", ".pdf")
MOST_PANELS = 24


def check_plot(path: Path) -> None:
    """Raise before anything is read: UnknownNameError for another ending, MissingBackendError
    without matplotlib."""
    import importlib.util

    if path.suffix not in FORMATS:
        raise UnknownNameError("plot format", path.suffix, FORMATS)
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingBackendError(
            "a plot needs matplotlib, which is not installed", "pip install 'chipmark[plot]'"
        )


def plot(history: History, path: Path) -> int:
    """Draw the series, those with news first; the number of panels drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    news = {c.series.key for c in history.changes} | {d.series.key for d in history.drifts}
    every = sorted((*history.judged, *history.short), key=lambda s: s.key not in news)
    shown = every[:MOST_PANELS]
    figure = Figure(figsize=(9, 2.2 * max(len(shown), 1)), layout="constrained")
    for number, series in enumerate(shown, 1):
        axes = figure.add_subplot(len(shown), 1, number)
        times = [datetime.datetime.fromisoformat(o.created) for o in series.points]
        axes.plot(times, [o.value for o in series.points], ".-", linewidth=0.8, markersize=4)  # type: ignore[arg-type]
        axes.set_title(series.name, fontsize=8, loc="left", parse_math=False)
        axes.set_ylabel(series.points[0].unit, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.margins(y=0.2)
        for change in history.changes:
            if change.series.key == series.key:
                colour = "tab:red" if change.worse else "tab:green"
                at = datetime.datetime.fromisoformat(change.after.created)
                axes.axvline(at, color=colour, linewidth=0.8)  # type: ignore[arg-type]
                axes.annotate(
                    signed(change.effect), (at, 0.9), xycoords=("data", "axes fraction"),
                    fontsize=7, color=colour,
                )  # fmt: skip
        for drift in history.drifts:
            if drift.series.key == series.key:
                axes.annotate(
                    f"drift {signed(drift.effect)}", (0.02, 0.85), xycoords="axes fraction",
                    fontsize=7, color="tab:red" if drift.worse else "tab:green",
                )  # fmt: skip
    form = path.suffix.removeprefix(".")
    with whole_file(path) as partial:
        figure.savefig(
            partial, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None
        )
    return len(shown)
