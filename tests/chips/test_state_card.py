from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from chipmark.chips.device_users import DeviceUsers
from chipmark.chips.nvml import cards, open_nvml
from chipmark.chips.state import DeviceState
from chipmark.chips.state_card import CardSource


def source(users: DeviceUsers | None = None) -> CardSource:
    return CardSource(cards(open_nvml())[0], users or DeviceUsers(container=True))


def test_everything_that_a_card_says(install: Callable[..., Any], paper_nvml: ModuleType) -> None:
    install(paper_nvml.PaperCard(
        clock=1755, most=1980, celsius=61, errors=3, pids=[], use=87, reasons=0x4, limit=400_000,
    ))  # fmt: skip
    assert source().read() == DeviceState(
        clock_mhz=1755, nominal_mhz=1980, temperature_c=61, throttle=("sw_power_cap",),
        power_limit_w=400.0, power_limit_default_w=700.0, ecc_errors=3, other_processes=0,
        shared="", busy=0.87,
    )  # fmt: skip


def test_a_card_that_says_nothing(install: Callable[..., Any], paper_nvml: ModuleType) -> None:
    install(paper_nvml.PaperCard(reasons=None, limit=None, default=None, mig=None))
    assert source().read() == DeviceState(shared="")
    found = source().sample()
    assert (found.throttle, found.loaded, found.capped) == (None, None, False)


@pytest.mark.parametrize(
    ("name", "nominal"), [("NVIDIA H200", 1980), ("NVIDIA GeForce RTX 4090", None)]
)
def test_no_card_for_displays_reaches_its_highest_clock(
    install: Callable[..., Any], paper_nvml: ModuleType, name: str, nominal: int | None
) -> None:
    install(paper_nvml.PaperCard(name=name, most=1980))
    assert source().read().nominal_mhz == nominal


@pytest.mark.parametrize(
    ("reasons", "use", "loaded"),
    [
        (0x1, 90, False), (0x0, 90, True), (0x0, 5, False), (0x4, None, True), (None, 90, True),
        (None, 3, False), (None, None, None),
    ],
)  # fmt: skip
def test_load_is_what_reasons_and_gauge_agree_on(
    install: Callable[..., Any], paper_nvml: ModuleType, reasons: int, use: int, loaded: bool
) -> None:
    install(paper_nvml.PaperCard(reasons=reasons, use=use))
    assert source().sample().loaded is loaded


def test_a_slice_shares_clock_and_heat_with_its_card(
    install: Callable[..., Any], paper_nvml: ModuleType
) -> None:
    card, part = paper_nvml.split_card()
    part.reasons, card.reasons, card.clock = None, 0x80, 1980
    install(card)
    slice_ = CardSource(cards(open_nvml())[0], DeviceUsers(container=True))
    state = slice_.read()
    assert (state.throttle, state.clock_mhz) == (("hw_power_brake_slowdown",), 1980)
    assert state.shared == "MIG 1g.18gb"


@pytest.mark.parametrize(("mode", "shared"), [(0, ""), (1, ""), (2, "vGPU"), (3, "vGPU host")])
def test_a_virtual_card_is_a_share(
    install: Callable[..., Any], paper_nvml: ModuleType, mode: int, shared: str
) -> None:
    install(paper_nvml.PaperCard(virtualization=mode))
    assert source().read().shared == shared


def test_who_uses_the_card_is_asked_every_tenth_time(
    install: Callable[..., Any], paper_nvml: ModuleType
) -> None:
    card = paper_nvml.PaperCard(pids=[])
    install(card)
    device = source(DeviceUsers(container=False))
    assert device.read().other_processes == 0
    card.pids = [1]
    found = [device.sample() for _ in range(10)]
    assert [sample.other_processes for sample in found] == [None] * 9 + [1]
    assert found[-1].other_pids == (1,)
