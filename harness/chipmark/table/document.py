"""Sheets to a whole table in a format, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from chipmark.table.headline import headline
from chipmark.table.judged import Comparisons, judge, judged_by_kind
from chipmark.table.render import FOR_PEOPLE, rendered
from chipmark.table.rows import each_row
from chipmark.table.sheet import Sheet

if TYPE_CHECKING:
    from rich.console import Console


def table_parts(
    sheets: Sequence[Sheet],
    format: str,
    baseline: str | None = None,
    rank_by: str | None = None,
    *,
    across_precision: bool = False,
    all_columns: bool = False,
    console: Console | None = None,
) -> Iterator[str]:
    """The parts of the text that `chipmark table` prints; arguments as those of `rows.build_rows`
    and `render.rendered`. No row is held once it is shown.

    Raises UnknownNameError for a baseline, metric or format that does not exist, before the first
    part.
    """
    pairs = Comparisons(sheets)
    judged = judge(sheets, baseline, rank_by, across_precision=across_precision, comparisons=pairs)
    summary = ""
    if format in FOR_PEOPLE:
        # Across precision classes rows are grouped in another way than a headline takes them.
        known = None if across_precision else judged
        summary = headline(judged_by_kind(sheets, baseline, rank_by, pairs, known))
    rows = each_row(judged)
    return rendered(rows, format, console, all_columns=all_columns, summary=summary)
