"""Columns of text in a given width, nothing of which is cut: fast enough for a thousand rows.

What does not fit is wrapped between words, then put in a second table below the first, then in a
block of `name  value` lines for each row. A terminal library measures and wraps every cell as
styled text; over a thousand rows that takes seconds. Here a cell is a string, and only a column
that is too wide is wrapped.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

LEAST = 8
"""A column of words is not made narrower than this, where its texts are longer."""

MOST_PARTS = 3
"""A listing that would need more tables below each other is shown as blocks."""


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A column of text."""

    head: str
    """Its name, in lines split by a line break."""
    align: Literal["left", "right"]
    """The side of its texts. Those on the right are numbers with their units: never wrapped."""
    whole: bool = False
    """Whether its texts are names, which are never wrapped either."""


def listing(
    columns: Sequence[TextColumn], rows: Sequence[Sequence[str]], width: int, lead: int = 1
) -> list[str]:
    """Lines of a listing whose first columns name the row: `text_tables`, but a block for each row
    where a width as small as this would need more than MOST_PARTS of them."""
    if len(_parts(columns, rows, width, 2, lead)) > MOST_PARTS:
        return text_blocks(columns, rows, width)
    return text_tables(columns, rows, width, lead=lead)


def text_tables(
    columns: Sequence[TextColumn],
    rows: Sequence[Sequence[str]],
    width: int,
    gap: int = 2,
    lead: int = 1,
) -> list[str]:
    """`text_table`, in as many tables below each other as the width asks for: no number and no
    word is cut or broken. Each table begins with the first `lead` columns. Where one of them is
    still wider than the width, `text_blocks` instead. A row with nothing to show in a further
    table is left out of it."""
    parts = _parts(columns, rows, width, gap, lead)
    floors = _floors(columns, rows)
    widest = max(_room([floors[i] for i in part], gap) for part in parts)
    if widest > width and len(columns) > 1:
        return text_blocks(columns, rows, width)
    lines: list[str] = []
    for part in parts:
        shown = rows if part is parts[0] else [r for r in rows if any(r[i] for i in part[lead:])]
        if rows and not shown:
            continue
        lines += [""] if lines else []
        some = [[row[i] for i in part] for row in shown]
        lines += text_table([columns[i] for i in part], some, width, gap)
    return lines


def text_blocks(
    columns: Sequence[TextColumn], rows: Sequence[Sequence[str]], width: int
) -> list[str]:
    """A block for each row, with a line `head  text` for each text that is not empty. Texts are
    wrapped between words; a word longer than the width stays whole."""
    heads = [" ".join(column.head.split("\n")) for column in columns]
    margin = max(map(len, heads)) + 2
    lines: list[str] = []
    for row in rows:
        lines += [""] if lines else []
        for column, head, text in zip(columns, heads, row, strict=True):
            if not text:
                continue
            whole = column.whole or column.align == "right"
            parts = [text] if whole else wrapped(text, max(width - margin, LEAST))
            if margin + max(map(len, parts)) > width:
                # On lines of its own, as far to the left as can be.
                parts = [text] if whole else wrapped(text, max(width - 2, LEAST))
                lines += [head] if head else []
                lines += [f"  {part}" for part in parts]
                continue
            lines.append(f"{head.ljust(margin)}{parts[0]}")
            lines += [" " * margin + part for part in parts[1:]]
    return lines


def _parts(
    columns: Sequence[TextColumn], rows: Sequence[Sequence[str]], width: int, gap: int, lead: int
) -> list[list[int]]:
    """Indices of the columns of each table."""
    floors = _floors(columns, rows)
    used, parts = _room(floors[:lead], gap), [list(range(lead))]
    for index in range(lead, len(columns)):
        if used + gap + floors[index] > width and len(parts[-1]) > lead:
            parts.append(list(range(lead)))
            used = _room(floors[:lead], gap)
        parts[-1].append(index)
        used += gap + floors[index]
    return parts


def _room(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * max(0, len(widths) - 1)


def _floors(columns: Sequence[TextColumn], rows: Sequence[Sequence[str]]) -> list[int]:
    """Least width of each column: numbers whole, and of words the longest."""
    floors = []
    for index, column in enumerate(columns):
        texts = [row[index] for row in rows]
        if column.align == "left" and not column.whole:
            texts = [word for text in texts for word in text.split()]
        heads = map(len, column.head.split("\n"))
        least = 0 if column.align == "right" else min(LEAST, _widest(rows, index))
        floors.append(max(least, *heads, *map(len, texts)))
    return floors


def _widest(rows: Sequence[Sequence[str]], index: int) -> int:
    return max((len(row[index]) for row in rows), default=0)


def text_table(
    columns: Sequence[TextColumn], rows: Sequence[Sequence[str]], width: int, gap: int = 2
) -> list[str]:
    """Lines of a table no wider than `width`, where its numbers and longest words leave that room.

    Numbers (columns aligned right) and words are never wrapped or cut: a wrong number is worse
    than a wide table.
    """
    heads = [column.head.split("\n") for column in columns]
    widths = [max(map(len, head)) for head in heads]
    for row in rows:
        widths = [max(w, len(text)) for w, text in zip(widths, row, strict=True)]
    floors = _floors(columns, rows)
    while _room(widths, gap) > width:
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
    lines.append("─" * _room(widths, gap))
    for row in rows:
        if all(len(text) <= w for text, w in zip(row, widths, strict=True)):
            lines.append(line(row))
            continue
        cells = [wrapped(text, w) for text, w in zip(row, widths, strict=True)]
        lines += [line(parts) for parts in zip_longest(*cells, fillvalue="")]
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most `width`, except that a longer word stays whole; an empty text
    is one line."""
    if len(text) <= width:
        return [text]
    lines = textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)
    return lines or [""]
