"""What a manifest says twice, or what its raw files say, too: each place where the two differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from chipmark.chips.state_notes import state_notes, throttle_notes
from chipmark.engine.computed import class_of, linear_input_of
from chipmark.metrics.rawcell import RawCell, RunTiming
from chipmark.registry import is_simulated
from chipmark.results.manifest import AuditResult, Manifest
from chipmark.results.quality_loss import quality_contradictions
from chipmark.results.tolerance import SIM_TOLERANCE, tolerance_of
from chipmark.workload.trace import Trace
from chipmark_models.errors import UnknownNameError
from chipmark_models.precision import rounding_of


def contradictions(manifest: Manifest, raw: RawCell) -> Iterator[str]:
    """Sentences that name the field of a manifest, what it says, and what the rest gives."""
    yield from _differences(_said(manifest), _found(manifest, raw))
    for index, repeat in enumerate(raw.repeats):
        sessions = sum(int(run.events["window"]["concurrency"][0]) for run in repeat.runs)
        if sessions != manifest.concurrency:
            text = f"concurrency is {manifest.concurrency}, repeat {index} ran {sessions}"
            yield f"{text} sessions at once"
    yield from _capacity(manifest)
    yield from _parity(manifest)
    yield from quality_contradictions(manifest)


def wrong_tolerance(manifest: Manifest, audit: AuditResult) -> str:
    """Why an audit's tolerance is not the cell's, "" where it is or is unknown: where
    products take rounded activations, the oracle found it."""
    if audit.tolerance_rms_rel is None:
        return ""
    right = _tolerance(manifest)
    if is_simulated(manifest.backend):
        right = SIM_TOLERANCE
    return _tolerance_text("audit", audit.tolerance_rms_rel, right)


def lost_state(manifest: Manifest, seen: Sequence[RunTiming | None]) -> Iterator[str]:
    """What repeats saw of their device (`Timing.throttle`, `Timing.state`) and no note of the
    manifest has."""
    codes = {note.code for note in manifest.notes}
    states = [None if timing is None else timing.state for timing in seen]
    first = next((state.before for state in states if state is not None), None)
    for index, (timing, state) in enumerate(zip(seen, states, strict=True)):
        throttle = None if timing is None else timing.throttle
        notes = [] if throttle is None else throttle_notes(throttle, manifest.chip.name)
        if state is not None and first is not None:
            notes += state_notes(state, first, manifest.chip)
        for code, text in notes:
            if code not in codes:
                yield f"repeat {index} was {code} ({text}), which no note says"


def _said(manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"workload.{name}": value
        for name, value in manifest.workload.model_dump(exclude={"hash"}).items()
    }
    found["precision.class_name"] = manifest.precision.class_name
    found["repeats"] = manifest.repeats
    if manifest.load is not None:
        found["load.execution"] = manifest.load.execution
    return found


def _found(manifest: Manifest, raw: RawCell) -> dict[str, Any]:
    words = manifest.precision
    found: dict[str, Any] = {f"workload.{name}": v for name, v in _work(raw.trace).items()}
    try:
        found["precision.class_name"] = class_of(words.weights, words.activation, words.kv)
    except UnknownNameError as error:
        found["precision.class_name"] = error.message
    found["repeats"] = len(raw.repeats)
    if manifest.load is not None and "execution" in manifest.load.caps:
        found["load.execution"] = manifest.load.caps["execution"]
    return found


def _work(trace: Trace) -> dict[str, Any]:
    totals = trace.totals
    return {
        "name": trace.name,
        "scale": (trace.scale.context, trace.scale.output, trace.scale.tool_time),
        "seed": trace.seed,
        "loop": trace.loop,
        "sessions": totals.sessions,
        "turns": totals.turns,
        "n_new": totals.n_new,
        "n_cached": totals.n_cached,
        "n_out": totals.n_out,
    }


def _differences(said: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for name, value in found.items():
        if said[name] != value:
            yield f"{name} is {said[name]}, the rest of the record gives {value}"


def _capacity(manifest: Manifest) -> Iterator[str]:
    if manifest.scenario != "capacity" or manifest.capacity is None:
        return
    best = manifest.capacity.concurrency
    if manifest.concurrency != max(manifest.replicas, best or 0):
        yield f"concurrency is {manifest.concurrency}, the sweep found {best}"


def _parity(manifest: Manifest) -> Iterator[str]:
    parity = manifest.parity
    tolerance = parity.tolerance_rms_rel
    if tolerance is None:
        return
    if text := _tolerance_text("parity", tolerance, _tolerance(manifest)):
        yield text
    within = parity.rms_rel is not None and parity.rms_rel <= tolerance
    if parity.verdict == "pass" and not within:
        yield f"parity passed with rms {parity.rms_rel}, of which {tolerance} passes"


def _tolerance(manifest: Manifest) -> float | None:
    """That of the precision's class, None where the oracle finds it."""
    if rounding_of(linear_input_of(manifest.precision.activation)):
        return None
    return tolerance_of(manifest.precision.class_name)


def _tolerance_text(name: str, said: float, right: float | None) -> str:
    if right is None or np.isclose(said, right):
        return ""
    return f"{name}.tolerance_rms_rel is {said:g}, that of this precision is {right:g}"
