"""The catalogue's power of a whole unit."""

from __future__ import annotations

import pytest

from chipmark.cell.prepare import meter_request
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.nameplate import unit_nameplate_w
from chipmark.meters.pick import pick_meters


@pytest.mark.parametrize(
    ("name", "watts"),
    [
        ("nvidia-h200-sxm", 700),
        ("nvidia-h200-sxm (400 W of 700 W)", 700),
        ("kunlun-p800", 400),
        ("ascend-910c", None),
        ("unheard-of", None),
    ],
)
def test_a_card_has_its_tdp_or_its_ceiling(name: str, watts: float | None) -> None:
    assert unit_nameplate_w(ChipIdentity(name, "v", "d", "card", 1, 1)) == watts


def test_another_unit_has_none() -> None:
    assert unit_nameplate_w(ChipIdentity("nvidia-h200-sxm", "v", "d", "server", 8, 8)) is None


@pytest.mark.parametrize(("power_w", "source"), [(0.01, "assumed"), (700.0, "declared")])
def test_the_meter_of_a_run_knows_the_nameplate(power_w: float, source: str) -> None:
    card = ChipIdentity("nvidia-h200-sxm", "NVIDIA", "NVIDIA H200", "card", 1, 1)
    meter = pick_meters(meter_request(card, "cuda", power_w)).meter
    assert meter is not None
    assert meter.info.source == source
