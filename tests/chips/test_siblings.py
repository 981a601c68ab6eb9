"""Dies of one card by their numbers. Names and orders are the vendors' words, tried on no card."""

from __future__ import annotations

import pytest

from chipmark.chips.detect import chip_of
from chipmark.chips.siblings import sibling_devices


@pytest.mark.parametrize(
    ("backend", "visible", "devices"),
    [
        ("torch:npu", "", ("npu:0", "npu:1")),
        ("torch:npu:1", "", ("npu:0", "npu:1")),
        ("torch:npu:2", "", ("npu:2", "npu:3")),
        ("torch:mlu:5", "", ("mlu:4", "mlu:5")),
        ("sim:twin:1", "", ("twin:0", "twin:1")),
        # The process sees dies 3, 2 and 6: its numbers 1 and 0 are one card.
        ("torch:npu:0", "3, 2,6", ("npu:1", "npu:0")),
        ("torch:npu:2", "3, 2,6", ()),
        ("torch:npu:3", "3, 2,6", ()),
        ("torch:npu", "UUID-7", ()),
        ("ort:cann", "", ()),
        ("torch:npu:x", "", ()),
    ],
)
def test_devices_of_the_card(backend: str, visible: str, devices: tuple[str, ...]) -> None:
    assert sibling_devices(backend, 2, visible) == devices
    assert sibling_devices(backend, 1, visible) == ()


@pytest.mark.parametrize(
    ("backend", "called", "name", "devices"),
    [
        ("torch:npu", "Ascend910_9382", "ascend-910c", ("npu:0", "npu:1")),
        ("torch:npu:3", "Ascend310P3 300I Duo", "ascend-310p-duo", ("npu:2", "npu:3")),
        ("torch:mlu", "MLU370-X8", "cambricon-mlu370-x8", ("mlu:0", "mlu:1")),
    ],
)
def test_two_die_cards_name_their_dies(
    monkeypatch: pytest.MonkeyPatch, backend: str, called: str, name: str, devices: tuple[str, ...]
) -> None:
    for variable in ("ASCEND_RT_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    chip = chip_of(backend, called)
    assert (chip.name, chip.unit, chip.used, chip.of) == (name, "card", 1, 2)
    assert (chip.devices, chip.verified) == (devices, False)
    # What the vendor's variable hides is not there.
    for variable in ("ASCEND_RT_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES"):
        monkeypatch.setenv(variable, "0")
    assert chip_of(backend, called).devices == ()


def test_card_of_one_die_has_no_devices_of_its_own() -> None:
    assert chip_of("torch:npu", "Ascend910B3").devices == ()
    assert chip_of("sim:golden").devices == ()
