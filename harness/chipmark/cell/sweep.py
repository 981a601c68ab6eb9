"""The capacity scenario: the most sessions at which enough turns meet the objective."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from chipmark.cell.measure import MeasuredCell
from chipmark.engine.events import load_events
from chipmark.meters.contract import Meter
from chipmark.meters.replay import load_samples
from chipmark.metrics.energy import window_energy
from chipmark.metrics.events import view
from chipmark.metrics.latency import completed_sessions, slo_attainment
from chipmark.metrics.rawcell import SloLimits
from chipmark.results.manifest import Note, Slo, SweepPoint


def find_capacity(
    measure: Callable[[int], SweepPoint], largest: int, share: float
) -> tuple[int, tuple[SweepPoint, ...]]:
    """Double N until a point misses or `largest` is reached, then halve the interval between.

    Returns the largest N that met the share (0: not even one session) and every point measured,
    by N. A point without turns counts as missed.
    """
    points: dict[int, SweepPoint] = {}

    def meets(n: int) -> bool:
        points[n] = measure(n)
        attained = points[n].slo_attainment
        return attained is not None and attained >= share

    good, bad, n = 0, largest + 1, 1
    while n <= largest:
        if not meets(n):
            bad = n
            break
        good = n
        n = min(2 * n, largest) if n < largest else largest + 1
    while bad - good > 1 and good > 0:
        middle = (good + bad) // 2
        if meets(middle):
            good = middle
        else:
            bad = middle
    return good, tuple(points[n] for n in sorted(points))


def sweep(cell: MeasuredCell) -> None:
    """Find N* of a cell in the capacity scenario and leave it in `cell.concurrency`.

    Where not even one session meets the objective the cell is measured at N = 1 and says so.
    """
    inputs = cell.inputs

    def measure(n: int) -> SweepPoint:
        events = cell.folder / f"sweep-{n}.npz"
        power = cell.folder / f"sweep-{n}-power.npz"
        cell.timed_run(cell.run_arguments(events, n), power)
        return sweep_point(events, power, n, inputs.slo, inputs.meter)

    largest = min(inputs.plan.concurrency, len(inputs.trace.sessions))
    best, points = find_capacity(measure, largest, inputs.slo.share)
    assert cell.child is not None
    cell.child.park()
    cell.sweep = list(points)
    cell.concurrency = max(1, best)
    if best == 0:
        text = f"not one session meets {inputs.slo.name} on {inputs.slo.share:.0%} of its turns"
        cell.notes.append(Note(code="cell", text=f"{text}; measured at one"))
    elif best == largest:
        text = f"the sweep ended at {best} sessions, which still meet {inputs.slo.name}"
        more = "--concurrency" if largest == inputs.plan.concurrency else "--sessions"
        cell.notes.append(Note(code="cell", text=f"{text}; {more} sets its end"))


def sweep_point(events: Path, power: Path, n: int, slo: Slo, meter: Meter | None) -> SweepPoint:
    """SLO attainment, sessions per hour and mean power of one N, from its raw files."""
    seen = view(load_events(events))
    limits = SloLimits(slo.ttft_append_s, slo.ttft_cold_s, slo.tpot_s)
    window = seen.window_s
    samples = load_samples(power) if power.is_file() else None
    info = None if meter is None else meter.info
    energy = window_energy(samples, info, seen.start_s, seen.end_s).energy_j
    return SweepPoint(
        concurrency=n,
        slo_attainment=slo_attainment(seen, limits, "capacity").value,
        turns=len(seen.tables["turns"]["status"]),
        sessions_per_hour=3600.0 * completed_sessions(seen) / window if window > 0 else None,
        power_w=energy / window if energy is not None and window > 0 else None,
    )
