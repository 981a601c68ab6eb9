"""The meter of a tool that does what tools do: hang, print garbage, be cut, change, vanish."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chipmark.cell.plugins import meter_plugin
from chipmark.errors import ChipmarkError, MissingBackendError, UnknownNameError, UsageError
from chipmark.meters.choice import MeterChoice
from chipmark.meters.contract import PowerSamples
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools import meter as metering
from chipmark.meters.tools.cards import card_of, cards_of
from chipmark.meters.tools.devices import find_tool
from chipmark.meters.tools.meter import FAILURES, ToolMeter
from chipmark.meters.tools.npu_smi import NPU_SMI, read_details
from chipmark.meters.tools.reading import DieReading

Make = Callable[[str], Any]
POWER = "\tNPU ID : 3\n\tChip Count : 1\n\n\tNPU Real-time Power(W) : {}\n\tChip ID : 0\n"
TABLE = """\
| npu-smi 25.2.0                   Version: 25.2.0                                |
+---------------------------+---------------+-------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)                 |
| Chip                      | Bus-Id        | AICore(%)   HBM-Usage(MB)           |
+===========================+===============+=====================================+
| 3     910B3               | OK            | 91.3        33                      |
| 0                         | 0000:C1:00.0  | 0           3197 / 65536            |
+===========================+===============+=====================================+
"""
REQUEST = MeterRequest("Huawei", "card", "npu:0")


def answers(power: str = POWER.format("91.3"), exit_code: int = 0) -> list[dict[str, Any]]:
    return [
        {"arguments": "info", "text": TABLE},
        {"arguments": "info -t power -i 3", "text": power, "exit_code": exit_code},
    ]


@pytest.fixture
def tool(program: Make) -> Any:
    """A fake npu-smi of one 910B3 with the number 3."""
    found = program("npu-smi")
    found.prints(answers())
    return found


def metered(calls: int, change: Callable[[], None] = lambda: None, **kept: float) -> PowerSamples:
    """Samples of a meter that reads as often as it can: one reading at the start, then `change`,
    and at least `calls` readings more."""
    meter = NPU_SMI.for_request(REQUEST)
    assert meter is not None
    meter._sampler._period_s = meter._period_s = 0.02
    for name, value in kept.items():
        setattr(meter, name, value)
    meter.start()
    change()
    for _ in range(1000):
        if meter._asked > calls:
            break
        time.sleep(0.01)
    return meter.stop()


def test_what_the_meter_says_of_itself(tool: Any) -> None:
    meter = NPU_SMI.for_request(REQUEST)
    assert meter is not None
    info = meter.info
    assert (info.name, info.source, info.scope) == ("npu-smi", "polled", "module")
    assert info.method.startswith("`npu-smi info -t power -i 3`")
    assert "910B3" in info.covers
    assert "0000:C1:00.0" in info.covers
    assert any(note.startswith("unverified on hardware") for note in info.notes)
    assert (info.verified, info.jittered, info.period_known) == (False, True, False)
    assert info.reading_period_s == info.update_period_s == 1.0
    assert info.resolution_w == 0.1


def test_samples_are_watts_with_times_and_no_counter(tool: Any) -> None:
    before = time.perf_counter()
    samples = metered(3)
    assert len(samples.time_s) > 3
    assert (np.diff(samples.time_s) > 0).all()
    assert before < samples.time_s[0] < samples.time_s[-1] < time.perf_counter()
    assert set(samples.power_w) == {91.3}
    assert np.isnan(samples.energy_j).all()


@pytest.mark.parametrize(
    ("power", "exit_code", "why"),
    [
        ("", 0, "printed nothing that chipmark can read"),
        ("\x00\x01 garbage |||| : : :\n" * 50, 0, "printed nothing that chipmark can read"),
        (POWER.format("91.3")[:40], 0, "printed nothing that chipmark can read"),
        (POWER.format("0.0"), 0, "prints 0 W"),
        (POWER.format("NA"), 0, "not available"),
        (POWER.format("-3.0"), 0, "outside the unit's range"),
        (POWER.format("91,3"), 0, "no such value"),
        (POWER.replace("Power(W)", "Verbrauch").format("91.3"), 0, "can read"),
        (POWER.replace("NPU ID : 3", "NPU ID : 4").format("91.3"), 0, "told of another"),
        (POWER.replace("Chip ID : 0", "Chip ID : 1").format("91.3"), 0, "not in its answer"),
        ("please run as root\n", 13, "ended with exit code 13: please run as root"),
    ],
)
def test_an_answer_without_watts_is_a_gap_with_a_remark(
    tool: Any, power: str, exit_code: int, why: str
) -> None:
    samples = metered(2, lambda: tool.prints(answers(power, exit_code)))
    assert samples.power_w.tolist() == [91.3]
    (remark,) = (text for text in samples.remarks if "readings of the meter" not in text)
    assert why in remark


def test_a_tool_that_vanishes_and_returns(tool: Any) -> None:
    def vanish() -> None:
        kept = tool.path.rename(tool.path.with_name("away"))
        threading.Timer(0.5, lambda: kept.rename(tool.path)).start()

    meter = NPU_SMI.for_request(REQUEST)
    assert meter is not None
    meter._sampler._period_s = meter._period_s = 0.05
    meter.start()
    vanish()
    for _ in range(1000):
        if len(meter._sampler._rows) > 2 and meter._remarks:
            break
        time.sleep(0.01)
    samples = meter.stop()
    assert set(samples.power_w) == {91.3}
    assert len(samples.power_w) > 2
    assert any("cannot be started" in remark for remark in samples.remarks)


def test_a_hung_tool_is_a_gap(tool: Any) -> None:
    meter = NPU_SMI.for_request(REQUEST)
    assert meter is not None
    meter = ToolMeter(meter._here, meter._power, limit_s=0.5)
    meter._sampler._period_s = 0.02
    meter.start()
    tool.does("sleep 600")
    time.sleep(0.3)
    samples = meter.stop()
    assert samples.power_w.tolist() == [91.3]
    assert any("npu-smi took over 0.5 s" in remark for remark in samples.remarks)


def test_a_hung_tool_delays_the_end_by_one_limit_at_most(tool: Any) -> None:
    meter = NPU_SMI.for_request(REQUEST)
    assert meter is not None
    tool.does("sleep 600")
    before = len(tool.asked)
    # As after 4.7 of the 5 s that a reading in flight took when `stop` was called.
    meter._stop_by_s = time.perf_counter() + 0.3
    assert meter._read() == []
    assert meter._read() == []
    assert len(tool.asked) == before + 1
    assert not meter._remarks


def test_a_tool_that_fails_is_asked_less_often(tool: Any) -> None:
    meter = NPU_SMI.for_request(REQUEST)
    assert meter is not None
    tool.does("exit 1")
    before = len(tool.asked)
    for _ in range(50 * FAILURES):
        meter._read()
    assert len(tool.asked) - before == FAILURES
    assert meter._quiet_until_s > time.perf_counter() + 1.0
    meter._quiet_until_s = 0.0
    tool.prints(answers())
    assert meter._read() == pytest.approx((np.nan, 91.3), nan_ok=True)
    assert meter._failed == 0


def test_a_slow_tool_lowers_the_rate_and_says_what_was_reached(tool: Any) -> None:
    tool.prints(answers())
    script = tool.path.read_text()
    tool.path.write_text(script.replace("#!/bin/sh", "#!/bin/sh\nsleep 0.1"))
    samples = metered(3)
    assert any("it was read every" in remark for remark in samples.remarks)
    here, readings = find_tool(NPU_SMI)
    card = metering.cards_of(NPU_SMI, readings)[0]
    slow = replace(metering.power_query(here, readings, card), seconds=4.0)
    assert ToolMeter(here, slow).info.reading_period_s == 5.0


def test_spikes_are_told_and_kept(tool: Any) -> None:
    samples = np.array([100.0, 101.0, 430.0, 99.0, 100.0])
    (remark,) = metering._spikes(samples)
    assert "1 of 5 readings" in remark
    assert "430" in remark
    assert metering._spikes(np.array([100.0, 400.0, 410.0, 100.0])) == []


@pytest.mark.parametrize(
    ("power", "exit_code", "why"),
    [
        (POWER.format("0.0"), 0, "prints 0 W"),
        (POWER.format("NA"), 0, "not available"),
        ("needs root\n", 1, "needs root"),
    ],
)
def test_a_tool_without_watts_is_refused_with_every_reason(
    tool: Any, power: str, exit_code: int, why: str
) -> None:
    table = TABLE.replace("91.3", "NA  ")
    tool.prints([{"arguments": "info", "text": table}, *answers(power, exit_code)[1:]])
    with pytest.raises(ChipmarkError, match=why) as raised:
        NPU_SMI.for_request(REQUEST)
    assert "--power-w" in raised.value.hint


def test_the_overview_is_polled_where_the_quick_query_has_no_watts(tool: Any) -> None:
    tool.prints(answers("not here\n", 1))
    meter = NPU_SMI.for_request(REQUEST)
    assert meter is not None
    assert meter.info.method.startswith("`npu-smi info`")


@pytest.mark.parametrize(
    "request_",
    [
        MeterRequest("NVIDIA", "card", "cuda:0"),
        MeterRequest("Huawei", "package", "cpu"),
        MeterRequest("Huawei", "card", "npu:0", metered="host"),
        MeterRequest("Huawei", "card", "npu:0", metered="node"),
    ],
)
def test_other_units_are_not_this_tools(tool: Any, request_: MeterRequest) -> None:
    assert NPU_SMI.for_request(request_) is None
    assert tool.asked == []


def test_without_the_tool_there_is_no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert NPU_SMI.for_request(REQUEST) is None
    named = replace(REQUEST, choices=(MeterChoice("npu-smi"),))
    with pytest.raises(MissingBackendError, match="not on the PATH"):
        NPU_SMI.for_request(named)


def test_the_user_names_the_card_and_nothing_else(tool: Any) -> None:
    named = replace(REQUEST, choices=(MeterChoice("npu-smi", "3"),))
    meter = NPU_SMI.for_request(named)
    assert meter is not None
    with pytest.raises(UsageError, match="lists no such card"):
        NPU_SMI.for_request(replace(REQUEST, choices=(MeterChoice("npu-smi", "0"),)))
    choice = MeterChoice("npu-smi", options={"card": "3"})
    with pytest.raises(UnknownNameError, match="card"):
        NPU_SMI.for_request(replace(REQUEST, choices=(choice,)))


def test_a_namesake_is_passed_by(program: Make) -> None:
    tool = program("npu-smi")
    tool.does("echo Neural Processing Usage of another vendor")
    with pytest.raises(ChipmarkError, match="another vendor's program"):
        NPU_SMI.for_request(REQUEST)


def test_a_record_names_the_code_that_reads_the_tool(tool: Any) -> None:
    meter = NPU_SMI.for_request(REQUEST)
    assert meter is not None
    found = meter_plugin(meter)
    assert found is not None
    assert (found.module, found.built_in) == ("chipmark.meters.tools.npu_smi", True)
    assert len(found.sha256) == 64


def test_a_quick_query_that_contradicts_the_overview_is_not_polled(tool: Any) -> None:
    tool.prints(answers(POWER.format("1450")))
    meter = NPU_SMI.for_request(REQUEST)
    assert meter is not None
    assert meter.info.method.startswith("`npu-smi info`")


def test_a_readers_fault_is_a_gap(tool: Any) -> None:
    def parse(text: str) -> tuple[DieReading, ...]:
        if "92" in text:
            raise KeyError("power")
        return read_details(text)

    quick = replace(NPU_SMI.details[0], parse=parse)
    meter = replace(NPU_SMI, details=(quick,)).for_request(REQUEST)
    assert meter is not None
    meter.start()
    tool.prints(answers(POWER.format("92.0")))
    samples = meter.stop()
    assert samples.power_w.tolist() == [91.3]
    assert "cannot be read: KeyError('power')" in samples.remarks[0]


def test_a_number_that_another_card_has_got_is_a_gap(tool: Any) -> None:
    def swapped() -> None:
        table = TABLE.replace("C1:00.0", "C2:00.0")
        tool.prints([{"arguments": "info", "text": table}, *refused])

    refused = answers("not here\n", 1)[1:]
    tool.prints([{"arguments": "info", "text": TABLE}, *refused])
    samples = metered(2, swapped)
    assert samples.power_w.tolist() == [91.3]
    assert any("number 3 is now the card 0000:C2:00.0" in text for text in samples.remarks)


def test_a_query_that_tells_of_another_card_is_not_polled(tool: Any) -> None:
    here, readings = find_tool(NPU_SMI)
    card = card_of(NPU_SMI, cards_of(NPU_SMI, readings), REQUEST)

    def elsewhere(text: str) -> tuple[DieReading, ...]:
        return tuple(replace(die, pci="0000:C2:00.0") for die in read_details(text))

    quick = replace(NPU_SMI.details[0], parse=elsewhere)
    other = replace(here, tool=replace(NPU_SMI, details=(quick,)))
    assert metering.power_query(other, readings, card).query is NPU_SMI.overview
    lacking = tuple(replace(die, power_w=None) for die in readings)
    tool.prints([{"arguments": "info", "text": TABLE.replace("91.3", "NA  ")}, *answers()[1:]])
    with pytest.raises(ChipmarkError, match=r"number 3 is now the card 0000:C2:00\.0"):
        metering.power_query(other, lacking, card)
