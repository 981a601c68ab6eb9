"""GitHub's workflow commands: one line a row that somebody should see."""

from __future__ import annotations

from chipmark.gate.findings import GateFindings
from chipmark.gate.verdict import Verdict
from chipmark.table.cells import plain_text

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
        title = _property(f"{row.verdict.value}: {row.name}")
        lines.append(f"::{level} title={title}::{_data(row.sentence())}")
    return lines


def _data(text: str) -> str:
    """Escaped as the runner expects; a name from a file must not start a command of its own."""
    lines = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return plain_text(lines)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
