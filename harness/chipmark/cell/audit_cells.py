"""The audit of the cells of a group, after the last of their processes has ended."""

from __future__ import annotations

from collections.abc import Sequence

from chipmark.cell.audit_run import (
    Audited,
    Captured,
    Subject,
    audit_by_oracle,
    audit_by_rule,
    captured_of,
)
from chipmark.cell.logits import load_logits
from chipmark.cell.measure import MeasuredCell
from chipmark.codes import NoteCode
from chipmark.engine.computed import linear_input_of
from chipmark.results.audit import AUDIT_FILE, save_audit
from chipmark.results.manifest import AuditResult, Note


def audit_cells(cells: Sequence[MeasuredCell], budget_s: float) -> None:
    """Draw places, ask the oracle, and leave each cell its `audit` and its `audit.npz`.

    The cells ran one trace on one model in one precision, and their processes have ended: none
    can answer to what is drawn. Cells that failed or fed sampled tokens back have nothing to
    audit.
    """
    subjects: list[tuple[MeasuredCell, Subject]] = []
    for cell in cells:
        if cell.inputs.settings.feedback != "forced":
            reason = "sampled tokens were fed back, so contexts are not the trace's"
            cell.audit = AuditResult(verdict="none", reason=reason)
            continue
        cell.guard(lambda cell=cell: subjects.append((cell, _subject(cell))))  # type: ignore[misc]
    for cell, subject in subjects:
        if cell.simulated:
            _keep(cell, audit_by_rule(subject, cell.inputs.trace))
    asked = [(cell, subject) for cell, subject in subjects if not cell.simulated]
    if not asked:
        return
    first = asked[0][0]
    in_use = first.inputs.in_use
    assert in_use is not None, "a cell that is not simulated has a model"
    audited = audit_by_oracle(
        [subject for _, subject in asked],
        first.inputs.trace,
        first.weights,
        in_use.config,
        first.references,
        budget_s,
    )
    remarks = [Note(code=NoteCode.CELL, text=text) for text in first.references.remarks]
    first.references.remarks.clear()
    for (cell, _), found in zip(asked, audited, strict=True):
        cell.take(remarks)
        _keep(cell, found)


def _subject(cell: MeasuredCell) -> Subject:
    path = cell.folder / "captured.npz"
    captured: Captured | None = None
    if path.is_file():
        # The first replica's run of that repeat, among the runs of all.
        run = cell.captured_repeat * len(cell.backends)
        captured = captured_of(load_logits(path), run)
    activation = linear_input_of(cell.loaded.precision.activation)
    return Subject(cell.events(), cell.class_name, activation, captured)


def _keep(cell: MeasuredCell, found: Audited) -> None:
    cell.audit = found.result
    cell.guard(lambda: save_audit(cell.folder / AUDIT_FILE, found.data))
