"""The picture of power over time."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from chipmark.cli.power_plot import plot
from chipmark.errors import NothingToJudgeError, UnknownNameError, UsageError
from chipmark.history.power_plot import MOST_PANELS, plot_power, shaded, thinned
from chipmark.metrics.energy_timeline import PhaseMark, PowerSeries, PowerTimeline
from chipmark.results.store import load_record
from chipmark.results.write import record_raw


def test_a_stretch_is_shaded_by_what_took_most_of_it() -> None:
    marks = [PhaseMark(0.0, 4.0, "prefill_cold"), PhaseMark(4.0, 6.0, "decode")]
    # A launch of a tenth of a pixel does not colour it.
    marks.append(PhaseMark(8.0, 8.001, "decode"))
    found = shaded(marks, 10.0)
    assert found == {
        "prefill_cold": [(0.0, pytest.approx(4.0))],
        "decode": [(pytest.approx(4.0), pytest.approx(2.0))],
    }
    assert shaded([], 0.0) == {}


def test_a_long_series_keeps_its_peaks_and_its_gaps() -> None:
    time = np.arange(100_000.0)
    watts = np.full(len(time), 50.0)
    watts[31_234], watts[70_000] = 900.0, np.nan
    at, thin = thinned(time, watts)
    assert len(at) == len(thin) <= 4000
    assert np.nanmax(thin) == 900.0
    assert np.isnan(thin).any()
    assert thinned(time[:10], watts[:10])[0] is not None


def line(repeat: int = 0) -> PowerTimeline:
    series = PowerSeries("nvml", np.array([-1.0, 1, 2, 3]), np.array([50.0, 60, np.nan, 70]))
    return PowerTimeline(repeat, 3.0, (series,), (PhaseMark(0, 1, "decode"),), (20.0, 25.0))


def test_a_picture_names_meters_phases_and_idle(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "power.svg"
    assert plot_power([("a $record", line())] * (MOST_PANELS + 2), path) == MOST_PANELS
    text = path.read_text()
    for word in ("nvml", "decode", "idle", "a $record"):
        assert f"<!-- {word} -->" in text
    png = tmp_path / "power.png"
    plot_power([("one", line())], png)
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def record(rawcells: ModuleType, tmp_path: Path) -> Path:
    rawcells.write_raw(tmp_path / "raw")
    return record_raw(tmp_path / "runs", tmp_path / "raw")


def invoke(*arguments: str) -> object:
    app = typer.Typer()
    app.command()(plot)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_draws_a_record(record: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "p.svg"
    found = invoke(str(record.parent), "-o", str(out), "--repeat", "1")
    assert found.exit_code == 0, found  # type: ignore[attr-defined]
    assert f"<!-- {load_record(record).id}, repeat 1 -->" in out.read_text()
    assert isinstance(invoke(str(record), "-o", str(out), "--repeat", "9").exception, UsageError)  # type: ignore[attr-defined]
    wrong = invoke(str(record), "-o", str(tmp_path / "p.gif"))
    assert isinstance(wrong.exception, UnknownNameError)  # type: ignore[attr-defined]


def test_a_record_without_a_meter_has_no_picture(rawcells: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rawcells.write_raw(tmp_path / "raw")
    for repeat in (tmp_path / "raw").glob("repeat-*"):
        (repeat / "power.npz").unlink()
    record = record_raw(tmp_path / "runs", tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw")
    found = invoke(str(record), "-o", str(tmp_path / "p.svg"))
    assert isinstance(found.exception, NothingToJudgeError)  # type: ignore[attr-defined]
