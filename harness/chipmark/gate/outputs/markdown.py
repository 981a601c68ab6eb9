"""A Markdown summary for a pull request or a job's page."""

from __future__ import annotations

from chipmark.foreign_text import markdown_code, markdown_line, markdown_text
from chipmark.gate.findings import GateFindings, GateRow
from chipmark.gate.outputs.numbers import amount, change
from chipmark.gate.verdict import Verdict

_ORDER = list(Verdict)


def markdown(findings: GateFindings) -> str:
    """The headline, a table with what matters first, and the notes."""
    lines = [f"### chipmark gate: {findings.headline()}", ""]
    lines += [f"base `{markdown_code(findings.base)}`, new `{markdown_code(findings.new)}`", ""]
    if findings.rows:
        lines.append("| benchmark | metric | base | new | change | verdict | |")
        lines.append("|---|---|--:|--:|--:|---|---|")
        lines += [_line(row) for row in sorted(findings.rows, key=_rank)]
        lines.append("")
    lines += [f"- {markdown_line(note)}" for note in findings.notes]
    return "\n".join(lines).rstrip() + "\n"


def _rank(row: GateRow) -> tuple[int, float]:
    found = row.judgement.estimate
    return _ORDER.index(row.verdict), -(found.effect if found else 0.0)


def _line(row: GateRow) -> str:
    word = row.verdict.value
    if row.fails:
        word = f"**{word}**"
    numbers = (amount(row.base, row.unit), amount(row.new, row.unit), change(row))
    texts = [markdown_text(text) for text in (row.benchmark, row.metric, *numbers)]
    return "| " + " | ".join([*texts, word, markdown_text(row.sentence())]) + " |"
