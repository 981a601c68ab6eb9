"""GitHub's workflow commands: one line a row that somebody should see."""

from __future__ import annotations

from chipmark.foreign_text import annotation_property, annotation_text
from chipmark.gate.findings import GateFindings
from chipmark.gate.verdict import Verdict

_LEVELS = {
    Verdict.REGRESSED: "error",
    Verdict.MISSING: "error",
    Verdict.UNFIT: "warning",
    Verdict.INCONCLUSIVE: "notice",
}


def github_annotations(findings: GateFindings) -> list[str]:
    """Errors for what regressed or is missing, a warning for what is unfit, neutral notices for
    what is undecided or not gated."""
    lines = []
    for row in findings.rows:
        level = _LEVELS.get(row.verdict)
        if level is None:
            continue
        if row.not_gated and level == "error":
            level = "notice"
        title = annotation_property(f"{row.verdict.value}: {row.name}")
        lines.append(f"::{level} title={title}::{annotation_text(row.sentence())}")
    return lines
