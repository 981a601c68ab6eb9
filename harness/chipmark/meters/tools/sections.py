"""Answers of lines `Key : value`, with headings, blank lines and indents between them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r"(\s*)([^:\s][^:]*?)\s*:(?:\s+(.*?))?\s*")
_BLANKS = re.compile(r"\s+")
_INTEGER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Line:
    """One line. A heading has no value; a blank line has no key either."""

    indent: int
    key: str
    """In lower case, one blank between words; "" of a blank line."""
    value: str | None = None
    """None of a heading."""


def lines_of(text: str) -> list[Line]:
    """Every line of an answer."""
    found = []
    for raw in text.expandtabs(4).splitlines():
        match = _LINE.fullmatch(raw)
        if match is not None:
            value = match.group(3)
            found.append(Line(len(match.group(1)), _key(match.group(2)), value or ""))
        else:
            found.append(Line(len(raw) - len(raw.lstrip()), _key(raw)))
    return found


def integer(text: str | None) -> int | None:
    """A number of a card, die or count, which has digits only; None for another text."""
    bare = (text or "").strip()
    return int(bare) if _INTEGER.fullmatch(bare) else None


def _key(text: str) -> str:
    return _BLANKS.sub(" ", text.strip()).lower()
