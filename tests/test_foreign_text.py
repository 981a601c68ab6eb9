"""A rule for each format in which foreign text is shown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from chipmark.foreign_text import (
    annotation_property,
    annotation_text,
    csv_text,
    html_text,
    markdown_code,
    markdown_line,
    markdown_text,
    xml_text,
)

NASTY = "\x1b[31m\x07\u202e\u200b\x9b \ud800<script>x</script>\t`|*_[a](b)"
EVERY = (
    annotation_property, annotation_text, csv_text, html_text, markdown_code, markdown_line,
    markdown_text, xml_text,
)  # fmt: skip


@pytest.mark.parametrize("rule", EVERY)
def test_no_format_holds_a_character_that_is_obeyed(rule: Callable[[str], str]) -> None:
    assert rule(NASTY).isprintable()
    rule(NASTY).encode("utf-8")
    assert rule("昇腾 910B") == "昇腾 910B"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_is_text_in_a_spreadsheet(text: str) -> None:
    sink = io.StringIO()
    csv.writer(sink).writerow([csv_text(text)])
    (cell,) = next(csv.reader(io.StringIO(sink.getvalue())))
    assert cell.startswith("'")
    assert csv_text("a=1") == "a=1"


def test_html_is_not_markup_in_an_element_or_an_attribute() -> None:
    seen: list[tuple[str, object]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, attrs))

    nasty = html_text("\"' onload=x <script>&amp;")
    Tags().feed(f'<td title="{nasty}">{nasty}</td>')
    assert seen == [("td", [("title", "\"' onload=x <script>&amp;")])]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b\n`c` <b>", "a\\|b \\`c\\` &lt;b&gt;"),
        ("[a](http://x) *b* __c__ ~d", "\\[a\\](http://x) \\*b\\* \\_\\_c\\_\\_ ~d"),
        ("qwen3-8b@synthetic", "qwen3-8b@synthetic"),
        ("cc @somebody", "cc \\@somebody"),
        ("a \\| b", "a \\\\\\| b"),
        ("-", "-"),
    ],
)
def test_markdown_is_not_markup(text: str, shown: str) -> None:
    assert markdown_text(text) == shown


@pytest.mark.parametrize("text", ["# head", "- item", "+ item", "=== ", "12. item", "3) x"])
def test_a_line_of_markdown_begins_no_block(text: str) -> None:
    assert "\\" in markdown_line(text)
    assert markdown_line("1: ort:cpu") == "1: ort:cpu"


def test_code_ends_at_its_own_backtick() -> None:
    assert markdown_code("a`b\nc") == "a'b c"


def test_xml_keeps_what_it_can_hold() -> None:
    element = ElementTree.Element("a", {"name": xml_text('<&">\ufffe\x00')})
    element.text = xml_text("line\nline\x0b")
    again = ElementTree.fromstring(ElementTree.tostring(element))
    assert again.attrib["name"] == '<&">\\ufffe\\x00'
    assert again.text == "line\nline\\x0b"


def test_an_annotation_starts_no_command_of_its_own() -> None:
    assert annotation_text("a%\r\n::error::b") == "a%25%0D%0A::error::b"
    assert annotation_property("a,b:c") == "a%2Cb%3Ac"
