from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chipmark.errors import ChipmarkError, UnknownNameError, UsageError
from chipmark.meters import ipmi
from chipmark.meters.choice import parse_choice
from chipmark.meters.ipmi import IpmiMeter, parse_dcmi
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.ask import Answer

# As ipmitool 1.8 prints it (its lib/ipmi_dcmi.c); the numbers are made up.
PRINTED = """
    Instantaneous power reading:                   {watts} Watts
    Minimum during sampling period:                 10 Watts
    Maximum during sampling period:                711 Watts
    Average power reading over sample period:      388 Watts
    IPMI timestamp:                           Thu Nov 26 09:14:57 2026
    Sampling period:                          00000005 Seconds.
    Power reading state is:                   {state}

"""


def printed(watts: object = 412, state: str = "activated") -> str:
    return PRINTED.format(watts=watts, state=state)


def request(metered: str = "node", *choices: str) -> MeterRequest:
    return MeterRequest(
        "NVIDIA", "card", "cuda", metered=metered, choices=tuple(map(parse_choice, choices))
    )


def test_the_instantaneous_watts_are_read() -> None:
    reading = parse_dcmi(printed())
    assert reading == ipmi.DcmiReading(412.0, "", True, 5.0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (printed(0), "0 W"),
        (printed(412, "deactivated"), "deactivated"),
        (printed("N/A"), "not available"),
        (printed(99999), "outside"),
        (printed("-5"), "outside"),
        ("DCMI request failed because: Invalid command", "does not print"),
        ("", "does not print"),
        (printed()[:40], "not available"),
    ],
)
def test_what_is_no_reading_is_null_with_a_reason(text: str, why: str) -> None:
    reading = parse_dcmi(text)
    assert reading.power_w is None
    assert why in reading.why


JUNK = (
    "0", "-", "N/A", ".", "e9", ",", ":", "\n", "\0", "kW", "Watts", "\uff19", "\u00b2",
    "\x1b[31m", "∞", "deactivated", "Instantaneous power reading:", "9" * 400, " " * 90, "",
)  # fmt: skip


def mutated(seed: int) -> str:
    """An answer with one to four parts replaced by others, and what it was."""
    bits, text = np.random.Philox(seed).random_raw(16).tolist(), printed()
    for n in range(1 + bits[0] % 4):
        at, cut, junk = bits[1 + n] % (len(text) + 1), bits[5 + n] % 40, bits[9 + n] % len(JUNK)
        text = text[:at] + JUNK[junk] + text[at + cut :]
    return text


def check(text: str) -> None:
    reading = parse_dcmi(text)
    if reading.power_w is None:
        assert reading.why
    else:
        assert 0 < reading.power_w <= 20_000


@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_mutated_answers_give_watts_in_range_or_a_reason(count: int) -> None:
    for seed in range(count):
        check(mutated(seed))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gives_watts_in_range_or_a_reason(text: str) -> None:
    check(text)
    check(printed(text))


def test_samples_have_the_watts_and_the_gaps_their_reasons() -> None:
    answers = iter([Answer(printed(400)), Answer(printed(410)), Answer(printed(0))])
    meter = IpmiMeter(lambda: next(answers))
    assert (meter.info.scope, meter.info.source, meter.info.verified) == (
        "node_dc",
        "polled",
        False,
    )
    assert any("without cards" in note for note in meter.info.notes)
    meter.start()
    samples = meter.stop()
    assert samples.power_w.tolist() == [410.0]
    assert np.isnan(samples.energy_j).all()
    assert samples.remarks == (
        "1 of 2 readings were none: the tool prints 0 W, which no powered card draws",
    )


@pytest.mark.parametrize(
    ("answer", "what", "fix"),
    [
        (Answer("", "ipmitool ended with exit code 1: Could not open device"), "exit", "modprobe"),
        (Answer("", "ipmitool ended with exit code 1: Permission denied"), "denied", "root"),
        (Answer("", "ipmitool took over 5 s"), "took over", "redfish"),
        (Answer(printed(state="deactivated")), "deactivated", "power activate"),
        (Answer(printed(0)), "0 W", "csv:FILE"),
    ],
)
def test_a_first_reading_without_watts_says_what_helps(answer: Answer, what: str, fix: str) -> None:
    with pytest.raises(ChipmarkError, match=what) as error:
        IpmiMeter(lambda: answer)
    assert fix in error.value.hint


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `ipmitool` on the PATH that prints what `printed.txt` holds."""
    (tmp_path / "printed.txt").write_text(printed())
    program = tmp_path / "ipmitool"
    program.write_text(
        f'#!/bin/sh\n[ "$*" = "dcmi power reading" ] && cat {tmp_path}/printed.txt\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def test_a_node_is_metered_where_tool_and_controller_are_here(tool: Path) -> None:
    device = tool / "ipmi0"
    assert IpmiMeter.for_request(request(), devices=(device,)) is None
    device.touch()
    assert IpmiMeter.for_request(request("unit"), devices=(device,)) is None
    meter = IpmiMeter.for_request(request(), devices=(device,))
    assert meter is not None
    meter.start()
    assert meter.stop().power_w.tolist() == [412.0, 412.0]
    assert IpmiMeter.for_request(request("unit", "ipmi"), devices=(device,)) is not None


def test_a_named_one_that_is_not_here_says_what_to_do(
    tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ChipmarkError, match="shows no controller") as error:
        IpmiMeter.for_request(request("node", "ipmi"), devices=(tool / "ipmi0",))
    assert "modprobe" in error.value.hint
    with pytest.raises(UsageError, match="reads this one"):
        IpmiMeter.for_request(request("node", "ipmi:other"))
    with pytest.raises(UnknownNameError, match="option of --meter ipmi"):
        IpmiMeter.for_request(request("node", "ipmi,user=x"))
    monkeypatch.setenv("PATH", str(tool / "nowhere"))
    with pytest.raises(ChipmarkError, match="not installed"):
        IpmiMeter.for_request(request("node", "ipmi"))


def test_a_controller_that_may_not_be_read_needs_root(
    tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tool / "ipmi0"
    device.touch()
    # Root may read whatever the mode says.
    monkeypatch.setattr(
        ipmi.os, "access", lambda path, mode, real=os.access: path != device and real(path, mode)
    )
    with pytest.raises(ChipmarkError, match="may not be read") as error:
        IpmiMeter.for_request(request(), devices=(device,))
    assert "root" in error.value.hint
