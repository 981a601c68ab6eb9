"""One timed repeat: two probes around a run, with its meter, and its device watched."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from chipmark.cell import roofs, timing
from chipmark.cell.device_state import busy_at_rest
from chipmark.cell.loaded import check_ran
from chipmark.cell.measure import MeasuredCell
from chipmark.cell.protocol import Run, RunAnswer
from chipmark.chips.state import RepeatState
from chipmark.chips.state_notes import state_notes, throttle_notes
from chipmark.chips.state_watch import StateWatch
from chipmark.meters.replay import load_samples, save_samples, summed
from chipmark.results.manifest import Note, Probes, Timing


@dataclass(frozen=True, slots=True)
class Repeat:
    """A repeat that was done; its raw files are in `repeat-INDEX` of the cell's folder."""

    index: int
    timing: Timing
    """By this process's clock, with the state of the device; of the first replica, as are the
    probes."""
    probes: Probes
    notes: tuple[Note, ...]
    seconds: float
    """Wall time of the whole repeat, probes included."""


def measure_repeat(cell: MeasuredCell, index: int) -> Repeat:
    """One timed repeat between two probes, metered; replicas run at once."""
    inputs, began = cell.inputs, time.monotonic()
    target = cell.folder / f"repeat-{index}"
    places = [target, *(target / f"replica-{n}" for n in range(1, len(cell.backends)))]
    for place in places:
        place.mkdir()
    plan = roofs.roof_plan(
        inputs.chip, cell.loaded, inputs.trace, cell.sessions_each, inputs.settings.threads
    )
    at_rest = _at_rest(cell) if index == 0 else None
    before = roofs.probe_each(cell.children, plan, inputs.settings.limits.probe_s)
    # With sampled feedback the contexts are not the trace's, so there is nothing to compare.
    captures = index == cell.captured_repeat and inputs.settings.feedback == "forced"
    requests = [run_request(cell, place / "events.npz", cell.sessions_each) for place in places]
    if captures and cell.longest is not None and inputs.in_use is not None:
        requests[0] = replace(
            requests[0],
            capture_session=cell.longest[0],
            capture_turn=cell.longest[1],
            captured=str(cell.folder / "captured.npz"),
        )
    first, *others = timed_run(cell, requests, target / "power.npz")
    if first.state is not None:
        first = first.model_copy(update={"state": replace(first.state, busy_before=at_rest)})
    timed = [first, *others]
    for place, own in zip(places, timed, strict=True):
        (place / "timing.json").write_text(own.model_dump_json(indent=1), encoding="utf-8")
        cell.seals.add(place / "events.npz", place / "timing.json")
    cell.seals.add(*cell.power_files(target / "power.npz"))
    if captures:
        cell.seals.add(cell.folder / "captured.npz")
    after = roofs.probe_each(cell.children, plan, inputs.settings.limits.probe_s)
    for child in cell.children:
        child.park()
    probes = [roofs.bracket(plan, a, b) for a, b in zip(before, after, strict=True)]
    for place, found in zip(places, probes, strict=True):
        (place / "probes.json").write_text(found.model_dump_json(indent=1), encoding="utf-8")
        cell.seals.add(place / "probes.json")
    sizes = dict.fromkeys(note for found in probes for note in roofs.size_notes(found))
    notes = (*_notes(cell, first), *sizes)
    return Repeat(index, first, probes[0], notes, time.monotonic() - began)


def _at_rest(cell: MeasuredCell) -> float | None:
    """How busy the device is by what is not of this run; not asked of the host's CPUs, which
    always have something else to do, and which tell what that takes."""
    on_host = cell.inputs.chip.on_host
    return None if cell.device is None or on_host else busy_at_rest(cell.device)


def _notes(cell: MeasuredCell, timing: Timing) -> list[Note]:
    """What the row must say of its device in this repeat: each kind of thing once, by the first
    repeat that shows it; the record has every repeat's state."""
    found = throttle_notes(timing.throttle, cell.inputs.chip.name)
    if timing.state is not None:
        if cell.first_state is None:
            cell.first_state = timing.state.before
        found += state_notes(timing.state, cell.first_state, cell.inputs.chip)
    known = {note.code for note in cell.notes}
    return [Note(code=code, text=text) for code, text in found if code not in known]


def timed_run(cell: MeasuredCell, requests: Sequence[Run], power: Path) -> list[Timing]:
    """One run of every replica with its meters and its device watched, by this process's clock; the
    samples of the row's meter go to `power`, those of the others next to it. CellFailedError where
    a run fails; a meter that fails is a note."""
    parts = [power]
    if len(requests) > 1:
        parts = [power.with_name(f"power-{n}.npz") for n in range(len(requests))]
    if cell.simulated:
        requests = [
            replace(request, power=str(part)) for request, part in zip(requests, parts, strict=True)
        ]
        counters = cell.power_files(power)[1:]
        if counters:
            requests[0] = replace(requests[0], counter=str(counters[0]))
    watch = None if cell.device is None else StateWatch(cell.device)
    cell.metering.start()
    if watch is not None:
        watch.start()
    state = RepeatState("")
    try:
        found = _runs(cell, requests)
    finally:
        if watch is not None:
            state = watch.stop()
        readings = cell.metering.stop()
    cell.take(readings.notes)
    readings.save(power)
    if cell.simulated and len(parts) > 1:
        # Each die of a simulated card tells its own watts.
        save_samples(power, summed([load_samples(part) for part in parts]))
        for part in parts:
            part.unlink()
    cell.launches = {}
    for answer, _ in found:  # of each replica, all since its load
        check_ran(answer)
        for way, count in answer.launches.items():
            cell.launches[way] = cell.launches.get(way, 0) + count
        cell.note_memory(answer.peak_rss_bytes, answer.peak_device_bytes)
    first, *others = (timed for _, timed in found)
    seen = {"throttle": state.slowdowns()}
    return [
        first.model_copy(update=seen | {"state": state}),
        *(timed.model_copy(update=seen) for timed in others),
    ]


def _runs(cell: MeasuredCell, requests: Sequence[Run]) -> list[tuple[RunAnswer, Timing]]:
    """The runs of all replicas, from one moment on: each starts once all are ready. The
    first that fails ends the others, and its error is raised."""
    limits = cell.inputs.settings.limits
    limit_s = limits.run_s + limits.grace_s
    if len(requests) == 1:
        return [timing.timed_run(cell.running(), limit_s, requests[0], limits.clock_s)]
    gate = threading.Barrier(len(requests))
    failures: list[BaseException] = []

    def one(replica: int) -> tuple[RunAnswer, Timing]:
        request = replace(requests[replica], together=True)
        try:
            return timing.timed_run(
                cell.running(replica), limit_s, request, limits.clock_s, gate.wait
            )
        except BaseException as error:
            failures.append(error)
            gate.abort()
            for child in cell.children:
                child.stop()
            raise

    with ThreadPoolExecutor(len(requests)) as threads:
        runs = [threads.submit(one, replica) for replica in range(len(requests))]
        try:
            wait(runs)
        except BaseException:
            for child in cell.children:
                child.stop()
            raise
    if failures:
        raise failures[0]
    return [run.result() for run in runs]


def run_request(cell: MeasuredCell, events: Path, concurrency: int) -> Run:
    """What the child is asked to run, whatever the repeat."""
    return Run(
        trace=str(cell.folder / "trace.npz"),
        events=str(events),
        concurrency=concurrency,
        scenario=cell.inputs.plan.scenario,
        deadline_s=cell.inputs.settings.limits.run_s,
    )
