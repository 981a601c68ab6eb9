"""Which card computes, and whose watts are a card's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chipmark.chips.contract import DeviceKey
from chipmark.errors import ChipmarkError
from chipmark.meters.choice import parse_choice
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.cards import Card, Holder, card_of, cards_of, limit_of, watts_of
from chipmark.meters.tools.cnmon import CNMON
from chipmark.meters.tools.npu_smi import NPU_SMI
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.xpu_smi import XPU_SMI

A3 = tuple(
    DieReading(card, die, name="Ascend910", pci=f"0000:{card}{die}:00.0")
    for card in range(3)
    for die in range(2)
)
"""Three cards of two chips."""

P800 = tuple(DieReading(n, name="P800 OAM", pci=f"00000000:{n + 3:02x}:00.0") for n in range(3))

X8 = tuple(
    DieReading(n, name="MLU370-X8", power_w=107.0, cap_w=250.0, pci=f"0000:{n:02x}:00.0")
    for n in range(4)
)
"""Two cards, each listed as two."""


def request(device: str, vendor: str = "Huawei", pci: str = "") -> MeterRequest:
    return MeterRequest(vendor, "card", device, key=DeviceKey(pci=pci))


def test_chips_with_a_number_are_of_the_card_that_the_tool_says() -> None:
    cards = cards_of(NPU_SMI, A3)
    assert [card.numbers for card in cards] == [(0,), (1,), (2,)]
    assert cards[1].places == ((1, 0), (1, 1))


def test_rows_of_a_two_die_card_are_grouped_by_the_catalogue() -> None:
    cards = cards_of(CNMON, X8)
    assert [card.numbers for card in cards] == [(0, 1), (2, 3)]
    assert all(card.whole for card in cards)
    assert cards_of(CNMON, X8[:3])[1].whole is False
    assert [c.numbers for c in cards_of(XPU_SMI, P800)] == [(0,), (1,), (2,)]


@pytest.mark.parametrize(
    ("device", "visible", "number"),
    [
        ("npu:0", "", 0),
        ("npu", "", 0),
        ("npu:3", "", 1),
        ("npu:5", "", 2),
        ("npu:0", "4,5", 2),
        ("npu:1", "4, 2", 1),
    ],
)
def test_the_number_goes_through_the_vendors_variable(
    device: str, visible: str, number: int
) -> None:
    environ = {"ASCEND_RT_VISIBLE_DEVICES": visible, "CUDA_VISIBLE_DEVICES": "7"}
    card = card_of(NPU_SMI, cards_of(NPU_SMI, A3), request(device), environ)
    assert card.numbers == (number,)


@pytest.mark.parametrize(
    ("device", "visible"),
    [("npu:6", ""), ("npu:2", "0,1"), ("npu:0", "a-uuid"), ("npu:0", "9"), ("npu:x", "")],
)
def test_a_number_that_decides_nothing_is_refused(device: str, visible: str) -> None:
    environ = {"ASCEND_RT_VISIBLE_DEVICES": visible}
    with pytest.raises(ChipmarkError) as raised:
        card_of(NPU_SMI, cards_of(NPU_SMI, A3), request(device), environ)
    assert "--meter npu-smi:NUMBER" in raised.value.hint


def test_without_a_known_variable_none_may_be_set() -> None:
    cards = cards_of(XPU_SMI, P800)
    wanted = request("kunlun:1", "Kunlunxin")
    assert card_of(XPU_SMI, cards, wanted, {}).numbers == (1,)
    with pytest.raises(ChipmarkError, match="XPU_VISIBLE_DEVICES is set"):
        card_of(XPU_SMI, cards, wanted, {"XPU_VISIBLE_DEVICES": "2,1"})
    one = card_of(XPU_SMI, cards[2:], wanted, {"XPU_VISIBLE_DEVICES": "2,1"})
    assert one.numbers == (2,)


def test_an_address_goes_before_the_number() -> None:
    cards = cards_of(XPU_SMI, P800)
    environ = {"XPU_VISIBLE_DEVICES": "2"}
    wanted = request("cuda:0", "Kunlunxin", pci="0000:05:00.0")
    assert card_of(XPU_SMI, cards, wanted, environ).numbers == (2,)
    with pytest.raises(ChipmarkError, match="lists no card at 0000:66"):
        card_of(XPU_SMI, cards, request("cuda:0", "Kunlunxin", pci="0000:66:00.0"), environ)


def test_the_users_number_goes_before_everything() -> None:
    cards = cards_of(CNMON, X8)
    asked = replace(request("mlu:0", "Cambricon"), choices=(parse_choice("cnmon:3"),))
    assert card_of(CNMON, cards, asked, {}).numbers == (2, 3)
    wrong = replace(asked, choices=(parse_choice("cnmon:4"),))
    with pytest.raises(ChipmarkError, match="lists no such card"):
        card_of(CNMON, cards, wrong, {})


def test_a_part_of_a_card_is_refused() -> None:
    part = replace(P800[0], shared="SR-IOV")
    with pytest.raises(ChipmarkError, match="part of a card"):
        card_of(XPU_SMI, cards_of(XPU_SMI, (part,)), request("kunlun", "Kunlunxin"), {})
    with pytest.raises(ChipmarkError, match="lists one die of"):
        card_of(CNMON, cards_of(CNMON, X8[:1]), request("mlu", "Cambricon"), {})


def die(number: int, power: float | None, cap: float | None = None) -> DieReading:
    return DieReading(0, number, name="Ascend910", power_w=power, cap_w=cap)


BOARD = DieReading(0, 2, power_w=250.0, whole_card=True)


@pytest.mark.parametrize(
    ("readings", "holder", "watts"),
    [
        ((die(0, 176.4), die(1, 170.0)), Holder.SUM, 346.4),
        ((die(0, 176.4), die(1, None)), Holder.SHARED, 176.4),
        ((die(0, None), die(1, 176.4)), Holder.SHARED, 176.4),
        ((die(0, None), die(1, None), BOARD), Holder.BOARD, 250.0),
        ((die(0, 100.0), die(1, 101.0), BOARD), Holder.SUM, 201.0),
    ],
)
def test_watts_of_a_card_of_two_dies(
    readings: tuple[DieReading, ...], holder: Holder, watts: float
) -> None:
    card = Card(readings[:2])
    found = watts_of(NPU_SMI, readings, card)
    assert found is not None
    assert found.holder is holder
    assert found.of(readings, card) == pytest.approx(watts)


def test_half_of_a_cards_watts_are_none_of_it() -> None:
    both = (die(0, 176.4), die(1, 170.0))
    card = Card(both)
    found = watts_of(NPU_SMI, both, card)
    assert found is not None
    assert found.of((die(0, 176.4), die(1, None)), card) is None
    assert found.of((die(0, 176.4),), card) is None
    one = watts_of(NPU_SMI, (die(0, 176.4), die(1, None)), card)
    assert one is not None
    assert one.of(both, card) is None


def test_rows_that_print_the_cards_limit_repeat_one_sensor() -> None:
    card = Card(X8[:2])
    found = watts_of(CNMON, X8, card)
    assert found is not None
    assert found.holder is Holder.REPEATED
    assert found.of(X8, card) == 107.0
    assert limit_of(found, [250.0, 250.0]) == 250.0
    apart = (X8[0], replace(X8[1], power_w=60.0))
    with pytest.raises(ChipmarkError, match="not clear whether they add up"):
        watts_of(CNMON, apart, Card(apart))


def test_the_limit_of_dies_with_their_own_is_their_sum() -> None:
    both = (die(0, 176.4, 300.0), die(1, 170.0, 300.0))
    found = watts_of(NPU_SMI, both, Card(both))
    assert found is not None
    assert limit_of(found, [300.0, 300.0]) == 600.0
    assert limit_of(found, [300.0, None]) is None
    assert limit_of(found, [None, None]) is None


def test_two_of_three_dies_with_watts_are_refused() -> None:
    three = (die(0, 100.0), die(1, 100.0), die(2, None))
    with pytest.raises(ChipmarkError, match="2 of the 3 dies"):
        watts_of(NPU_SMI, three, Card(three))
