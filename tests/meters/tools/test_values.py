from __future__ import annotations

import pytest

from chipmark.meters.tools.reading import Missing
from chipmark.meters.tools.values import BYTES, CELSIUS, MEGAHERTZ, PERCENT, WATTS, Unit, quantity


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("103.5 W", WATTS, 103.5),
        ("43.09W", WATTS, 43.09),
        ("91.3", WATTS, 91.3),
        ("43090 mW", WATTS, 43.09),
        ("35C", CELSIUS, 35.0),
        ("35 ℃", CELSIUS, 35.0),
        ("1450 MHz", MEGAHERTZ, 1450.0),
        ("0%", PERCENT, 0.0),
        ("98304MiB", BYTES, 98304.0 * 2**20),
        ("32G", BYTES, 32.0 * 2**30),
    ],
)
def test_a_number_with_its_unit(text: str, unit: Unit, value: float) -> None:
    assert quantity(text, unit) == (value, None)


@pytest.mark.parametrize(
    ("text", "unit", "why"),
    [
        ("[N/A]", WATTS, Missing.NOT_AVAILABLE),
        ("-", WATTS, Missing.NOT_AVAILABLE),
        ("NA", WATTS, Missing.NOT_AVAILABLE),
        ("", WATTS, Missing.NOT_AVAILABLE),
        ("0.0 W", WATTS, Missing.ZERO),
        ("-3 W", WATTS, Missing.OUT_OF_RANGE),
        ("99999999 W", WATTS, Missing.OUT_OF_RANGE),
        ("101%", PERCENT, Missing.OUT_OF_RANGE),
        ("103,5 W", WATTS, Missing.UNREADABLE),
        ("35C", WATTS, Missing.UNREADABLE),
        ("1e3 W", WATTS, Missing.UNREADABLE),
        ("inf", WATTS, Missing.UNREADABLE),
    ],
)
def test_what_is_no_number_of_the_unit_has_a_reason(text: str, unit: Unit, why: Missing) -> None:
    assert quantity(text, unit) == (None, why)
