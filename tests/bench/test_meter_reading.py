"""What reading a meter costs the host: CPU seconds of 2,000 readings with all of the sampler's
work, over libraries and files of paper, whose own answers cost next to nothing. `scripts/test`
runs it once, untimed; `pytest tests/bench/test_meter_reading.py --benchmark-only` times it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chipmark.chips.amd import AmdCard
from chipmark.chips.nvml import Card
from chipmark.meters.amd import AmdMeter
from chipmark.meters.nvml import NvmlMeter
from chipmark.meters.poll import Sampler
from chipmark.meters.rapl import Domain, RaplMeter

READINGS = 2000
MOST_HZ = 100
"""No meter by a library is read more often, whatever its sensor's period."""


class Ticks:
    """Two thousand waits that take no time, by a clock that they move. One run after another."""

    def __init__(self) -> None:
        self.now, self.left = 0.0, 0

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.left -= 1
        return self.left < 0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now


def nvml(ticks: Ticks, paper: dict[str, ModuleType], folder: Path) -> Any:
    card = paper["nvml"].PaperCard()
    fake = paper["nvml"].FakeNvml(card, clock=ticks.clock)
    sampler = partial(Sampler, clock=ticks.clock, wait=ticks.wait)
    return NvmlMeter(Card(fake, card), lambda read: 0.02, sampler)


def amdsmi(ticks: Ticks, paper: dict[str, ModuleType], folder: Path) -> Any:
    card = paper["amdsmi"].PaperCard()
    fake = paper["amdsmi"].FakeAmdSmi(card, clock=ticks.clock)
    sampler = partial(Sampler, clock=ticks.clock, wait=ticks.wait)
    return AmdMeter(AmdCard(fake, card), ticks.clock, ticks.sleep, sampler)


def rapl(ticks: Ticks, paper: dict[str, ModuleType], folder: Path) -> Any:
    """One package."""
    for name, text in (("energy_uj", "123456789"), ("max_energy_range_uj", "262143328850")):
        (folder / name).write_text(text)
    sampler = partial(Sampler, clock=ticks.clock, wait=ticks.wait)
    return RaplMeter([Domain(folder)], sampler=sampler)


@pytest.mark.benchmark(group="2,000 readings of a meter", timer=time.process_time)
@pytest.mark.parametrize("make", [nvml, amdsmi, rapl])
def test_readings(
    benchmark: Any,
    make: Callable[..., Any],
    paper_nvml: ModuleType,
    paper_amdsmi: ModuleType,
    tmp_path: Path,
) -> None:
    ticks = Ticks()
    meter = make(ticks, {"nvml": paper_nvml, "amdsmi": paper_amdsmi}, tmp_path)

    def readings() -> int:
        ticks.left = READINGS
        meter.start()
        return len(meter.stop().time_s)

    taken = benchmark.pedantic(readings, rounds=5 if benchmark.enabled else 1)
    assert taken == READINGS + 2
    if benchmark.enabled:
        each_s = benchmark.stats.stats.median / READINGS
        for hz in (10, MOST_HZ):
            benchmark.extra_info[f"share of one core at {hz} Hz"] = each_s * hz
        print(
            f"\n{make.__name__}: {each_s * 1e6:.1f} us of CPU a reading, "
            f"{each_s * 10:.3%} of one core at 10 Hz, {each_s * MOST_HZ:.3%} at {MOST_HZ} Hz"
        )
