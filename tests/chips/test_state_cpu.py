from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from chipmark.chips import state_cpu
from chipmark.chips.state import DeviceState
from chipmark.chips.state_cpu import CpuSource, family_cpu_s

HZ = os.sysconf("SC_CLK_TCK")


def write(root: Path, name: str, text: object) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def stat(root: Path, *busy_s: float) -> None:
    """Busy seconds of each CPU, a part of them stolen; guest time is in user already."""
    lines = [f"cpu{i} {int(s * HZ) - 7} 0 0 999 5 0 0 7 3 0" for i, s in enumerate(busy_s)]
    write(root, "proc/stat", "\n".join(["cpu  1 1 1 1 1 1 1 1 1 1", *lines, "intr 5"]))


@pytest.mark.parametrize(("after", "seen"), [(4, ("cpu_thermal",)), (3, ())])
def test_thermal_events_of_the_mask_are_compared(
    tmp_path: Path, after: int, seen: tuple[str, ...]
) -> None:
    def events(cpu: int, value: int) -> None:
        name = f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"
        write(tmp_path, name, value)

    events(0, 3)
    events(1, 7)
    source = CpuSource([0], tmp_path)
    assert source.read().throttle == ()
    events(0, after)
    events(1, 9)  # another CPU's matter
    assert source.sample().throttle == seen
    assert source.read().throttle == seen
    assert source.sample().throttle == ()


def test_clocks_and_heat(tmp_path: Path) -> None:
    for cpu, khz in ((0, 1_200_000), (1, 3_400_000), (2, 3_900_000)):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", khz)
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/base_frequency", 2_400_000)
    write(tmp_path, "sys/class/hwmon/hwmon0/name", "nvme")
    write(tmp_path, "sys/class/hwmon/hwmon0/temp1_input", 90_000)
    write(tmp_path, "sys/class/hwmon/hwmon1/name", "k10temp")
    write(tmp_path, "sys/class/hwmon/hwmon1/temp1_input", 61_500)
    source = CpuSource([0, 1], tmp_path)
    state = source.read()
    assert source.remarks == ("clocks, heat and events of a host are unverified on hardware",)
    assert (state.clock_mhz, state.nominal_mhz, state.temperature_c) == (3400.0, 2400.0, 61.5)


def test_nominal_clock_by_acpi(tmp_path: Path) -> None:
    write(tmp_path, "sys/devices/system/cpu/cpu0/acpi_cppc/nominal_freq", 2250)
    assert CpuSource([0], tmp_path).read().nominal_mhz == 2250


def test_others_have_what_our_family_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([100.0, 102.0, 110.0, 110.1])
    own = iter([5.0, 6.5, 99.0, 99.0])
    monkeypatch.setattr(state_cpu, "family_cpu_s", lambda pid: next(own))
    stat(tmp_path, 50.0, 70.0, 0.0)
    write(tmp_path, "proc/pressure/cpu", "some avg10=0.00 total=1000000\nfull total=9")
    source = CpuSource([0, 1], tmp_path, lambda: next(now))
    first = source.read()
    assert (first.other_busy, first.waiting, first.busy) == (None, None, None)
    stat(tmp_path, 51.0, 71.5, 90.0)
    write(tmp_path, "proc/pressure/cpu", "some avg10=0.00 total=1500000\nfull total=9")
    second = source.read()
    # 2.5 s of 2 CPUs x 2 s, of which 1.5 were ours; the third CPU is not looked at.
    assert second.other_busy == pytest.approx(0.25)
    assert second.busy == pytest.approx(0.625)
    assert second.waiting == pytest.approx(0.25)
    # More of ours than there was: clocks of the kernel differ, and no share is below zero.
    assert source.read().other_busy == 0
    # Over a tenth of a second hundredths are noise.
    assert source.read().other_busy is None


def test_loaded_is_half_a_cpu(tmp_path: Path) -> None:
    now = iter([0.0, 1.0, 2.0])
    source = CpuSource(range(4), tmp_path, lambda: next(now))
    found = []
    for busy in (10.0, 10.6, 10.7):
        stat(tmp_path, busy, 0, 0, 0)
        found.append(source.sample().loaded)
    assert found == [None, True, False]


def test_what_says_nothing_is_unknown(tmp_path: Path) -> None:
    source = CpuSource([0], tmp_path)
    assert source.read() == source.read() == DeviceState()
    assert source.remarks == ()
    write(tmp_path, "proc/stat", "cpu0 x y")
    write(tmp_path, "proc/pressure/cpu", "some total=x")
    assert source.read() == DeviceState()


def test_our_own_work_is_in_the_family() -> None:
    before, until = family_cpu_s(os.getpid()), time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    assert family_cpu_s(os.getpid()) - before >= 0.03
    assert family_cpu_s(1 << 24) == 0
