"""The capacity scenario: the most sessions at which enough turns meet the objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chipmark.cell.measure import MeasuredCell
from chipmark.cell.repeat import run_request, timed_run
from chipmark.codes import NoteCode
from chipmark.engine.events import load_events
from chipmark.meters.contract import Meter
from chipmark.meters.replay import load_samples
from chipmark.metrics.attainment import attainment
from chipmark.metrics.energy import window_energy
from chipmark.metrics.events import view
from chipmark.metrics.latency import capacity_rate, completed_sessions
from chipmark.metrics.replicas import common_window, of_unit
from chipmark.results.manifest import CapacityResult, Note, Slo, SweepPoint
from chipmark.results.raw import slo_limits
from chipmark.workload.trace import Trace


@dataclass(frozen=True, slots=True)
class Tried:
    """A point of the sweep, and whether it meets the objective."""

    point: SweepPoint
    met: bool


@dataclass(frozen=True, slots=True)
class Capacity:
    """best: the largest N that met the objective, 0 where not even one session did. cut: the sweep
    ended at its own limit, which still met it. points: all that were measured, by N."""

    best: int
    cut: bool
    points: tuple[SweepPoint, ...]


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep found."""

    concurrency: int
    """N of the repeats: the best one, or 1 where not even one session met the objective."""
    capacity: CapacityResult
    points: tuple[SweepPoint, ...]
    notes: tuple[Note, ...]


def find_capacity(measure: Callable[[int], Tried], largest: int) -> Capacity:
    """Double N until a point misses or `largest` is reached, then halve the interval between."""
    points: dict[int, SweepPoint] = {}

    def meets(n: int) -> bool:
        tried = measure(n)
        points[n] = tried.point
        return tried.met

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
    return Capacity(good, good == largest, tuple(points[n] for n in sorted(points)))


def find_concurrency(cell: MeasuredCell) -> SweepResult:
    """Find N* of a cell in the capacity scenario, in steps of one session of each replica.

    Where not even one session meets the objective the cell is measured at N = 1 (of each replica),
    with a note.
    """
    inputs, replicas = cell.inputs, len(cell.backends)

    def measure(n: int) -> Tried:
        events = [cell.folder / f"{cell.name_of(f'sweep-{n}', r)}.npz" for r in range(replicas)]
        power = cell.folder / f"sweep-{n}-power.npz"
        timed_run(cell, [run_request(cell, path, n) for path in events], power)
        total = n * replicas
        meter = inputs.meters.meter
        return sweep_point(events, power, total, inputs.settings.slo, meter, inputs.trace)

    each = find_capacity(measure, cell.room.sequences)
    found = replace(each, best=each.best * replicas)
    for child in cell.children:
        child.park()
    return SweepResult(
        concurrency=max(replicas, found.best),
        capacity=CapacityResult(concurrency=found.best or None, cut=found.cut),
        points=found.points,
        notes=tuple(capacity_notes(found, inputs.settings.slo)),
    )


def capacity_notes(found: Capacity, slo: Slo) -> list[Note]:
    """What a row must say of how its sweep ended."""
    if not found.best:
        text = f"not one session meets {slo.name} on {slo.share:.0%} of its turns; measured at one"
        return [Note(code=NoteCode.SLO_NOT_MET, text=text)]
    if found.cut:
        text = f"the sweep ended at {found.best} sessions, which still meet {slo.name}"
        return [Note(code=NoteCode.CAPACITY_CUT, text=f"{text}; --concurrency sets its end")]
    return []


def sweep_point(
    events: Sequence[Path], power: Path, n: int, slo: Slo, meter: Meter | None, trace: Trace
) -> Tried:
    """SLO attainment, sessions per hour and mean power of one N, from its raw files.

    events: a file of each replica. A point at which one of them completed no session (it was cut
    by the time limit) is a miss; a rate is null where the window is not whole passes.
    """
    seen = [view(load_events(path)) for path in events]
    found = attainment(seen, slo_limits(slo), "capacity", trace)
    start_s, end_s = common_window(seen, "capacity")
    window = end_s - start_s
    samples = load_samples(power) if power.is_file() else None
    info = None if meter is None else meter.info
    energy = window_energy(samples, info, start_s, end_s).energy_j if window > 0 else None
    rate = of_unit("sessions_per_hour", [capacity_rate(part, trace) for part in seen])
    point = SweepPoint(
        concurrency=n,
        slo_attainment=found.value,
        turns=sum(len(part.tables["turns"]["status"]) for part in seen),
        sessions_per_hour=rate.value,
        power_w=energy / window if energy is not None and window > 0 else None,
    )
    completed = all(completed_sessions(part) > 0 for part in seen)
    return Tried(point, completed and found.seems_to_meet(slo.share))
