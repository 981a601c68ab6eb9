from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from chipmark.chips.state import (
    DeviceState,
    RepeatState,
    Sample,
    UnderLoad,
    is_hardware,
    is_power_cap,
    is_thermal,
)
from chipmark.chips.state_text import state_text
from chipmark.chips.state_watch import StateWatch, summary


class Device:
    """A source whose samples are given in order, the last one again and again."""

    name = "paper"
    period_s: float | None = 0.01
    remarks: tuple[str, ...] = ()

    def __init__(self, *samples: Sample, cost_s: float = 0.0) -> None:
        self.samples = list(samples)
        self.reads = self.asked = 0
        self.cost_s = cost_s

    def read(self) -> DeviceState:
        self.reads += 1
        return DeviceState(ecc_errors=self.reads)

    def sample(self) -> Sample:
        self.asked += 1
        until = time.thread_time() + self.cost_s
        while time.thread_time() < until:
            pass
        return self.samples.pop(0) if len(self.samples) > 1 else self.samples[0]


def timed(*samples: Sample) -> list[tuple[float, Sample]]:
    return [(float(index), sample) for index, sample in enumerate(samples)]


def test_a_reason_in_the_middle_of_a_repeat_is_kept() -> None:
    calm, hot = Sample(throttle=()), Sample(throttle=("sw_thermal_slowdown", "sw_power_cap"))
    device = Device(calm, hot, calm)
    watch = StateWatch(device)
    watch.start()
    until = time.monotonic() + 30
    while device.asked < 3 and time.monotonic() < until:
        time.sleep(0.005)
    state = watch.stop()
    assert state.during is not None
    assert state.during.throttle == ("sw_power_cap", "sw_thermal_slowdown")
    assert (state.before.ecc_errors, state.after.ecc_errors) == (1, 2)
    # A cap in software is the card's setting, and not a slowdown.
    assert state.slowdowns() == ("sw_thermal_slowdown",)
    watch.start()
    assert watch.stop().slowdowns() == ()


def test_a_source_that_is_slow_is_asked_before_and_after_only() -> None:
    device = Device(Sample())
    device.period_s = None
    watch = StateWatch(device)
    watch.start()
    state = watch.stop()
    assert (state.during, device.reads, device.asked) == (None, 2, 0)


def test_a_sample_that_costs_much_is_taken_seldom() -> None:
    device = Device(Sample(), cost_s=0.02)
    watch = StateWatch(device)
    watch.start()
    time.sleep(0.4)
    watch.stop()
    # One at the start, one after its first period; then 100 times its cost apart, and the last.
    assert device.asked <= 3


def test_clocks_are_those_under_load() -> None:
    idle = Sample(345.0, 30.0, ("gpu_idle",), loaded=False)
    busy = [Sample(clock, 60.0, (), loaded=True) for clock in (1900.0, 1980.0, 1960.0)]
    found = summary(timed(idle, *busy, idle))
    assert (found.clock_least_mhz, found.clock_median_mhz) == (1900.0, 1960.0)
    assert (found.samples, found.period_s, found.temperature_most_c) == (5, 1.0, 60.0)


def test_the_power_limit_is_not_a_low_clock() -> None:
    free = Sample(1980.0, loaded=True)
    capped = Sample(1400.0, throttle=("sw_power_cap",), loaded=True, capped=True)
    assert summary(timed(free, capped)).clock_uncapped_mhz == 1980.0
    mostly = summary(timed(free, *[capped] * 9))
    assert (mostly.clock_median_mhz, mostly.clock_uncapped_mhz) == (1400.0, None)


def test_where_nothing_tells_when_it_computed_its_highest_clock_counts() -> None:
    found = summary(timed(Sample(300.0), Sample(1000.0), Sample(300.0)))
    assert (found.clock_median_mhz, found.clock_uncapped_mhz) == (300.0, 1000.0)


def test_processes_of_all_samples_are_kept() -> None:
    one, two = (
        Sample(other_processes=1, other_pids=(7,)),
        Sample(other_processes=1, other_pids=(5,)),
    )
    found = summary(timed(Sample(), one, two))
    assert (found.other_processes, found.other_pids) == (1, (5, 7))
    assert summary(timed(Sample())).other_processes is None


def test_nothing_told_is_unknown_and_not_fine() -> None:
    assert RepeatState("").slowdowns() is None
    assert RepeatState("x", during=summary(timed(Sample()))).slowdowns() is None
    assert RepeatState("x", after=DeviceState(throttle=())).slowdowns() == ()


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("sw_thermal_slowdown", "heat"),
        ("hw_thermal_slowdown", "heat"),
        ("cpu_thermal", "heat"),
        ("SOCKET_THM", "heat"),
        ("hw_slowdown", "hardware"),
        ("hw_power_brake_slowdown", "hardware"),
        ("sw_power_cap", "cap"),
        ("PPT0", "cap"),
        ("gpu_idle", ""),
        ("applications_clocks_setting", ""),
    ],
)
def test_reasons_are_of_one_kind(reason: str, kind: str) -> None:
    kinds = {"heat": is_thermal, "hardware": is_hardware, "cap": is_power_cap}
    assert [name for name, belongs in kinds.items() if belongs(reason)] == ([kind] if kind else [])


def test_stored_form_comes_back_and_is_checked() -> None:
    state = RepeatState(
        "NVML",
        DeviceState(clock_mhz=1980.0, throttle=("sw_power_cap",), other_pids=(7,)),
        UnderLoad(samples=3, throttle=()),
        busy_before=0.5,
    )
    form = TypeAdapter(RepeatState)
    text = form.dump_json(state)
    assert form.validate_json(text) == state
    for wrong in ({"source": "x", "befor": {}}, {"source": "x", "before": {"clock": 1}}):
        with pytest.raises(ValidationError, match=r"(?i)unexpected"):
            form.validate_json(json.dumps(wrong))
    with pytest.raises(ValidationError, match="finite"):
        form.validate_python({"source": "x", "before": {"clock_mhz": float("nan")}})


def test_text_has_only_what_is_known(tmp_path: Path) -> None:
    state = DeviceState(
        clock_mhz=1980, nominal_mhz=1980, temperature_c=34, throttle=(), power_limit_w=700,
        power_limit_default_w=700, ecc_errors=0, other_processes=1, busy=0.5,
    )  # fmt: skip
    assert state_text(state) == (
        "1980 of 1980 MHz, 34 C, limit 700 of 700 W, not throttled, 0 uncorrected memory errors, "
        "1 other process, 50% busy"
    )
    assert state_text(DeviceState()) == ""
    assert state_text(DeviceState(nominal_mhz=2400, other_processes=0)) == (
        "nominal 2400 MHz, no other processes"
    )
