from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chipmark.errors import ChipmarkError
from chipmark.meters.rapl import Domain, RaplMeter
from chipmark.meters.request import MeterRequest

REQUEST = MeterRequest("Intel", "package", "cpu")


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
