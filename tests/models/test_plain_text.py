"""Foreign text as it may be shown."""

from __future__ import annotations

import pytest

from chipmark_models.plain_text import one_line, plain_lines, plain_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("昇腾 910B", "昇腾 910B"),
        ("wide\u3000and\u00a0fixed", "wide\u3000and\u00a0fixed"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\u202eb\u2066c\u200bd\ufeff", "a\\u202eb\\u2066c\\u200bd\\ufeff"),
        ("a\tb\r\nc\x9b", "a\\tb\\r\\nc\\x9b"),
        ("lone \udcff", "lone \\udcff"),
    ],
)
def test_what_is_invisible_or_obeyed_is_spelled(text: str, shown: str) -> None:
    assert plain_text(text) == shown


def test_line_breaks_stay_where_lines_are_meant() -> None:
    assert plain_lines("a\x1b\nb\r") == "a\\x1b\nb\\r"


def test_one_line_is_short_and_keeps_both_ends() -> None:
    assert one_line("  first\n   second  third\u2028fourth ") == "first second  third fourth"
    found = one_line("start" + "\x00" * 100_000 + "end", 60)
    assert len(found) == 60
    assert found.startswith("start\\x00")
    assert found.endswith("end")
