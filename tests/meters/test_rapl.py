from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from chipmark.codes import NullReason
from chipmark.errors import ChipmarkError
from chipmark.meters.choice import MeterChoice
from chipmark.meters.contract import PowerSamples
from chipmark.meters.poll import Sampler
from chipmark.meters.rapl import Domain, RaplMemoryMeter, RaplMeter, RaplPlatformMeter, zones
from chipmark.meters.request import MeterRequest
from chipmark.metrics.energy import window_energy

REQUEST = MeterRequest("Intel", "package", "cpu")
CARD = MeterRequest("NVIDIA", "card", "cuda")


def _domain(root: Path, name: str, label: str, energy_uj: int, wrap: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{wrap}\n")
    return folder


def test_wrap_of_the_counter_is_removed(tmp_path: Path) -> None:
    folder = _domain(tmp_path, "intel-rapl:0", "package-0", 900_000)
    domain = Domain(folder)
    first = domain.joules()
    (folder / "energy_uj").write_text("100000")
    assert domain.joules() - first == pytest.approx(0.2)
    (folder / "energy_uj").write_text("50000")
    assert domain.joules() - first == pytest.approx(1.15)


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    _domain(tmp_path, "intel-rapl:0", "package-0", 100_000)
    _domain(tmp_path, "intel-rapl:1", "package-1", 200_000)
    _domain(tmp_path, "intel-rapl:0:0", "dram", 700_000)
    _domain(tmp_path, "intel-rapl:2", "psys", 700_000)
    meter = RaplMeter.for_request(REQUEST, tmp_path)
    assert meter is not None
    meter.start()
    samples = meter.stop()
    assert samples.energy_j == pytest.approx(np.full(len(samples.energy_j), 0.3))
    assert np.isnan(samples.power_w).all()
    assert (meter.info.source, meter.info.scope) == ("counter", "package")
    assert meter.info.covers.startswith("2 packages")


def test_no_powercap_means_no_meter(tmp_path: Path) -> None:
    assert RaplMeter.for_request(REQUEST, tmp_path / "none") is None


def test_an_accelerator_is_not_metered_by_rapl(tmp_path: Path) -> None:
    _domain(tmp_path, "intel-rapl:0", "package-0", 1)
    assert RaplMeter.for_request(MeterRequest("NVIDIA", "card", "cuda"), tmp_path) is None


def test_share_of_a_package_has_no_meter_and_says_why(tmp_path: Path) -> None:
    _domain(tmp_path, "intel-rapl:0", "package-0", 1)
    share = MeterRequest("Intel", "cpu-share", "cpu")
    with pytest.raises(ChipmarkError, match="whole packages"):
        RaplMeter.for_request(share, tmp_path)
    assert RaplMeter.for_request(share, tmp_path / "none") is None


def test_package_without_a_counter_says_so(tmp_path: Path) -> None:
    folder = _domain(tmp_path, "intel-rapl:0", "package-0", 1)
    (folder / "max_energy_range_uj").unlink()
    with pytest.raises(ChipmarkError, match="without a counter"):
        RaplMeter.for_request(REQUEST, tmp_path)


def test_links_that_lead_nowhere_are_no_packages(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl:0").symlink_to("../../gone")
    assert RaplMeter.for_request(REQUEST, tmp_path) is None


def test_unreadable_counter_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _domain(tmp_path, "intel-rapl:0", "package-0", 1)

    def refuse(self: Domain) -> float:
        raise PermissionError(13, "denied", "energy_uj")

    monkeypatch.setattr(Domain, "joules", refuse)
    with pytest.raises(ChipmarkError, match="readable by root only") as caught:
        RaplMeter.for_request(REQUEST, tmp_path)
    assert "chmod a+r" in caught.value.hint
    assert "--power-w" in caught.value.hint


def server(root: Path) -> None:
    """Two sockets with everything that a kernel shows of them, and the memory-mapped twins."""
    for number in (0, 1):
        _domain(root, f"intel-rapl:{number}", f"package-{number}", 100_000 * (number + 1))
        _domain(root, f"intel-rapl:{number}:0", "core", 3_000_000)
        _domain(root, f"intel-rapl:{number}:1", "uncore", 4_000_000)
        _domain(root, f"intel-rapl:{number}:2", "dram", 10_000 * (number + 1))
        _domain(root, f"intel-rapl-mmio:{number}", f"package-{number}", 100_000 * (number + 1))
        _domain(root, f"intel-rapl-mmio:{number}:0", "dram", 10_000 * (number + 1))
    _domain(root, "intel-rapl:2", "psys", 900_000)
    (root / "intel-rapl").mkdir()
    (root / "dtpm:0").mkdir()


def test_every_zone_is_told_by_name_and_once(tmp_path: Path) -> None:
    server(tmp_path)
    found = zones(tmp_path)
    assert [zone.name for zone in found if zone.kind == "package"] == ["package-0", "package-1"]
    assert [z.name for z in found if z.kind == "dram"] == ["dram of package-0", "dram of package-1"]
    assert [zone.name for zone in found if zone.kind == "psys"] == ["psys"]
    assert len(found) == 9
    assert all("mmio" not in zone.folder.name for zone in found)


def test_kinds_of_zones_are_meters_of_their_own_and_never_summed(tmp_path: Path) -> None:
    server(tmp_path)
    host, node = replace(CARD, metered="host"), replace(CARD, metered="node")
    read = {}
    for kind, request in (
        (RaplMeter, host),
        (RaplMemoryMeter, host),
        (RaplPlatformMeter, node),
    ):
        meter = kind.for_request(request, tmp_path)
        assert meter is not None
        meter.start()
        read[meter.info.name, meter.info.scope] = float(meter.stop().energy_j[0])
        assert not meter.info.verified
        assert meter.info.jittered
    assert read == {
        ("rapl", "package"): pytest.approx(0.3),
        ("rapl-dram", "memory"): pytest.approx(0.03),
        ("rapl-psys", "node_dc"): pytest.approx(0.9),
    }


def test_memory_and_platform_are_no_meters_of_a_unit(tmp_path: Path) -> None:
    server(tmp_path)
    for request in (REQUEST, CARD, replace(REQUEST, choices=(MeterChoice("rapl-dram"),))):
        assert RaplMemoryMeter.for_request(request, tmp_path) is None
        assert RaplPlatformMeter.for_request(request, tmp_path) is None
    assert RaplMemoryMeter.for_request(replace(REQUEST, metered="node"), tmp_path) is None
    assert RaplPlatformMeter.for_request(replace(REQUEST, metered="host"), tmp_path) is None
    assert RaplMeter.for_request(replace(REQUEST, metered="node"), tmp_path) is None


def test_the_host_is_whole_packages_whatever_the_unit_is(tmp_path: Path) -> None:
    server(tmp_path)
    for unit in ("card", "cpu-share", "package", "server"):
        meter = RaplMeter.for_request(
            replace(CARD, unit=unit, metered="host"),
            tmp_path,
        )
        assert meter is not None
        assert meter.info.covers.startswith("2 packages")


def test_a_twin_alone_and_dies_of_a_package_are_read(tmp_path: Path) -> None:
    _domain(tmp_path / "mapped", "intel-rapl-mmio:0", "package-0", 100_000)
    dies = tmp_path / "dies"
    for number in range(12):
        _domain(dies, f"intel-rapl:{number}", f"package-{number // 2}-die-{number % 2}", 100_000)
    for folder, count in ((tmp_path / "mapped", 1), (dies, 12)):
        meter = RaplMeter.for_request(REQUEST, folder)
        assert meter is not None
        meter.start()
        assert meter.stop().energy_j[0] == pytest.approx(0.1 * count)
    assert [z.folder.name for z in zones(dies)] == [f"intel-rapl:{n}" for n in range(12)]


def test_processors_without_memory_zones_have_no_meter_of_it(tmp_path: Path) -> None:
    _domain(tmp_path, "intel-rapl:0", "package-0", 100_000)
    _domain(tmp_path, "intel-rapl:0:0", "core", 100_000)
    host = replace(REQUEST, metered="host")
    assert RaplMemoryMeter.for_request(host, tmp_path) is None
    assert RaplMeter.for_request(host, tmp_path) is not None


def test_what_cannot_be_read_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server(tmp_path)

    def refuse(self: Domain) -> float:
        raise PermissionError(13, "denied", "energy_uj")

    monkeypatch.setattr(Domain, "joules", refuse)
    host = replace(CARD, metered="host")
    with pytest.raises(ChipmarkError, match="readable by root only"):
        RaplMeter.for_request(host, tmp_path)
    assert RaplMemoryMeter.for_request(host, tmp_path) is None
    with pytest.raises(ChipmarkError, match="readable by root only"):
        RaplMemoryMeter.for_request(replace(host, choices=(MeterChoice("rapl-dram"),)), tmp_path)


def test_the_long_term_limit_is_the_cap(tmp_path: Path) -> None:
    for number, watts in ((0, 205), (1, 165)):
        folder = _domain(tmp_path, f"intel-rapl:{number}", f"package-{number}", 1)
        for index, name, limit in ((0, "long_term", watts), (1, "short_term", 999)):
            (folder / f"constraint_{index}_name").write_text(f"{name}\n")
            (folder / f"constraint_{index}_power_limit_uw").write_text(f"{limit}000000\n")
    meter = RaplMeter.for_request(REQUEST, tmp_path)
    assert meter is not None
    assert meter.info.cap_w == 370.0
    (tmp_path / "intel-rapl:1" / "constraint_0_power_limit_uw").write_text("none")
    unknown = RaplMeter.for_request(REQUEST, tmp_path)
    assert unknown is not None
    assert unknown.info.cap_w is None


class Packages:
    """Zones whose counters move with a clock of paper: `watts` of each, from `begin_uj`."""

    def __init__(self, root: Path, watts: list[float], wrap: int = 262_143_328_850) -> None:
        self.now, self.watts, self.wrap = 0.0, watts, wrap
        self.uj = [wrap - 50_000_000.0] * len(watts)
        self.folders = [
            _domain(root, f"intel-rapl:{number}", f"package-{number}", 0, wrap)
            for number in range(len(watts))
        ]
        self.write()

    def write(self) -> None:
        for folder, value in zip(self.folders, self.uj, strict=True):
            (folder / "energy_uj").write_text(f"{int(value)}\n")

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.uj = [
            (value + watts * seconds * 1e6) % self.wrap
            for value, watts in zip(self.uj, self.watts, strict=True)
        ]
        self.write()
        return self.now >= 1.5

    def run(self, change: Callable[[], None] = lambda: None) -> tuple[RaplMeter, PowerSamples]:
        """A second and a half; `change` once half of it has gone."""
        changed: list[bool] = []

        def wait(seconds: float) -> bool:
            if self.now > 0.75 and not changed:
                changed.append(True)
                change()
            return self.wait(seconds)

        def clock() -> float:
            return self.now

        domains = [Domain(folder, folder.name, clock) for folder in self.folders]
        sampler = partial(Sampler, clock=clock, wait=wait, draw=random.Random(3).random)
        meter = RaplMeter(domains, sampler=sampler)
        meter.start()
        return meter, meter.stop()


def test_packages_that_wrap_in_between_give_their_power(tmp_path: Path) -> None:
    meter, samples = Packages(tmp_path, [150.0, 90.0]).run()
    found = window_energy(samples, meter.info, 0.25, 1.25)
    assert found.energy_j == pytest.approx(240.0, rel=1e-6)
    assert samples.remarks == ()


def test_a_counter_that_begins_anew_is_no_wrap(tmp_path: Path) -> None:
    packages = Packages(tmp_path, [150.0])
    packages.uj = [packages.wrap / 2]

    def reset() -> None:
        packages.uj = [0.0]

    meter, samples = packages.run(reset)
    found = window_energy(samples, meter.info, 0.25, 1.25)
    assert (found.energy_j, found.reason) == (None, NullReason.COUNTER_BACKWARDS)


def test_a_counter_that_stands_still_is_no_reading(tmp_path: Path) -> None:
    meter, samples = Packages(tmp_path, [0.0, 0.0]).run()
    found = window_energy(samples, meter.info, 0.25, 1.25)
    assert (found.energy_j, found.reason) == (None, NullReason.COUNTER_STUCK)


def test_one_of_several_that_stands_still_leaves_no_sum(tmp_path: Path) -> None:
    meter, samples = Packages(tmp_path, [150.0, 0.0]).run()
    assert np.isnan(samples.energy_j).all()
    assert window_energy(samples, meter.info, 0.25, 1.25).energy_j is None
    assert samples.remarks == ("intel-rapl:1 stood still while others counted, so there is no sum",)


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), OSError(61, "no data")])
def test_a_counter_that_the_driver_does_not_answer_for_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    _domain(tmp_path, "intel-rapl:0", "package-0", 1)

    def refuse(self: Domain) -> float:
        raise error

    monkeypatch.setattr(Domain, "joules", refuse)
    with pytest.raises(ChipmarkError, match="without a counter that can be read"):
        RaplMeter.for_request(REQUEST, tmp_path)


@pytest.mark.parametrize("text", ["", "garbage\n", "-"])
def test_garbage_in_between_is_a_gap(tmp_path: Path, text: str) -> None:
    folder = _domain(tmp_path, "intel-rapl:0", "package-0", 100_000)
    meter = RaplMeter.for_request(REQUEST, tmp_path)
    assert meter is not None
    meter.start()
    (folder / "energy_uj").write_text(text)
    samples = meter.stop()
    assert samples.energy_j[0] == pytest.approx(0.1)
    assert any("readings of the meter failed" in remark for remark in samples.remarks)
