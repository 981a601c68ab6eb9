from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chipmark.chips.contract import ChipIdentity
from chipmark.chips.detect import chip_of
from chipmark.chips.throttle import CardWatch, throttle_notes, watch_for

HOST = ChipIdentity("cpu-x", "Intel", "x", "package", 1, 1)


def test_reason_in_the_middle_of_a_repeat_is_seen(
    install: Callable[..., Any], paper_nvml: ModuleType
) -> None:
    card = paper_nvml.PaperCard()
    install(card)
    watch = watch_for(chip_of("torch:cuda"))
    assert watch is not None
    watch.start()
    card.reasons = 0x4 | 0x20
    time.sleep(0.25)
    card.reasons = 0x1
    # A cap in software is the card's setting; idle is not a slowdown.
    assert watch.stop() == ("sw_thermal_slowdown",)
    watch.start()
    assert watch.stop() == ()


def test_slice_is_watched_by_its_card(install: Callable[..., Any], paper_nvml: ModuleType) -> None:
    card, part = paper_nvml.split_card()
    part.reasons, card.reasons = None, 0x80
    install(card)
    watch = watch_for(chip_of("torch:cuda"))
    assert watch is not None
    watch.start()
    assert watch.stop() == ("hw_power_brake_slowdown",)


def test_card_that_never_answers_is_unknown() -> None:
    watch = CardWatch(lambda: None)
    watch.start()
    assert watch.stop() is None


@pytest.mark.parametrize(("after", "seen"), [(4, ("cpu_thermal",)), (3, ())])
def test_cpu_counters_of_the_mask_are_compared(
    tmp_path: Path, after: int, seen: tuple[str, ...]
) -> None:
    def write(cpu: int, value: int) -> None:
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "core_throttle_count").write_text(f"{value}\n")

    write(0, 3)
    write(1, 7)
    watch = watch_for(HOST, tmp_path, mask=[0])
    assert watch is not None
    watch.start()
    write(0, after)
    write(1, 9)  # another CPU's matter
    assert watch.stop() == seen


def test_what_says_nothing_is_unknown_and_not_fine(tmp_path: Path) -> None:
    for chip in (HOST, ChipIdentity("ascend-910b3", "Huawei", "910B3", "card", 1, 1)):
        watch = watch_for(chip, tmp_path, mask=[0])
        assert watch is not None
        watch.start()
        assert watch.stop() is None
    assert watch_for(chip_of("sim:golden")) is None


def test_notes_tell_heat_from_power() -> None:
    codes = [code for code, _ in throttle_notes(("hw_slowdown", "hw_thermal_slowdown"), "c")]
    assert codes == ["throttled_thermal", "throttled_hardware"]
    assert throttle_notes(("cpu_thermal",), "c")[0][0] == "throttled_thermal"
    assert throttle_notes(None, "c")[0][0] == "throttle_unknown"
    assert throttle_notes((), "c") == []
