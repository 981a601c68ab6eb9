from __future__ import annotations

from dataclasses import replace

import pytest

from chipmark.chips.contract import ChipIdentity
from chipmark.chips.state import DeviceState, RepeatState, UnderLoad
from chipmark.chips.state_notes import low_clock, state_notes, throttle_notes

CARD = ChipIdentity("card", "Vendor", "Card", "card", 1, 1)
CALM = DeviceState(
    clock_mhz=1980.0, nominal_mhz=1980.0, throttle=(), power_limit_w=700.0, ecc_errors=2,
    other_processes=0, shared="",
)  # fmt: skip
GOOD = RepeatState("x", CALM, UnderLoad(9, clock_uncapped_mhz=1980.0, throttle=()), CALM)


def codes(state: RepeatState, earlier: DeviceState = CALM, chip: ChipIdentity = CARD) -> list[str]:
    return [code for code, _ in state_notes(state, earlier, chip)]


def test_a_calm_device_and_a_silent_one_have_no_note() -> None:
    assert codes(GOOD) == []
    assert codes(RepeatState(""), DeviceState()) == []


def test_notes_tell_heat_from_power() -> None:
    found = [code for code, _ in throttle_notes(("hw_slowdown", "hw_thermal_slowdown"), "c")]
    assert found == ["throttled_thermal", "throttled_hardware"]
    assert throttle_notes(("cpu_thermal",), "c")[0][0] == "throttled_thermal"
    assert throttle_notes(None, "c")[0][0] == "throttle_unknown"
    assert throttle_notes((), "c") == []


@pytest.mark.parametrize(
    ("clock", "reasons", "words"),
    [
        (1900.0, (), ""),
        (1584.0, (), "1584 MHz under load, 80% of its nominal 1980 MHz; it names no reason"),
        (1584.0, None, "1584 MHz under load, 80% of its nominal 1980 MHz; nothing says why"),
        (1584.0, ("applications_clocks_setting",), "it names applications_clocks_setting"),
        # These have notes of their own.
        (1584.0, ("hw_thermal_slowdown",), ""),
        # Held by its limit nearly always.
        (None, ("sw_power_cap",), ""),
    ],
)
def test_an_even_throttle_is_seen_by_the_nominal_clock(
    clock: float | None, reasons: tuple[str, ...] | None, words: str
) -> None:
    during = UnderLoad(9, clock_uncapped_mhz=clock, throttle=reasons)
    text = low_clock(replace(GOOD, during=during))
    assert words in text if words else text == ""
    assert codes(replace(GOOD, during=during)) == (["clock_below_nominal"] if words else [])


def test_without_a_nominal_clock_none_is_low() -> None:
    state = RepeatState("x", DeviceState(), UnderLoad(9, clock_uncapped_mhz=100.0), DeviceState())
    assert low_clock(state) == ""


def test_errors_are_counted_from_before_the_first_repeat() -> None:
    worse = replace(CALM, ecc_errors=5)
    assert codes(RepeatState("x", worse, None, worse)) == ["ecc_errors"]
    assert codes(RepeatState("x", worse, None, worse), worse) == []
    # A counter that was reset tells nothing.
    assert codes(replace(GOOD, after=replace(CALM, ecc_errors=0))) == []


@pytest.mark.parametrize("look", ["before", "during", "after"])
def test_another_process_at_any_moment_is_said(look: str) -> None:
    if look == "during":
        state = replace(GOOD, during=UnderLoad(9, other_processes=2, other_pids=(41, 42)))
    else:
        seen = replace(CALM, other_processes=2, other_pids=(41, 42))
        state = replace(GOOD, **{look: seen})
    [(code, text)] = state_notes(state, CALM, CARD)
    assert (code, text) == (
        "other_processes",
        "card: 2 other processes on the device (pid 41, 42)",
    )


def test_work_of_others_shows_where_processes_are_hidden() -> None:
    assert codes(replace(GOOD, busy_before=0.4)) == ["other_processes"]
    assert codes(replace(GOOD, busy_before=0.02)) == []


def test_settings_that_change_are_said() -> None:
    lower = replace(CALM, power_limit_w=400.0)
    [(code, text)] = state_notes(replace(GOOD, after=lower), CALM, CARD)
    assert (code, text) == ("state_changed", "card: the power limit went from 700 W to 400 W")
    # Between two repeats.
    assert codes(RepeatState("x", lower, None, lower)) == ["state_changed"]
    assert codes(replace(GOOD, after=replace(CALM, power_limit_w=700.2))) == []
    # Between naming the chip and the first repeat.
    named = replace(CARD, identity={"power_limit_w": 400.0})
    assert codes(GOOD, CALM, named) == ["state_changed"]
    assert codes(GOOD, CALM, replace(CARD, identity={"power_limit_w": 700.0})) == []
    split = replace(GOOD, after=replace(CALM, shared="MIG 1g.18gb"))
    assert codes(split) == ["state_changed", "shared_device"]


def test_a_share_is_said_unless_the_chip_is_named_as_one() -> None:
    share = replace(CALM, shared="vGPU")
    state = RepeatState("x", share, None, share)
    assert codes(state, share) == ["shared_device"]
    assert codes(state, share, replace(CARD, identity={"mig": True})) == []
    assert codes(state, share, replace(CARD, of=2)) == []


def test_load_of_a_host_is_said_above_its_daily_life() -> None:
    assert codes(replace(GOOD, after=replace(CALM, other_busy=0.3))) == ["host_load"]
    assert codes(replace(GOOD, after=replace(CALM, other_busy=0.08))) == []
