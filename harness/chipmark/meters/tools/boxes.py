"""Tables that tools draw with `|`, `-` and `=`: cells by the words of their header.

Never by column offset, which every version moves. A header may have several lines; a device then
has as many, and the words of a cell belong to those above it in the header's cell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Block = tuple[tuple[str, ...], ...]
"""Lines of cells between two rules of a table."""

UNREAD = "?"
"""The text of a field that the header has, where the row's words do not match the header's."""

_RULE = re.compile(r"[|+=\-\s]*")
_UNITS = re.compile(r"(\d)\s+(W|MiB|MB|GiB|GB|MHz|C|%)(?=$|[\s/|])")
_AROUND_SLASH = re.compile(r"\s*/\s*")
_NOT_AVAILABLE = re.compile(r"\[?N/A\]?", re.IGNORECASE)
_HIDDEN = "\x00"
_PHRASES = (
    ("Volatile Uncorr. ECC", "Uncorr.ECC"),
    ("Compute M.", "Compute-M."),
    ("MIG M.", "MIG-M."),
    ("SR-IOV M.", "SR-IOV-M."),
)
"""Column names of several words."""


def blocks(text: str) -> list[Block]:
    """Every run of lines of cells, in order; what stands outside of a table ends one."""
    found: list[Block] = []
    lines: list[tuple[str, ...]] = []
    for raw in (*text.splitlines(), ""):
        line = raw.strip()
        if line.startswith("|") and not _RULE.fullmatch(line):
            lines.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
        elif lines:
            found.append(tuple(lines))
            lines = []
    return found


def records(block: Block, header: Block) -> list[Block]:
    """The devices of a block: one, or several without a rule between them; [] where its lines are
    not a multiple of the header's."""
    size = len(header)
    if len(block) % size:
        return []
    return [block[at : at + size] for at in range(0, len(block), size)]


def words(cell: str) -> list[str]:
    """The words of a cell, a pair as one: "N/A   38C     85W / 400W" has three."""
    text = _NOT_AVAILABLE.sub(_HIDDEN, cell)
    for phrase, name in _PHRASES:
        text = text.replace(phrase, name)
    text = _UNITS.sub(r"\1\2", _AROUND_SLASH.sub("/", text))
    return [word.replace(_HIDDEN, "N/A") for word in text.split()]


def pair(word: str) -> tuple[str, str]:
    """Both sides of a pair: "85W/400W"; the second is "" where there is one value."""
    first, _, second = _NOT_AVAILABLE.sub(_HIDDEN, word).partition("/")
    return first.replace(_HIDDEN, "N/A"), second.replace(_HIDDEN, "N/A")


def word_below(record: Block, header: Block, name: str) -> str | None:
    """The word below the header's word that matches the regular expression `name`; None where the
    header has none, UNREAD where the row has other words there than the header."""
    pattern = re.compile(name, re.IGNORECASE)
    for line, cells in enumerate(header):
        for at, cell in enumerate(cells):
            names = words(cell)
            for place, word in enumerate(names):
                if pattern.fullmatch(word):
                    return _word(record, line, at, place, len(names), len(cells))
    return None


def _word(record: Block, line: int, at: int, place: int, names: int, cells: int) -> str:
    if line >= len(record) or len(record[line]) != cells:
        return UNREAD
    found = words(record[line][at])
    return found[place] if len(found) == names else UNREAD


def is_header(block: Block, first: Sequence[str]) -> bool:
    """Whether a block's first words are these."""
    return words(block[0][0])[: len(first)] == list(first)
