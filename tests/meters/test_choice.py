from __future__ import annotations

import pytest

from chipmark.errors import UnknownNameError, UsageError
from chipmark.meters.choice import MeterChoice, parse_choice


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("rapl", MeterChoice("rapl")),
        ("redfish:https://bmc.example/a,b", MeterChoice("redfish", "https://bmc.example/a,b")),
        (
            "csv:wall, old.csv,time=Date, Time,power=Power [W],zone=+08:00",
            MeterChoice(
                "csv",
                "wall, old.csv",
                {"time": "Date, Time", "power": "Power [W]", "zone": "+08:00"},
            ),
        ),
    ],
)
def test_a_meter_is_named_with_what_it_reads(text: str, choice: MeterChoice) -> None:
    assert parse_choice(text) == choice


@pytest.mark.parametrize("text", ["", ":file", ",time=a"])
def test_a_choice_names_a_meter(text: str) -> None:
    with pytest.raises(UsageError, match="names no meter"):
        parse_choice(text)


def test_an_option_is_given_once_and_known() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_choice("csv:a,zone=x,zone=y")
    with pytest.raises(UnknownNameError, match="power"):
        parse_choice("csv:a,pwer=x").check_options(("time", "power"))
