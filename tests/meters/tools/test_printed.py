from __future__ import annotations

import pytest

from chipmark.meters.tools.printed import first_of_each, pci_address, reading_of, with_unit
from chipmark.meters.tools.reading import Missing


def test_the_first_text_that_is_a_value_counts() -> None:
    reading = reading_of(2, {"power_w": ("[N/A]", "71.4 W", "90 W"), "busy": "12.5%"})
    assert (reading.card, reading.power_w, reading.busy) == (2, 71.4, 0.125)
    assert reading.missing["cap_w"] is Missing.NOT_PRINTED


def test_a_text_that_is_no_value_has_its_reason() -> None:
    reading = reading_of(0, {"power_w": "?", "cap_w": "N/A", "name": "N/A", "pci": "x"})
    assert reading.missing["power_w"] is Missing.UNREADABLE
    assert reading.missing["cap_w"] is Missing.NOT_AVAILABLE
    assert (reading.name, reading.pci) == ("", "")


@pytest.mark.parametrize(
    ("printed", "address"),
    [
        ("00000000:2A:00.0", "00000000:2A:00.0"),
        ("00:3d:0.0", "0000:3d:00.0"),
        ("3d:00.0", "0000:3d:00.0"),
        ("N/A", ""),
        ("0000:3d:00", ""),
    ],
)
def test_pci_address(printed: str, address: str) -> None:
    assert pci_address(printed) == address


def test_a_unit_is_put_behind_a_bare_number_only() -> None:
    assert with_unit(" 858 ", "MiB") == "858 MiB"
    assert with_unit("858 GiB", "MiB") == "858 GiB"
    assert with_unit("N/A", "MiB") == "N/A"


def test_a_die_that_is_listed_twice_is_counted_once() -> None:
    one = reading_of(0, {"power_w": "50 W"})
    assert first_of_each([one, reading_of(0, {"power_w": "60 W"}), reading_of(1, {})]) == (
        one,
        reading_of(1, {}),
    )
