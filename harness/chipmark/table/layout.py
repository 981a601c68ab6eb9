"""Columns of text in a given width: fast enough for a thousand rows.

A terminal library measures and wraps every cell as styled text; over a thousand rows that takes
seconds. Here a cell is a string, and only a column that is too wide is wrapped.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

LEAST = 8
"""A column of words is not made narrower than this."""


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A head (lines split by a line break) and the side to which the column is aligned."""

    head: str
    align: Literal["left", "right"]


def text_table(
    columns: Sequence[TextColumn], rows: Sequence[Sequence[str]], width: int, gap: int = 2
) -> list[str]:
    """Lines of a table no wider than `width`, where columns of words leave that room.

    Numbers (columns aligned right) are never wrapped or cut: a wrong number is worse than a wide
    table.
    """
    heads = [column.head.split("\n") for column in columns]
    widths = [max(map(len, head)) for head in heads]
    for row in rows:
        widths = [max(w, len(text)) for w, text in zip(widths, row, strict=True)]
    floors = [
        w if column.align == "right" else max(LEAST, *map(len, head))
        for w, column, head in zip(widths, columns, heads, strict=True)
    ]
    while sum(widths) + gap * (len(widths) - 1) > width:
        spare = [w - floor for w, floor in zip(widths, floors, strict=True)]
        widest = max(range(len(widths)), key=lambda i: (spare[i] > 0, widths[i]))
        if spare[widest] <= 0:
            break
        widths[widest] -= 1
    space = " " * gap

    def line(texts: Sequence[str]) -> str:
        placed = (
            text.rjust(w) if column.align == "right" else text.ljust(w)
            for text, w, column in zip(texts, widths, columns, strict=True)
        )
        return space.join(placed).rstrip()

    height = max(len(head) for head in heads)
    padded = [[""] * (height - len(head)) + head for head in heads]
    lines = [line([head[i] for head in padded]) for i in range(height)]
    lines.append("─" * (sum(widths) + gap * (len(widths) - 1)))
    for row in rows:
        if all(len(text) <= w for text, w in zip(row, widths, strict=True)):
            lines.append(line(row))
            continue
        cells = [wrapped(text, w) for text, w in zip(row, widths, strict=True)]
        lines += [line(parts) for parts in zip_longest(*cells, fillvalue="")]
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most `width`; a long word is broken, an empty text is one line."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]
