"""The one way to show text that somebody else may have made: a rule for each format.

Names and messages come from records, benchmark files, tools and plug-ins. In no format may they
hold a character that is obeyed instead of shown (`chipmark_models.plain_text`), and in none may
they become markup, a formula or a command. JSON needs no rule of its own: it is written in ASCII.
"""

from __future__ import annotations

import html
import re

from rich.markup import escape

from chipmark_models.plain_text import one_line, plain_text

__all__ = [
    "annotation_property",
    "annotation_text",
    "console_text",
    "csv_text",
    "html_text",
    "markdown_code",
    "markdown_line",
    "markdown_text",
    "one_line",
    "plain_text",
    "xml_text",
]

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_MARKUP = re.compile(r"[\\`*_\[\]|]|(?<!\w)@")
"""What begins markup inside a line of Markdown; an `@` after a blank names a person."""

_BLOCK = re.compile(r"\A(?:[#+=~-]|\d+(?=[.)]))")
"""What makes a heading, a list, a quote or a rule of a line that begins with it."""


def html_text(text: str) -> str:
    """Text as the content of an element or of a quoted attribute."""
    return html.escape(plain_text(text))


def xml_text(text: str) -> str:
    """Text for an XML writer that escapes markup itself: characters that XML 1.0 cannot hold, even
    escaped, are spelled. Line breaks stay."""
    return "\n".join(_XML_NEVER.sub("\ufffd", plain_text(line)) for line in text.split("\n"))


_XML_NEVER = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def csv_text(text: str) -> str:
    """Text as a field of CSV, quotes and commas left to the writer.

    A spreadsheet takes a field that begins with = + - @, a tab or a carriage return for a formula;
    such a field gets an apostrophe before it.
    """
    quoted = f"'{text}" if text.startswith(_FORMULA_STARTS) else text
    return plain_text(quoted)


def markdown_text(text: str) -> str:
    """Text within a line or a table's cell of Markdown: no markup, no HTML, no line break."""
    escaped = html.escape(plain_text(" ".join(text.split())), quote=False)
    return _MARKUP.sub(r"\\\g<0>", escaped)


def markdown_line(text: str) -> str:
    """As `markdown_text`, where a line or an item of a list begins."""
    return _BLOCK.sub(r"\\\g<0>", markdown_text(text))


def markdown_code(text: str) -> str:
    """Text between two backticks."""
    return plain_text(" ".join(text.split())).replace("`", "'")


def console_text(text: str) -> str:
    """A line for rich: neither its markup nor a terminal's control characters are obeyed."""
    return escape(plain_text(text))


def annotation_text(text: str) -> str:
    """The message of a workflow command of GitHub: a line of a file starts none of its own."""
    return plain_text(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def annotation_property(text: str) -> str:
    """A property of a workflow command, as its title."""
    return annotation_text(text).replace(":", "%3A").replace(",", "%2C")
