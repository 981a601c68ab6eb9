"""Rows to rich, Markdown, CSV, JSON or HTML.

The formats for people (rich, md) show a main block that fits 120 columns, then who each row is,
then remarks about it; `all_columns` shows every column instead, in blocks.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chipmark.codes import NullReason, meaning
from chipmark.errors import UnknownNameError
from chipmark.foreign_text import html_text, markdown_line, markdown_text, plain_text
from chipmark.table.cells import MISSING, file_text, people_text
from chipmark.table.columns import COLUMNS
from chipmark.table.layout import TextColumn, text_tables, wrapped
from chipmark.table.rows import TableRow

if TYPE_CHECKING:
    from rich.console import Console

FORMATS: tuple[str, ...] = ("rich", "md", "csv", "json", "html")

FOR_PEOPLE: tuple[str, ...] = ("rich", "md", "html")
"""Formats that begin with a sentence about the rows."""

MAIN: tuple[str, ...] = (
    "backend", "concurrency", "decode_rows", "total_tok_s", "prefill_tok_s", "decode_tok_s",
    "ttft_p50_s", "tpot_p50_s", "slo_attainment", "prefix_hit", "mbu", "tok_per_joule",
    "cost_per_session", "parity", "vs_baseline", "comparable",
)  # fmt: skip
IDENTITY: tuple[str, ...] = (
    "chip", "unit", "model", "workload", "scale", "precision", "execution", "graph", "scenario",
    "sessions", "energy_source", "power_scope", "currency",
)  # fmt: skip
BLOCKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("identity", ("backend", "chip", "unit", "model", "workload", "scale")),
    ("what ran", ("precision", "execution", "graph", "scenario", "concurrency", "sessions",
                  "parity", "ep_coverage")),
    ("rates", ("decode_rows", "prefill_tok_s", "decode_tok_s", "total_tok_s", "goodput_turns_s",
               "goodput_tok_s", "slo_attainment", "sessions_per_hour")),
    ("latency", ("ttft_p50_s", "ttft_p95_s", "ttft_cold_p50_s", "tpot_p50_s", "tpot_p95_s",
                 "itl_p50_s", "itl_p95_s", "itl_p99_s", "session_p50_s", "session_p95_s")),
    ("work and roofs", ("prefix_hit_ideal", "prefix_hit", "recomputed_tokens", "pad_ratio", "mbu",
                        "mbu_nameplate", "mfu", "host_s_per_step", "idle_s_per_step")),
    ("energy and cost", ("power_w", "energy_source", "power_scope", "tok_per_joule",
                         "joule_per_session", "currency", "cost_per_session", "cost_per_mtok",
                         "daily_active_agents")),
    ("comparison", ("comparable", "vs_baseline", "notes")),
)  # fmt: skip
_SHORT = {"perf": "p", "energy": "e", "cost": "c"}
_NULLS_SHOWN = tuple(n for n in COLUMNS if COLUMNS[n].type in ("number", "integer"))


def render(
    rows: Sequence[TableRow],
    format: str,
    console: Console | None = None,
    *,
    all_columns: bool = False,
    summary: str = "",
) -> str:
    """The table as text. `console` (rich only) gives width and colours; None is 120 columns
    without colours. `summary`: a sentence above the table, in the formats for people.
    Raises UnknownNameError for another format."""
    if format == "json":
        # A row a line: json indents in pure Python, ten times slower.
        lines = ",\n".join(json.dumps(row.to_dict(), allow_nan=False) for row in rows)
        return f"[\n{lines}\n]\n" if rows else "[]\n"
    if format == "csv":
        return _csv(rows)
    if format == "html":
        return _html(rows, summary)
    if format == "md":
        return _markdown(rows, all_columns, summary)
    if format == "rich":
        return _rich(rows, console, all_columns, summary)
    raise UnknownNameError("table format", format, FORMATS)


def remarks(rows: Sequence[TableRow]) -> list[str]:
    """Remarks about rows, each once, with the numbers of the rows it is true of:
    their notes, their nulls, why they are not comparable."""
    return numbered([_remarks_on(row) for row in rows])


def numbered(texts_by_row: Sequence[Sequence[str]]) -> list[str]:
    """Each text once, behind the numbers (from 1) of all rows that it belongs to."""
    said: dict[str, list[int]] = {}
    for index, texts in enumerate(texts_by_row, 1):
        for text in texts:
            numbers = said.setdefault(text, [])
            if index not in numbers:
                numbers.append(index)
    return [f"{', '.join(map(str, numbers))}: {text}" for text, numbers in said.items()]


def _remarks_on(row: TableRow) -> list[str]:
    texts = [f"{note['code']}: {note['text']}" for note in row.values["notes"]]
    by_reason: dict[str, list[str]] = {}
    for name, reason in row.null_reasons.items():
        if name in _NULLS_SHOWN and reason not in (NullReason.UNKNOWN, NullReason.NOT_COMPARABLE):
            by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        # A failed cell lacks everything; listing every column would say nothing more.
        shown = "numbers" if len(names) > 12 else ", ".join(names)
        texts.append(f"no {shown}: {meaning(reason)} ({reason})")
    if barred := row.details["not_ranked"]:
        texts.append(f"not ranked by {row.details['rank_by']}: {'; '.join(barred)}")
    return texts


def _short_comparable(row: TableRow) -> str:
    return " ".join(_SHORT[kind] for kind in row.values["comparable"]) or "none"


def _main_text(row: TableRow, name: str) -> str:
    return _short_comparable(row) if name == "comparable" else people_text(row, name)


def _varying(rows: Sequence[TableRow]) -> tuple[list[str], list[str]]:
    """Identity columns that differ between rows, and a line for each that does not."""
    varying, common = [], []
    for name in IDENTITY:
        texts = {people_text(row, name) for row in rows}
        if len(texts) > 1:
            varying.append(name)
        elif texts != {MISSING}:
            common.append(f"{name.replace('_', ' ')} {texts.pop()}")
    return varying, common


def _blocks(rows: Sequence[TableRow], all_columns: bool) -> list[tuple[str, tuple[str, ...]]]:
    if all_columns:
        return list(BLOCKS)
    varying, _ = _varying(rows)
    blocks = [("", MAIN)]
    # Of many identity columns a terminal has room for about six.
    for at in range(0, len(varying), 6):
        blocks.append(("what differs", tuple(varying[at : at + 6])))
    return blocks


def _head(rows: Sequence[TableRow]) -> list[str]:
    """Lines above the table: what all rows share, the baseline and what ranks."""
    _, common = _varying(rows)
    lines = ["; ".join(common)] if common else []
    ranked = ", ".join(dict.fromkeys(row.details["rank_by"] for row in rows))
    bases = dict.fromkeys(row.details["baseline"] or "none" for row in rows)
    objectives = ", ".join(dict.fromkeys(row.details["slo"]["name"] for row in rows))
    lines.append(f"ranked by {ranked}; baseline {', '.join(bases)}; SLO {objectives}")
    return lines


def _legend() -> str:
    return (
        "comparable: p perf, e energy, c cost. ~ rests on an assumption or is true of this very "
        "load; ≥ ≤ a bound. Assumed or declared power, a cost at this very load and bounds are "
        "never ranked. - null, with its reason below."
    )


def _rich(
    rows: Sequence[TableRow], console: Console | None, all_columns: bool, summary: str
) -> str:
    if not rows:
        return "no records\n"
    width = 120 if console is None else console.width
    lines = [*wrapped(plain_text(summary), width), ""] if summary else []
    lines += [line for text in _head(rows) for line in wrapped(plain_text(text), width)]
    for title, names in _blocks(rows, all_columns):
        lead = ["rank"] if not title else [] if "backend" in names else ["backend"]
        columns = [TextColumn("#", "right")]
        columns += [TextColumn(name, "right" if name == "rank" else "left") for name in lead]
        for name in names:
            right = COLUMNS[name].type in ("number", "integer")
            head = "comp." if name == "comparable" and not title else COLUMNS[name].title
            columns.append(TextColumn(head, "right" if right else "left"))
        body = [_texts(index, row, title, names) for index, row in enumerate(rows, 1)]
        # Number, rank and backend lead every part of a block that the width splits.
        lead_columns = 1 + len(lead) + ("backend" in names)
        lines += ["", title] if title else [""]
        # The main block has 17 columns: one space between them is what 120 columns leave.
        lines += text_tables(columns, body, width, gap=2 if title else 1, lead=lead_columns)
    lines.append("")
    for text in (_legend(), *remarks(rows)):
        lines += wrapped(plain_text(text), width)
    text = "\n".join(lines) + "\n"
    return _bold_heads(text, console) if console is not None and console.is_terminal else text


def _bold_heads(text: str, console: Console) -> str:
    """The same text with the heads of its blocks in bold, as this console writes it."""
    from rich.text import Text

    styled = Text(text)
    styled.highlight_regex(r"(?m)^.*\n(?=─+$)", "bold")
    with console.capture() as capture:
        console.print(styled, end="", soft_wrap=True)
    return capture.get()


def _texts(index: int, row: TableRow, title: str, names: Sequence[str]) -> list[str]:
    """A row of a block: its number, its rank (main block) or backend, its values."""
    texts = [str(index)]
    if not title:
        texts.append(MISSING if row.rank is None else str(row.rank))
    elif "backend" not in names:
        texts.append(people_text(row, "backend"))
    text_of = people_text if title else _main_text
    return texts + [plain_text(text_of(row, name)) for name in names]


def _markdown(rows: Sequence[TableRow], all_columns: bool, summary: str) -> str:
    if not rows:
        return "no records\n"
    lines = [markdown_text(summary), ""] if summary else []
    lines += [markdown_text(line) + "  " for line in _head(rows)] + [""]
    for title, names in _blocks(rows, all_columns):
        if title:
            lines += [f"**{title}**", ""]
        lead = ["#", "rank"] if not title else ["#", *([] if "backend" in names else ["backend"])]
        heads = lead + [COLUMNS[n].title.replace("\n", " ").replace("/ ", "/") for n in names]
        aligns = ["---:" if h in ("#", "rank") else "---" for h in lead]
        aligns += ["---:" if COLUMNS[n].type in ("number", "integer") else "---" for n in names]
        lines += ["| " + " | ".join(heads) + " |", "| " + " | ".join(aligns) + " |"]
        for index, row in enumerate(rows, 1):
            texts = _texts(index, row, title, names)
            lines.append("| " + " | ".join(markdown_text(text) for text in texts) + " |")
        lines.append("")
    lines += [markdown_text(_legend()), ""]
    lines += [f"- {markdown_line(line)}" for line in remarks(rows)]
    return "\n".join(lines).rstrip() + "\n"


def _csv(rows: Sequence[TableRow]) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([*COLUMNS, "rank"])
    for row in rows:
        texts = [file_text(row.values[name]) for name in COLUMNS]
        writer.writerow([*texts, "" if row.rank is None else str(row.rank)])
    return sink.getvalue()


def _html(rows: Sequence[TableRow], summary: str) -> str:
    def cell(tag: str, text: str, **attributes: Any) -> str:
        given = "".join(f' {k}="{html_text(str(v))}"' for k, v in attributes.items() if v)
        return f"<{tag}{given}>{html_text(text)}</{tag}>"

    heads = [cell("th", "#"), cell("th", "rank")]
    heads += [
        cell("th", name, title=f"{c.definition} [{c.unit}]" if c.unit else c.definition)
        for name, c in COLUMNS.items()
    ]
    body = []
    for index, row in enumerate(rows, 1):
        cells = [cell("td", str(index)), cell("td", MISSING if row.rank is None else str(row.rank))]
        for name in COLUMNS:
            reason = row.null_reasons.get(name, "")
            cells.append(cell("td", people_text(row, name), title=meaning(reason)))
        body.append(f"<tr>{''.join(cells)}</tr>")
    notes = "".join(cell("li", line) for line in remarks(rows))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>chipmark</title>\n'
        "<style>body{font:14px sans-serif}table{border-collapse:collapse}"
        "td,th{border:1px solid #ccc;padding:2px 6px;white-space:nowrap}</style></head>\n"
        f"<body>{cell('p', summary) if summary else ''}\n"
        f"<table><thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + f"\n</tbody></table>\n{cell('p', _legend())}\n<ul>{notes}</ul></body></html>\n"
    )
