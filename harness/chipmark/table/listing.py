"""How every command lists things on a terminal: in its width, with nothing cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chipmark.foreign_text import plain_text
from chipmark.table.layout import TextColumn, listing, wrapped

if TYPE_CHECKING:
    from rich.console import Console

_NO_STYLES: Mapping[str, str] = {}


def name(head: str) -> TextColumn:
    """A column of names, which are never wrapped."""
    return TextColumn(head, "left", whole=True)


def words(head: str) -> TextColumn:
    """A column of text, which may be wrapped between words."""
    return TextColumn(head, "left")


def number(head: str) -> TextColumn:
    """A column of numbers with their units, which are never wrapped."""
    return TextColumn(head, "right")


def show(
    console: Console,
    columns: Sequence[TextColumn],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    lead: int = 1,
    styles: Mapping[str, str] = _NO_STYLES,
) -> None:
    """Print rows in the console's width; control characters in them are shown, not obeyed.

    lead: how many of the first columns name a row. styles: rich's style by regular expression.
    """
    from rich.text import Text

    heading = wrapped(plain_text(title), console.width) if title else []
    plain = [[plain_text(text) for text in row] for row in rows]
    body = listing(columns, plain, console.width, lead)
    text = Text("\n".join([*heading, *body]))
    text.highlight_regex(r"(?m)^.*\n(?=─+$)", "bold")
    for pattern, style in styles.items():
        text.highlight_regex(pattern, style)
    console.print(text, soft_wrap=True)
