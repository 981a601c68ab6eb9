"""One timed repeat: two probes around a run, with meter and throttle watch."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from chipmark.cell import roofs, timing
from chipmark.cell.loaded import check_ran
from chipmark.cell.measure import MeasuredCell
from chipmark.cell.protocol import Run
from chipmark.chips.throttle import throttle_notes, watch_for
from chipmark.meters.replay import save_samples
from chipmark.results.manifest import Note, Probes, Timing


@dataclass(frozen=True, slots=True)
class Repeat:
    """A repeat that was done; its raw files are in `repeat-INDEX` of the cell's folder."""

    index: int
    timing: Timing
    """By this process's clock, with the throttle reasons that were seen."""
    probes: Probes
    notes: tuple[Note, ...]
    seconds: float
    """Wall time of the whole repeat, probes included."""


def measure_repeat(cell: MeasuredCell, index: int) -> Repeat:
    """One timed repeat between two probes, metered."""
    child, inputs, began = cell.running(), cell.inputs, time.monotonic()
    target = cell.folder / f"repeat-{index}"
    target.mkdir()
    plan = roofs.roof_plan(
        inputs.chip, cell.loaded, inputs.trace, cell.concurrency, inputs.settings.threads
    )
    before = roofs.probe(child, plan, inputs.settings.limits.probe_s)
    # With sampled feedback the contexts are not the trace's, so there is nothing to compare.
    captures = index == cell.captured_repeat and inputs.settings.feedback == "forced"
    request = run_request(cell, target / "events.npz", cell.concurrency)
    if captures and cell.longest is not None and inputs.in_use is not None:
        request = replace(
            request,
            capture_session=cell.longest[0],
            capture_turn=cell.longest[1],
            captured=str(cell.folder / "captured.npz"),
        )
    timed = timed_run(cell, request, target / "power.npz")
    (target / "timing.json").write_text(timed.model_dump_json(indent=1), encoding="utf-8")
    cell.seals.add(*(target / name for name in ("events.npz", "power.npz", "timing.json")))
    if captures:
        cell.seals.add(cell.folder / "captured.npz")
    after = roofs.probe(child, plan, inputs.settings.limits.probe_s)
    child.park()
    probes = roofs.bracket(plan, before, after)
    (target / "probes.json").write_text(probes.model_dump_json(indent=1), encoding="utf-8")
    cell.seals.add(target / "probes.json")
    seen = () if cell.simulated else throttle_notes(timed.throttle, inputs.chip.name)
    notes = (*(Note(code=code, text=text) for code, text in seen), *roofs.size_notes(probes))
    return Repeat(index, timed, probes, notes, time.monotonic() - began)


def timed_run(cell: MeasuredCell, request: Run, power: Path) -> Timing:
    """One run of the child with meter and throttle watch running, by this process's clock; the
    meter's samples go to `power`."""
    limits = cell.inputs.settings.limits
    meter = None if cell.simulated else cell.inputs.meter
    if cell.simulated:
        request = replace(request, power=str(power))
    watch = watch_for(cell.inputs.chip)
    if meter is not None:
        meter.start()
    if watch is not None:
        watch.start()
    throttle = None
    try:
        answer, timed = timing.timed_run(
            cell.running(), limits.run_s + limits.grace_s, request, limits.clock_s
        )
    finally:
        throttle = watch.stop() if watch is not None else None
        samples = meter.stop() if meter is not None else None
    if samples is not None:
        save_samples(power, samples)
    check_ran(answer)
    cell.note_memory(answer.peak_rss_bytes, answer.peak_device_bytes)
    return timed.model_copy(update={"throttle": throttle})


def run_request(cell: MeasuredCell, events: Path, concurrency: int) -> Run:
    """What the child is asked to run, whatever the repeat."""
    return Run(
        trace=str(cell.folder / "trace.npz"),
        events=str(events),
        concurrency=concurrency,
        scenario=cell.inputs.plan.scenario,
        deadline_s=cell.inputs.settings.limits.run_s,
    )
