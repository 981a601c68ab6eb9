from __future__ import annotations

import json
from typing import Any

import pytest

from chipmark.meters.tools.amd_smi import read_cards
from chipmark.meters.tools.reading import Missing


def power(value: Any) -> Any:
    (reading,) = read_cards(json.dumps([{"gpu": 0, "power": {"socket_power": value}}]))
    return reading.power_w if reading.power_w is not None else reading.missing["power_w"]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"value": 142, "unit": "W"}, 142.0),
        ({"value": "142.5", "unit": "W"}, 142.5),
        ({"value": 142000, "unit": "mW"}, 142.0),
        (142, 142.0),
        ("N/A", Missing.NOT_AVAILABLE),
        ({"value": "N/A", "unit": "W"}, Missing.NOT_AVAILABLE),
        ({"value": 0, "unit": "W"}, Missing.ZERO),
        ({"value": 142, "unit": "J"}, Missing.UNREADABLE),
        (2**32 - 1, Missing.OUT_OF_RANGE),
        (None, Missing.NOT_PRINTED),
        ([1], Missing.NOT_AVAILABLE),
        (True, Missing.UNREADABLE),
    ],
)
def test_a_quantity_is_in_its_range_or_says_why(value: Any, found: Any) -> None:
    assert power(value) == found


@pytest.mark.parametrize(
    "text",
    ["", "[", "{}", "[]", "null", "[7]", '{"gpu_data": 3}', "[" * 5000, "usage: amd-smi [-h] ..."],
)
def test_what_is_no_list_of_cards_is_nothing(text: str) -> None:
    assert read_cards(text) == ()
