"""A Markdown summary for a pull request or a job's page."""

from __future__ import annotations

import html
import re

from chipmark.gate.findings import GateFindings, GateRow
from chipmark.gate.outputs.numbers import amount, change
from chipmark.gate.verdict import Verdict
from chipmark.table.cells import plain_text

_ORDER = list(Verdict)
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~@])")


def markdown(findings: GateFindings) -> str:
    """The headline, a table with what matters first, and the notes."""
    lines = [f"### chipmark gate: {findings.headline()}", ""]
    lines += [f"base `{_code(findings.base)}`, new `{_code(findings.new)}`", ""]
    if findings.rows:
        lines.append("| benchmark | metric | base | new | change | verdict | |")
        lines.append("|---|---|--:|--:|--:|---|---|")
        lines += [_line(row) for row in sorted(findings.rows, key=_rank)]
        lines.append("")
    lines += [f"- {_text(note)}" for note in findings.notes]
    return "\n".join(lines).rstrip() + "\n"


def _rank(row: GateRow) -> tuple[int, float]:
    found = row.judgement.estimate
    return _ORDER.index(row.verdict), -(found.effect if found else 0.0)


def _line(row: GateRow) -> str:
    word = row.verdict.value
    if row.fails:
        word = f"**{word}**"
    cells = (
        _text(row.benchmark), _text(row.metric), _text(amount(row.base, row.unit)),
        _text(amount(row.new, row.unit)), _text(change(row)), word, _text(row.sentence()),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _text(text: str) -> str:
    """One line of plain text: no markup, no HTML, no mention of a person."""
    return _SPECIAL.sub(r"\\\1", html.escape(plain_text(" ".join(text.split())), quote=False))


def _code(text: str) -> str:
    return plain_text(" ".join(text.split())).replace("`", "'")
