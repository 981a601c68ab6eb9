"""Parity of a loaded cell: small sessions through the timed path, against the oracle."""

from __future__ import annotations

from pathlib import Path

from chipmark.cell.contexts import Keys, turn_keys
from chipmark.cell.logits import LogitRows, distance, load_logits, median_rms_rel
from chipmark.cell.measure import MeasuredCell
from chipmark.cell.parity import all_turns, closed_rule_errors
from chipmark.cell.protocol import Parity
from chipmark.codes import NoteCode
from chipmark.engine.computed import linear_input_of
from chipmark.results.manifest import Note, ParityResult
from chipmark.results.tolerance import median_tolerance_of, tolerance_of
from chipmark.workload.trace import Trace, save_trace
from chipmark_models.precision import INT8_BY_GROUP, rounding_of

_SHOWS = {"fp8": "in bf16", INT8_BY_GROUP: "with --option accuracy_level=0"}
"""Where a fault shows that a rounding hides."""


def check_parity(cell: MeasuredCell, replica: int = 0) -> ParityResult:
    """Run the parity trace through a replica's timed path and compare it with the oracle's
    logits."""
    check = _by_closed_rule if cell.inputs.in_use is None else _by_oracle
    return check(cell, replica)


def _by_oracle(cell: MeasuredCell, replica: int) -> ParityResult:
    caps = cell.loaded.caps
    trace = cell.inputs.parity_trace(caps.context_buckets)
    if trace.max_context_tokens > caps.max_context:
        trace = cell.inputs.parity_trace(())
    keys = turn_keys(trace, all_turns(trace))
    reference = cell.reference(trace, keys)
    if reference.rows is None:
        return ParityResult(verdict="unchecked", reason=reference.reason)
    measured = load_logits(_run(cell, trace, replica))
    tolerance, median = _tolerances(cell, reference.rows, trace, keys)
    found = distance(reference.rows, measured, tolerance)
    reason = "" if found.passes(tolerance) else f"rms {found.rms_rel:.2e} over {tolerance:.0e}"
    if found.missing:
        reason = f"{found.missing} sampled rows are missing"
    elif not reason and median is not None:
        seen = median_rms_rel(reference.rows, measured, keys)
        reason = "" if seen <= median else f"median rms {seen:.2e} over {median:.0e}"
    return ParityResult(
        verdict="fail" if reason else "pass",
        reason=reason,
        rms_rel=_finite(found.rms_rel),
        max_rel=_finite(found.max_rel),
        kl=_finite(found.kl),
        top1=found.top1,
        positions=found.positions,
        tolerance_rms_rel=tolerance,
        oracle_weights_hash=cell.inputs.model.weights_hash,
        reference=reference.id,
    )


def _by_closed_rule(cell: MeasuredCell, replica: int) -> ParityResult:
    """A simulated device samples an id that is a function of the whole context: the closed rule
    says which, so a lost, doubled or misplaced cached token shows here too."""
    trace = cell.inputs.parity_trace(())
    wrong = closed_rule_errors(trace, load_logits(_run(cell, trace, replica)))
    return ParityResult(
        verdict="fail" if wrong else "pass",
        reason=wrong or "by the closed rule of the simulated device",
        positions=trace.totals.n_out,
    )


def _run(cell: MeasuredCell, trace: Trace, replica: int) -> Path:
    """Run a small trace with the logits of every sampled row kept, in the file returned."""
    path, out = cell.folder / "parity.npz", cell.folder / "parity-logits.npz"
    save_trace(trace, path)
    child = cell.running(replica)
    at_once = min(cell.room.sequences, len(trace.sessions))
    request = Parity(str(path), str(out), at_once)
    cell.note_memory(child.request(request, cell.inputs.settings.limits.parity_s).peak_rss_bytes)
    child.park()
    return out


def _tolerances(
    cell: MeasuredCell, plain: LogitRows, trace: Trace, keys: Keys
) -> tuple[float, float | None]:
    """Of the worst row and of the median one: by the precision's class; where products take
    rounded activations, what that rounding does to the very rows compared is found first, and
    noted."""
    rounding = rounding_of(linear_input_of(cell.loaded.precision.activation))
    if not rounding:
        return tolerance_of(cell.class_name), None
    rounded = cell.reference(trace, keys, rounding)
    if rounded.rows is None:
        return tolerance_of(cell.class_name), None
    own = distance(plain, rounded.rows, tolerance_of(cell.class_name)).rms_rel
    tolerance = tolerance_of(cell.class_name, own, rounding)
    text = f"parity: {rounding} activations alone move logits by rms {own:.2g}; up to "
    text += f"{tolerance:.2g} passes"
    median = median_tolerance_of(rounding, median_rms_rel(plain, rounded.rows, keys))
    if median is not None:
        text += f" (median of rows {median:.2g})"
    if rounding in _SHOWS:
        text += f", and faults below that show {_SHOWS[rounding]} only"
    cell.notes.append(Note(code=NoteCode.PRECISION_NOTE, text=text))
    return tolerance, median


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
