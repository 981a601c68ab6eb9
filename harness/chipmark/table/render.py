"""Rows to rich, Markdown, CSV, JSON or HTML.

The formats for people (rich, md) show a main block that fits 120 columns, then who each row is,
then remarks about it; `all_columns` shows every column instead, in blocks.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from chipmark.codes import meaning
from chipmark.errors import UnknownNameError
from chipmark.foreign_text import html_text, markdown_line, markdown_text, plain_text
from chipmark.table.cells import MISSING, file_text, people_text
from chipmark.table.columns import COLUMNS
from chipmark.table.layout import TextColumn, text_tables, wrapped
from chipmark.table.listed import Listed, Numbered, remarks_on
from chipmark.table.rows import TableRow

if TYPE_CHECKING:
    from rich.console import Console

FORMATS: tuple[str, ...] = ("rich", "md", "csv", "json", "html")

FOR_PEOPLE: tuple[str, ...] = ("rich", "md", "html")
"""Formats that begin with a sentence about the rows."""


def rendered(
    rows: Iterable[TableRow],
    format: str,
    console: Console | None = None,
    *,
    all_columns: bool = False,
    summary: str = "",
) -> Iterator[str]:
    """The parts of the table's text. Rows are taken one by one, and none is held.

    `console` (rich only) gives width and colours; None is 120 columns without colours. `summary`:
    a sentence above the table, in the formats for people. Raises UnknownNameError for another
    format."""
    if format == "json":
        return _json(rows)
    if format == "csv":
        return _csv(rows)
    if format == "html":
        return _html(rows, summary)
    if format == "md":
        return _markdown(Listed(rows, all_columns=all_columns), summary)
    if format == "rich":
        return _rich(Listed(rows, all_columns=all_columns), console, summary)
    raise UnknownNameError("table format", format, FORMATS)


def _json(rows: Iterable[TableRow]) -> Iterator[str]:
    before = "[\n"
    for row in rows:
        # A row a line: json indents in pure Python, ten times slower.
        yield before + json.dumps(row.to_dict(), allow_nan=False)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _legend() -> str:
    return (
        "comparable: p perf, e energy, c cost. ~ rests on an assumption or is true of this very "
        "load; ≥ ≤ a bound. Assumed or declared power, a cost at this very load and bounds are "
        "never ranked. - null, with its reason below."
    )


def _rich(listed: Listed, console: Console | None, summary: str) -> Iterator[str]:
    if not listed.count:
        yield "no records\n"
        return
    width = 120 if console is None else console.width
    lines = [*wrapped(plain_text(summary), width), ""] if summary else []
    lines += [line for text in listed.head() for line in wrapped(plain_text(text), width)]
    for title, names in listed.blocks():
        lead = ["rank"] if not title else [] if "backend" in names else ["backend"]
        columns = [TextColumn("#", "right")]
        columns += [TextColumn(name, "right" if name == "rank" else "left") for name in lead]
        for name in names:
            right = COLUMNS[name].type in ("number", "integer")
            head = "comp." if name == "comparable" and not title else COLUMNS[name].title
            columns.append(TextColumn(head, "right" if right else "left"))
        body = list(listed.texts(title, names))
        # Number, rank and backend lead every part of a block that the width splits.
        lead_columns = 1 + len(lead) + ("backend" in names)
        lines += ["", title] if title else [""]
        # The main block has 17 columns: one space between them is what 120 columns leave.
        lines += text_tables(columns, body, width, gap=2 if title else 1, lead=lead_columns)
    lines.append("")
    for text in (_legend(), *listed.remarks()):
        lines += wrapped(plain_text(text), width)
    text = "\n".join(lines) + "\n"
    yield _bold_heads(text, console) if console is not None and console.is_terminal else text


def _bold_heads(text: str, console: Console) -> str:
    """The same text with the heads of its blocks in bold, as this console writes it."""
    from rich.text import Text

    styled = Text(text)
    styled.highlight_regex(r"(?m)^.*\n(?=─+$)", "bold")
    with console.capture() as capture:
        console.print(styled, end="", soft_wrap=True)
    return capture.get()


def _markdown(listed: Listed, summary: str) -> Iterator[str]:
    if not listed.count:
        yield "no records\n"
        return
    lines = [markdown_text(summary), ""] if summary else []
    lines += [markdown_text(line) + "  " for line in listed.head()] + [""]
    for title, names in listed.blocks():
        if title:
            lines += [f"**{title}**", ""]
        lead = ["#", "rank"] if not title else ["#", *([] if "backend" in names else ["backend"])]
        heads = lead + [COLUMNS[n].title.replace("\n", " ").replace("/ ", "/") for n in names]
        aligns = ["---:" if h in ("#", "rank") else "---" for h in lead]
        aligns += ["---:" if COLUMNS[n].type in ("number", "integer") else "---" for n in names]
        lines += ["| " + " | ".join(heads) + " |", "| " + " | ".join(aligns) + " |"]
        for texts in listed.texts(title, names):
            lines.append("| " + " | ".join(markdown_text(text) for text in texts) + " |")
        lines.append("")
    lines += [markdown_text(_legend()), ""]
    lines += [f"- {markdown_line(line)}" for line in listed.remarks()]
    yield "\n".join(lines).rstrip() + "\n"


def _csv(rows: Iterable[TableRow]) -> Iterator[str]:
    yield _csv_line([*COLUMNS, "rank"])
    for row in rows:
        texts = [file_text(row.values[name]) for name in COLUMNS]
        yield _csv_line([*texts, "" if row.rank is None else str(row.rank)])


def _csv_line(texts: Sequence[str]) -> str:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerow(texts)
    return sink.getvalue()


def _html(rows: Iterable[TableRow], summary: str) -> Iterator[str]:
    def cell(tag: str, text: str, **attributes: Any) -> str:
        given = "".join(f' {k}="{html_text(str(v))}"' for k, v in attributes.items() if v)
        return f"<{tag}{given}>{html_text(text)}</{tag}>"

    heads = [cell("th", "#"), cell("th", "rank")]
    heads += [
        cell("th", name, title=f"{c.definition} [{c.unit}]" if c.unit else c.definition)
        for name, c in COLUMNS.items()
    ]
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>chipmark</title>\n'
        "<style>body{font:14px sans-serif}table{border-collapse:collapse}"
        "td,th{border:1px solid #ccc;padding:2px 6px;white-space:nowrap}</style></head>\n"
        f"<body>{cell('p', summary) if summary else ''}\n"
        f"<table><thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n"
    )
    remarks = Numbered()
    nulls: dict[str, str] = {}
    for index, row in enumerate(rows, 1):
        cells = [cell("td", str(index)), cell("td", MISSING if row.rank is None else str(row.rank))]
        for name in COLUMNS:
            reason = row.null_reasons.get(name)
            if reason is None:
                cells.append(f"<td>{html_text(people_text(row, name))}</td>")
                continue
            if reason not in nulls:
                nulls[reason] = cell("td", MISSING, title=meaning(reason))
            cells.append(nulls[reason])
        remarks.add(index, remarks_on(row))
        yield ("\n" if index > 1 else "") + f"<tr>{''.join(cells)}</tr>"
    notes = "".join(cell("li", line) for line in remarks.lines())
    yield f"\n</tbody></table>\n{cell('p', _legend())}\n<ul>{notes}</ul></body></html>\n"
