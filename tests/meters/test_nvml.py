from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.chips.contract import DeviceKey
from chipmark.chips.nvml import Card
from chipmark.codes import NullReason
from chipmark.errors import ChipmarkError
from chipmark.meters.choice import MeterChoice
from chipmark.meters.nvml import NvmlMeter, NvmlModuleMeter, NvmlPowerMeter
from chipmark.meters.nvml_power import KeptSamples, usage_averaging_s
from chipmark.meters.pick import pick_meters
from chipmark.meters.poll import infer_period
from chipmark.meters.request import MeterRequest
from chipmark.metrics.energy import window_energy


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch, paper_nvml: ModuleType) -> Any:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)

    def install(*cards: Any) -> Any:
        fake = paper_nvml.FakeNvml(*cards)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


def meter_of(over: Any, card: Any) -> NvmlMeter:
    return NvmlMeter(Card(over(card), card))


def virtual(paper_nvml: ModuleType, at: Any, card: Any, kind: Any = NvmlMeter) -> Any:
    """A meter of a card whose sensors move with a clock of paper too."""
    fake = paper_nvml.FakeNvml(card, clock=at.clock, unix=at.clock)
    return kind(Card(fake, card), partial(infer_period, clock=at.clock, sleep=at.sleep))


def test_counter_is_used_where_the_card_has_one(over: Any, paper_nvml: ModuleType) -> None:
    meter = meter_of(over, paper_nvml.PaperCard())
    assert (meter.info.source, meter.info.scope) == ("counter", "board")
    assert meter.info.update_period_s == pytest.approx(0.02, rel=0.6)
    assert meter.info.cap_w == 700.0
    meter.start()
    time.sleep(0.25)
    samples = meter.stop()
    assert np.isfinite(samples.energy_j).all()
    assert samples.power_w == pytest.approx(np.full(len(samples.power_w), 200.0), abs=0.01)
    mean_w = np.ptp(samples.energy_j) / np.ptp(samples.time_s)
    assert mean_w == pytest.approx(200.0, rel=0.2)


def test_period_is_the_counters_own_and_not_the_powers(paper_nvml: ModuleType, at: Any) -> None:
    meter = virtual(paper_nvml, at, paper_nvml.PaperCard(counter_s=0.1, power_s=0.01))
    assert meter.info.update_period_s == pytest.approx(0.1, rel=0.005)
    assert meter.info.reading_period_s == pytest.approx(0.025, rel=0.005)
    polled = virtual(paper_nvml, at, paper_nvml.PaperCard(counter_s=None, power_s=0.05))
    assert polled.info.update_period_s == pytest.approx(0.05, rel=0.01)


def test_power_is_polled_where_the_query_of_fields_is_refused(
    over: Any, paper_nvml: ModuleType
) -> None:
    meter = meter_of(over, paper_nvml.PaperCard(counter_s=None, fields=False))
    assert meter.info.source == "polled"
    meter.start()
    samples = meter.stop()
    assert np.isnan(samples.energy_j).all()
    assert samples.power_w == pytest.approx(np.full(len(samples.power_w), 200.0), abs=0.01)
    # That call is a mean over a second, which smears the edges of a window.
    assert meter.info.averaging_s == 1.0
    assert meter_of(over, paper_nvml.PaperCard(counter_s=None)).info.averaging_s is None


@pytest.mark.parametrize(
    ("name", "averages"),
    [
        ("NVIDIA H100 80GB HBM3", True), ("NVIDIA A10", True), ("NVIDIA GeForce RTX 4090", True),
        ("NVIDIA RTX 6000 Ada Generation", True), ("NVIDIA L40S", True), ("NVIDIA A40", True),
        ("NVIDIA A100-SXM4-80GB", False), ("NVIDIA A800-SXM4-80GB", False), ("NVIDIA A30", False),
        ("Tesla V100-SXM2-32GB", False), ("Tesla T4", False), ("Tesla P40", False),
        ("NVIDIA GeForce RTX 2080 Ti", False), ("Quadro RTX 6000", False),
    ],
)  # fmt: skip
def test_power_usage_is_a_mean_on_newer_cards_only(name: str, averages: bool) -> None:
    assert usage_averaging_s(name) == (1.0 if averages else None)


def test_period_that_idle_hides_is_said_to_be_taken(paper_nvml: ModuleType, at: Any) -> None:
    meter = virtual(paper_nvml, at, paper_nvml.PaperCard(counter_s=None, power_s=0.0))
    assert any("was not seen at idle" in note for note in meter.info.notes)
    assert not meter.info.period_known


def test_card_without_any_sensor_is_an_error(over: Any, paper_nvml: ModuleType) -> None:
    card = paper_nvml.PaperCard(counter_s=None, fields=False, usage=False)
    with pytest.raises(ChipmarkError, match="neither energy nor power"):
        meter_of(over, card)


def test_route_that_never_met_a_card_says_so(over: Any, paper_nvml: ModuleType) -> None:
    meter = meter_of(over, paper_nvml.PaperCard())
    assert not meter.info.verified
    assert any("unverified on hardware" in note for note in meter.info.notes)


def test_the_card_that_computes_is_metered(over: Any, paper_nvml: ModuleType) -> None:
    slow = paper_nvml.PaperCard(name="NVIDIA T400", uuid="GPU-01", pci="0:1:0.0", watts=20.0)
    fast = paper_nvml.PaperCard(uuid="GPU-02", pci="0:2:0.0", watts=400.0)
    over(slow, fast)
    told = MeterRequest("NVIDIA", "card", "cuda:0", key=DeviceKey(uuid="02"))
    picked = pick_meters(told)
    assert picked.meter is not None
    assert picked.meter.info.covers == "one card, GPU-02"
    assert not any(remark.startswith("nvml") for remark in picked.remarks)
    picked = pick_meters(MeterRequest("NVIDIA", "card", "cuda:0"))
    assert picked.meter is None
    assert any("any of 2 cards" in remark for remark in picked.remarks)


def test_slice_is_not_charged_with_its_card(
    over: Any, paper_nvml: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, part = paper_nvml.split_card()
    over(card)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", part.uuid)
    for request in (
        MeterRequest("NVIDIA", "card", "cuda"),
        MeterRequest("NVIDIA", "card", "cuda", key=DeviceKey(uuid=part.uuid)),
        MeterRequest("NVIDIA", "card", "cuda", key=DeviceKey(uuid=card.uuid)),
    ):
        picked = pick_meters(request)
        assert picked.meter is None
        assert any("1 of 7 parts" in remark for remark in picked.remarks)


@pytest.mark.parametrize(
    ("counter", "instant", "average", "usage"), list(product((True, False), repeat=4))
)
def test_a_card_that_refuses_some_calls_is_read_by_another(
    paper_nvml: ModuleType, at: Any, counter: bool, instant: bool, average: bool, usage: bool
) -> None:
    card = paper_nvml.PaperCard(
        counter_s=0.02 if counter else None, instant=instant, average=average, usage=usage
    )
    if not (counter or instant or average or usage):
        with pytest.raises(ChipmarkError, match="neither energy nor power"):
            virtual(paper_nvml, at, card)
        return
    meter = virtual(paper_nvml, at, card)
    info = meter.info
    assert info.source == ("counter" if counter else "polled")
    if not counter:
        first = "INSTANT" if instant else "AVERAGE" if average else "GetPowerUsage"
        assert first in info.method
        assert info.averaging_s == (None if instant else 1.0)
        assert info.update_period_s == pytest.approx(0.02, rel=0.01)
        assert info.period_known
    assert info.resolution_w == 0.001
    assert info.jittered
    meter.start()
    samples = meter.stop()
    assert np.isfinite(samples.energy_j).all() == counter
    assert np.isfinite(samples.power_w).all() == (instant or average or usage)
    assert samples.remarks == ()


def test_a_reading_asks_nothing_that_the_card_refused(
    paper_nvml: ModuleType, at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = virtual(paper_nvml, at, paper_nvml.PaperCard(fields=False))
    asked: list[object] = []
    monkeypatch.setattr(
        paper_nvml.FakeNvml, "nvmlDeviceGetFieldValues", lambda self, *rest: asked.append(rest)
    )
    meter.start()
    assert np.isfinite(meter.stop().power_w).all()
    assert asked == []


@pytest.mark.parametrize("lie", [0, 2**32 - 1, 25_000_000])
def test_a_power_that_no_card_draws_is_none(
    paper_nvml: ModuleType, at: Any, monkeypatch: pytest.MonkeyPatch, lie: int
) -> None:
    monkeypatch.setattr(paper_nvml.FakeNvml, "_milliwatts", lambda self, card: lie)
    with pytest.raises(ChipmarkError, match="neither energy nor power"):
        virtual(paper_nvml, at, paper_nvml.PaperCard(counter_s=None))
    meter = virtual(paper_nvml, at, paper_nvml.PaperCard())
    meter.start()
    samples = meter.stop()
    assert np.isnan(samples.power_w).all()
    assert np.isfinite(samples.energy_j).all()


def test_a_counter_that_begins_anew_is_refused(paper_nvml: ModuleType, at: Any) -> None:
    meter = virtual(paper_nvml, at, paper_nvml.PaperCard(resets_s=8.3))
    meter.start()
    at.now += 8.0
    samples = meter.stop()
    assert np.ptp(samples.energy_j) > 0
    begin, end = float(samples.time_s[0]), float(samples.time_s[-1])
    found = window_energy(samples, meter.info, begin, end)
    assert (found.energy_j, found.reason) == (None, NullReason.COUNTER_BACKWARDS)


@pytest.mark.parametrize(
    ("name", "part"),
    [("NVIDIA H100 80GB HBM3", True), ("NVIDIA A100-SXM4-80GB", True), ("NVIDIA L40S", False)],
)
def test_a_sensor_that_looks_at_a_part_of_the_time_is_told(
    paper_nvml: ModuleType, at: Any, name: str, part: bool
) -> None:
    for card in (paper_nvml.PaperCard(name=name), paper_nvml.PaperCard(name=name, counter_s=None)):
        notes = virtual(paper_nvml, at, card).info.notes
        assert any("not in the error bound" in note for note in notes) == part


def test_a_card_that_goes_is_a_gap_and_is_told(paper_nvml: ModuleType, at: Any) -> None:
    card = paper_nvml.PaperCard()
    meter = virtual(paper_nvml, at, card)
    meter.start()
    card.counter_s, card.fields, card.usage = None, False, False
    samples = meter.stop()
    assert any("failed: the sensor gave no value" in remark for remark in samples.remarks)


def test_updates_that_the_driver_dated_are_read_at_their_own_times(
    over: Any, paper_nvml: ModuleType
) -> None:
    card = paper_nvml.PaperCard(counter_s=None, samples_s=0.02)
    meter = meter_of(over, card)
    assert "nvmlDeviceGetSamples" in meter.info.method
    assert meter.info.update_period_s == pytest.approx(0.02, rel=0.001)
    assert meter.info.reading_period_s == meter.info.update_period_s
    assert not meter.info.jittered
    before = time.perf_counter()
    meter.start()
    samples = meter.stop()
    assert len(samples.time_s) >= 1
    assert before - 0.03 < samples.time_s[0] <= samples.time_s[-1] <= time.perf_counter()
    assert samples.power_w == pytest.approx(np.full(len(samples.power_w), 200.0), abs=0.01)


def test_kept_updates_are_given_once_and_none_is_lost(paper_nvml: ModuleType, at: Any) -> None:
    card = paper_nvml.PaperCard(samples_s=0.02)
    fake = paper_nvml.FakeNvml(card, clock=at.clock, unix=at.clock)
    kept = KeptSamples(Card(fake, card), at.clock, at.clock)
    rows = kept.read()
    assert len(rows) == 1  # the newest: what came before was not asked for
    for step in (0.5, 0.001, 0.333, 1.0):
        at.now += step
        rows += kept.read()
    times = np.array([row[0] for row in rows])
    assert np.diff(times) == pytest.approx(np.full(len(times) - 1, 0.02), abs=2e-6)
    assert at.now - times[-1] < 0.021
    at.now += 5.0  # the driver keeps 120 updates, and what it dropped is a gap
    assert len(kept.read()) == 120


def test_updates_of_another_clock_are_not_believed(paper_nvml: ModuleType, at: Any) -> None:
    card = paper_nvml.PaperCard(samples_s=0.02)
    fake = paper_nvml.FakeNvml(card, clock=at.clock, unix=lambda: at.now + 3600)
    assert KeptSamples(Card(fake, card), at.clock, at.clock).period_s() is None
    fake = paper_nvml.FakeNvml(card, clock=at.clock, unix=at.clock)
    kept = KeptSamples(Card(fake, card), at.clock, at.clock)
    assert kept.period_s() == pytest.approx(0.02, rel=1e-3)
    kept.read()
    at.now += 0.2
    fake.unix = lambda: at.now - 3600  # the host's clock is set back in between
    assert kept.read() == []
    fake.unix = lambda: at.now + 3600
    assert kept.read() == []


def test_power_is_a_second_source_where_there_is_a_counter(
    over: Any, paper_nvml: ModuleType
) -> None:
    unit = MeterRequest("NVIDIA", "card", "cuda")
    over(paper_nvml.PaperCard(counter_s=0.005, power_s=0.005))
    beside = NvmlPowerMeter.for_request(unit)
    assert beside is not None
    assert (beside.info.name, beside.info.source) == ("nvml-power", "polled")
    assert any("second source" in note for note in beside.info.notes)
    assert NvmlPowerMeter.for_request(MeterRequest("Intel", "package", "cpu")) is None
    assert NvmlPowerMeter.for_request(replace(unit, metered="host")) is None
    assert NvmlMeter.for_request(replace(unit, metered="node")) is None
    over(paper_nvml.PaperCard(counter_s=None, power_s=0.005))
    assert NvmlPowerMeter.for_request(unit) is None
    named = replace(unit, choices=(MeterChoice("nvml-power"),))
    assert NvmlPowerMeter.for_request(named) is not None
    over(paper_nvml.PaperCard(counter_s=0.005, power_s=0.005))
    both = pick_meters(replace(unit, choices=(MeterChoice("nvml"), MeterChoice("nvml-power"))))
    assert both.meter is not None
    assert both.meter.info.name == "nvml"
    assert [meter.info.name for meter in both.beside] == ["nvml-power"]
    over(paper_nvml.PaperCard(fields=False, usage=False))
    assert NvmlPowerMeter.for_request(unit) is None
    with pytest.raises(ChipmarkError, match="gives no power"):
        NvmlPowerMeter.for_request(named)


def test_a_superchips_module_is_a_meter_of_its_own(paper_nvml: ModuleType, at: Any) -> None:
    card = paper_nvml.PaperCard(module_w=420.0, counter_s=0.02)
    meter = virtual(paper_nvml, at, card, NvmlModuleMeter)
    assert (meter.info.name, meter.info.scope) == ("nvml-module", "module")
    assert meter.info.cap_w == 1000.0
    assert meter.info.covers.startswith("the module of one card")
    meter.start()
    samples = meter.stop()
    assert samples.power_w == pytest.approx(np.full(len(samples.power_w), 420.0), abs=0.01)
    assert np.isnan(samples.energy_j).all()
    assert virtual(paper_nvml, at, card).info.scope == "board"


def test_a_module_stands_beside_its_card_and_is_no_meter_of_it(
    over: Any, paper_nvml: ModuleType
) -> None:
    over(paper_nvml.PaperCard(module_w=420.0, power_s=0.005, counter_s=0.005))
    unit = MeterRequest("NVIDIA", "card", "cuda")
    picked = pick_meters(unit)
    assert picked.meter is not None
    assert (picked.meter.info.name, picked.meter.info.scope) == ("nvml", "board")
    assert "nvml-module" in [meter.info.name for meter in picked.beside]
    assert NvmlModuleMeter.for_request(unit) is None
    beside = NvmlModuleMeter.for_request(replace(unit, metered="host"))
    assert beside is not None
    assert beside.info.scope == "module"
    assert NvmlModuleMeter.for_request(replace(unit, metered="node")) is None
    assert NvmlModuleMeter.for_request(replace(unit, choices=(MeterChoice("nvml-module"),)))


@pytest.mark.parametrize("module_w", [None, 200.0, 150.0])
def test_a_card_without_a_module_has_no_meter_of_one(
    over: Any, paper_nvml: ModuleType, module_w: float | None
) -> None:
    # A driver that takes no notice of the scope gives the card's own power.
    over(paper_nvml.PaperCard(module_w=module_w, power_s=0.0))
    unit = MeterRequest("NVIDIA", "card", "cuda")
    assert NvmlModuleMeter.for_request(replace(unit, metered="host")) is None
    named = replace(unit, choices=(MeterChoice("nvml-module"),))
    with pytest.raises(ChipmarkError, match="no power of a module"):
        NvmlModuleMeter.for_request(named)


def test_a_vgpu_is_not_charged_with_its_card(over: Any, paper_nvml: ModuleType) -> None:
    unit = MeterRequest("NVIDIA", "card", "cuda")
    over(paper_nvml.PaperCard(virtualization=2))
    picked = pick_meters(unit)
    assert picked.meter is None
    assert sum("a vGPU is a part of it" in remark for remark in picked.remarks) == 1
    for kind in (NvmlPowerMeter, NvmlModuleMeter):
        assert kind.for_request(unit) is None
        choice = MeterChoice("nvml-power" if kind is NvmlPowerMeter else "nvml-module")
        with pytest.raises(ChipmarkError, match="vGPU"):
            kind.for_request(replace(unit, choices=(choice,)))
    for mode in (None, 0, 1, 3):  # bare, passed through, the host of vGPUs, not told
        over(paper_nvml.PaperCard(virtualization=mode, counter_s=0.005))
        assert NvmlMeter.for_request(unit) is not None
