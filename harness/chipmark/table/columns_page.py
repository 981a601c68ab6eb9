"""`docs/columns.md` as made from the code: `python -m chipmark.table.columns_page`."""

from __future__ import annotations

from collections.abc import Iterator

from chipmark.codes import NoteCode, NullReason
from chipmark.table.columns import COLUMNS, RANKABLE

_HEAD = """# Columns

Every column of `chipmark table`, in order, as `--format json` names it. Formulas are in \
[definitions.md](definitions.md). This page is generated: \
`python -m chipmark.table.columns_page > docs/columns.md`.

| name | unit | better | ranks | what | null because |
|---|---|---|---|---|---|"""
_NULLS = """
## Why a number is null
| code | reason |
|---|---|"""
_NOTES = """
## Notes
What a row says with its numbers, as `{code, text}`.

| code | text |
|---|---|"""


def page() -> str:
    """The whole page as Markdown, ending in a line break."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    for column in COLUMNS.values():
        cells = (
            f"`{column.name}`",
            column.unit,
            "" if column.direction == "none" else column.direction,
            column.kind if column.name in RANKABLE and column.kind else "",
            column.definition.replace("|", "\\|"),
            ", ".join(f"`{reason}`" for reason in column.null_reasons),
        )
        yield "| " + " | ".join(cells) + " |"
    yield _NULLS
    yield from (f"| `{code}` | {code.text} |" for code in NullReason)
    yield _NOTES
    yield from (f"| `{code}` | {code.text} |" for code in NoteCode)


if __name__ == "__main__":
    print(page(), end="")
