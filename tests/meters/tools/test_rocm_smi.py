"""AMD's rocm-smi and Hygon's are told apart by what they print."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chipmark.chips.contract import DeviceKey
from chipmark.errors import ChipmarkError
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.hy_smi import HY_SMI
from chipmark.meters.tools.reading import Missing
from chipmark.meters.tools.rocm_smi import ROCM_SMI, is_own, read_cards

DATA = Path(__file__).parent / "data"


def answers(file: str) -> list[dict[str, Any]]:
    return list(tomllib.loads((DATA / f"{file}.toml").read_text())["answer"])


def overview(file: str) -> str:
    return str(answers(file)[0]["text"])


def test_the_tools_of_two_vendors_are_told_apart() -> None:
    for file in ("rocm-smi-6.3-MI300X", "rocm-smi-6.0-MI250"):
        assert is_own(overview(file))
        assert not HY_SMI.is_own(overview(file))
    for file in ("rocm-smi-23.10-Z100", "hy-smi-24.04-K100-AI", "hy-smi-26.04-BW"):
        for answer in answers(file):
            assert not is_own(answer["text"])
    assert not is_own("")


def test_hygons_program_is_no_meter_of_an_amd_card(program: Callable[[str], Any]) -> None:
    hygon = answers("hy-smi-24.04-K100-AI")
    program("rocm-smi").prints(
        [{"arguments": " ".join(ROCM_SMI.overview.arguments), "text": hygon[0]["text"]}]
    )
    with pytest.raises(ChipmarkError, match="another vendor's program"):
        ROCM_SMI.for_request(MeterRequest("AMD", "card", "cuda:0"))


def test_the_second_die_has_no_watts_of_its_own(program: Callable[[str], Any]) -> None:
    program("rocm-smi").prints(answers("rocm-smi-6.0-MI250"))
    request = MeterRequest("AMD", "card", "cuda:1", key=DeviceKey(pci="00000000:d1:00.0"))
    with pytest.raises(ChipmarkError):
        ROCM_SMI.for_request(request)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0", Missing.ZERO),
        ("N/A", Missing.NOT_AVAILABLE),
        ("65535", Missing.OUT_OF_RANGE),
        ("low power", Missing.UNREADABLE),
    ],
)
def test_a_power_that_is_none_says_why(text: str, why: Missing) -> None:
    answer = f'{{"card0": {{"Average Graphics Package Power (W)": "{text}"}}}}'
    (reading,) = read_cards(answer)
    assert reading.power_w is None
    assert reading.missing["power_w"] is why
