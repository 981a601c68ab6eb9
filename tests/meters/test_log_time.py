from __future__ import annotations

import pytest

from chipmark.errors import UsageError
from chipmark.meters.log_time import TimeForm, time_form, zone_of, zone_text

# 2026-07-01 12:00:00 UTC
T = 1782907200.0


@pytest.mark.parametrize(
    ("text", "pattern", "zone"),
    [
        ("2026-07-01T12:00:00Z", "", ""),
        ("2026-07-01T14:00:00+02:00", "", "-05:00"),
        ("2026-07-01 14:00", "", "Europe/Berlin"),
        ("2026-07-01 14:00:00,000", "iso", "+2"),
        ("2026/7/1 20:00:00.0", "", "+0800"),
        ("07/01/2026 07:30:00 AM", "%m/%d/%Y %I:%M:%S %p", "-04:30"),
        ("2026-07-01 14:00:00 +0200", "%Y-%m-%d %H:%M:%S %z", ""),
        ("1782907200", "", ""),
        ("1782907200,00", "", ""),
        ("1782907200000", "", ""),
        ("1782907200000000000", "", ""),
        ("1782907200000", "epoch_ms", "+08:00"),
    ],
)
def test_every_form_is_the_same_moment(text: str, pattern: str, zone: str) -> None:
    assert time_form(pattern, zone).unix_s(f" {text} ") == pytest.approx(T, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "pattern", "what"),
    [
        ("", "", "neither ISO 8601"),
        ("12:00:00", "", "neither ISO 8601"),
        ("2026-13-01 12:00", "", "neither ISO 8601"),
        ("01.07.2026 12:00", "", "neither ISO 8601"),
        ("3.5", "", "is not Unix time"),
        ("99999999999999999999", "", "neither ISO 8601"),
        ("12:00", "%H:%M", "has no year"),
        ("x", "%Y", "is not of the format"),
        ("now", "epoch_s", "not a number of seconds"),
        ("\x1b[31m" * 50, "", r"\\x1b"),
    ],
)
def test_what_is_no_time_is_said_in_a_line(text: str, pattern: str, what: str) -> None:
    with pytest.raises(ValueError, match=what) as error:
        time_form(pattern, "").unix_s(text)
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 200


def test_whether_the_zone_decides() -> None:
    assert TimeForm().is_naive("2026-07-01 12:00:00")
    assert not TimeForm().is_naive("2026-07-01 12:00:00+08:00")
    assert not TimeForm().is_naive("1782907200")
    assert TimeForm("%d.%m.%Y %H:%M").is_naive("01.07.2026 12:00")


def test_a_zone_is_written_as_it_is_read() -> None:
    for text in ("+08:00", "-03:30", "+00:00", "+14:00"):
        offset = zone_of(text).utcoffset(None)
        assert offset is not None
        assert zone_text(offset.total_seconds()) == text
    with pytest.raises(UsageError, match="over 14 hours"):
        zone_of("-15:00")
