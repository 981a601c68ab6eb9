"""Text of files, tools and plug-ins as it may be shown: nothing in it is obeyed, or endless.

Standard library only; errors of every layer and everything that prints use it.
"""

from __future__ import annotations

import re
import unicodedata

LINE_LIMIT = 500
"""Characters of an error's one line: a file's own words in it must not fill a terminal."""

_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
_CUT = " ... "
_SHARE_OF_HEAD = 0.7
"""Of a shortened line: most of what is kept stands at its start, as the file and the field do."""


def plain_text(text: str) -> str:
    """Text whose control, escape, direction and other invisible characters are spelled (`\\x1b`).

    Spaces of every script stay; line breaks, tabs, lone surrogates and unassigned characters
    do not.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else spelled(c) for c in text
    )


def plain_lines(text: str) -> str:
    """As `plain_text`, with the line breaks kept."""
    return "\n".join(map(plain_text, text.split("\n")))


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """Plain text on one line of at most `limit` characters, its middle left out where it is longer.

    Line breaks become blanks.
    """
    # What is never shown is not spelled first: the text may be a file's million characters.
    text = _shortened(text, 2 * limit)
    return _shortened(plain_text(_BREAKS.sub(" ", text).strip()), limit)


def spelled(character: str) -> str:
    """A character by its escape, as in a Python string."""
    return repr(character)[1:-1]


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head = int((limit - len(_CUT)) * _SHARE_OF_HEAD)
    return text[:head] + _CUT + text[head + len(_CUT) - limit :]
