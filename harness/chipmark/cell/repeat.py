"""One timed repeat: two probes around a run, with meter and throttle watch."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from chipmark.cell import roofs, timing
from chipmark.cell.loaded import check_ran
from chipmark.cell.measure import MeasuredCell
from chipmark.cell.protocol import Run, RunAnswer
from chipmark.chips.throttle import throttle_notes, watch_for
from chipmark.meters.replay import load_samples, save_samples, summed
from chipmark.results.manifest import Note, Probes, Timing


@dataclass(frozen=True, slots=True)
class Repeat:
    """A repeat that was done; its raw files are in `repeat-INDEX` of the cell's folder."""

    index: int
    timing: Timing
    """By this process's clock, with the throttle reasons that were seen; of the first replica, as
    are the probes."""
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
    timed = timed_run(cell, requests, target / "power.npz")
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
    seen = () if cell.simulated else throttle_notes(timed[0].throttle, inputs.chip.name)
    sizes = dict.fromkeys(note for found in probes for note in roofs.size_notes(found))
    notes = (*(Note(code=code, text=text) for code, text in seen), *sizes)
    return Repeat(index, timed[0], probes[0], notes, time.monotonic() - began)


def timed_run(cell: MeasuredCell, requests: Sequence[Run], power: Path) -> list[Timing]:
    """One run of every replica with meters and throttle watch running, by this process's clock; the
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
    watch = watch_for(cell.inputs.chip)
    cell.metering.start()
    if watch is not None:
        watch.start()
    throttle = None
    try:
        found = _runs(cell, requests)
    finally:
        throttle = watch.stop() if watch is not None else None
        readings = cell.metering.stop()
    cell.take(readings.notes)
    readings.save(power)
    if cell.simulated and len(parts) > 1:
        # Each die of a simulated card tells its own watts.
        save_samples(power, summed([load_samples(part) for part in parts]))
        for part in parts:
            part.unlink()
    for answer, _ in found:
        check_ran(answer)
        cell.note_memory(answer.peak_rss_bytes, answer.peak_device_bytes)
    return [timed.model_copy(update={"throttle": throttle}) for _, timed in found]


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
