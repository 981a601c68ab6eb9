from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from chipmark.errors import BadInputError, UnknownNameError, UsageError
from chipmark.meters.choice import parse_choice
from chipmark.meters.contract import Meter
from chipmark.meters.log_meter import (
    Clocks,
    CsvMeter,
    LogMeter,
    LogTerms,
    StoredLog,
    StoredLogMeter,
    log_info,
)
from chipmark.meters.power_log import PowerLog
from chipmark.meters.replay import save_samples
from chipmark.meters.request import MeterRequest
from chipmark.metrics.energy import window_energy

PERIOD_S = 0.01
COLUMNS = "time=Time,power=Watts"


def request(text: str, metered: str = "node") -> MeterRequest:
    return MeterRequest("A", "card", "cuda", metered=metered, choices=(parse_choice(text),))


def watts(unix_s: float) -> float:
    """Known at every moment: 100 W and 20 W more a second."""
    return 100.0 + 20.0 * (unix_s % 1000)


class Logger:
    """A logger of its own thread that adds rows until it is told to stop."""

    def __init__(self, path: Path, ahead_s: float = 0.0) -> None:
        self.path, self.ahead_s, self.bad = path, ahead_s, ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        path.write_text("Time,Watts\n")
        now = time.time()
        self._add([now - PERIOD_S * n for n in (4, 3, 2, 1)])

    def _add(self, times: list[float]) -> None:
        with self.path.open("a") as file:
            file.writelines(f"{t + self.ahead_s:.6f},{watts(t):.3f}\n" for t in times)

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            with self.path.open("a") as file:
                file.write(self.bad)
            self._add([time.time()])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[Callable[..., Logger]]:
    made: list[Logger] = []

    def of(**words: float) -> Logger:
        made.append(Logger(tmp_path / "wall.csv", **words))
        return made[-1]

    yield of
    for one in made:
        one.stop()


def named(text: str) -> Meter:
    kind = CsvMeter if text.startswith("csv") else StoredLogMeter
    found = kind.for_request(request(text))
    assert found is not None
    return found


def test_without_its_name_it_meters_nothing() -> None:
    for kind in (CsvMeter, StoredLogMeter):
        assert kind.for_request(MeterRequest("A", "card", "cuda", metered="node")) is None


def test_rows_of_the_run_are_on_the_monotonic_clock(logger: Callable[..., Logger]) -> None:
    wall = logger()
    meter = named(f"csv:{wall.path},{COLUMNS},error=0.02,averaging=row")
    info = meter.info
    assert (info.name, info.source, info.scope, info.error_rel) == ("csv", "wall", "wall", 0.02)
    assert info.update_period_s == pytest.approx(PERIOD_S, rel=0.01)
    assert info.period_known
    assert info.averaging_s == info.update_period_s
    # By when its newest row was written, up to a period after its time.
    assert info.clock_s is not None
    assert PERIOD_S <= info.clock_s < 1
    assert info.notes == ("its error of 0.02 is the user's figure",)
    wall.start()
    meter.start()
    start_s, ahead_s = time.perf_counter(), time.time() - time.perf_counter()
    time.sleep(0.5)
    end_s = time.perf_counter()
    samples = meter.stop()
    assert samples.time_s[0] <= start_s
    assert samples.time_s[-1] >= end_s
    assert samples.power_w == pytest.approx(watts_at(samples.time_s + ahead_s), abs=0.1)
    energy = window_energy(samples, info, start_s, end_s)
    middles = np.linspace(start_s, end_s, 1001)[1:] - (end_s - start_s) / 2000
    joules = float(watts_at(middles + ahead_s).mean()) * (end_s - start_s)
    assert energy.energy_j is not None
    assert energy.error_rel is not None
    assert abs(energy.energy_j - joules) <= energy.error_rel * joules


def watts_at(unix_s: np.ndarray) -> np.ndarray:
    return np.array([watts(t) for t in unix_s])


def test_a_log_that_breaks_in_the_run_is_no_samples_and_a_reason(
    logger: Callable[..., Logger],
) -> None:
    wall = logger()
    meter = named(f"csv:{wall.path},{COLUMNS}")
    meter.start()
    wall.bad = "=cmd(),x\n"
    wall.start()
    time.sleep(0.05)
    samples = meter.stop()
    assert len(samples.time_s) == 0
    assert "wall.csv:6: field 'Time'" in samples.remarks[0]
    wall.stop()
    wall.path.unlink()
    assert "no such file" in meter.stop().remarks[0]


def test_a_logger_that_stopped_leaves_what_it_wrote(logger: Callable[..., Logger]) -> None:
    wall = logger()
    meter = named(f"csv:{wall.path},{COLUMNS},wait=0.05")
    meter.start()
    time.sleep(0.1)
    samples = meter.stop()
    assert len(samples.time_s) <= 4
    assert "before the run did; a logger that holds back rows needs wait=" in samples.remarks[0]


class Hands:
    """Both clocks of a machine, moved by hand."""

    def __init__(self) -> None:
        self.monotonic_s, self.ahead_s = 50.0, 1795770000.0
        self.slept: list[float] = []

    def clocks(self) -> Clocks:
        return Clocks(
            unix=lambda: self.monotonic_s + self.ahead_s,
            monotonic=lambda: self.monotonic_s,
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.monotonic_s += seconds


def test_a_clock_that_was_set_in_the_run_is_told(tmp_path: Path) -> None:
    hands, path = Hands(), tmp_path / "wall.npz"
    times = hands.ahead_s + np.arange(0.0, 200.0)
    save_samples(path, PowerLog(times, np.full(200, np.nan), times - hands.ahead_s).samples(0))
    source = StoredLog(path)
    info = log_info("log", path, source.read(), LogTerms(), "samples of")
    meter = LogMeter(source, info, clocks=hands.clocks())
    meter.start()
    hands.monotonic_s += 60
    samples = meter.stop()
    assert samples.remarks == ()
    assert samples.time_s.tolist() == list(range(48, 113))
    assert samples.power_w.tolist() == list(range(48, 113))
    # A logger whose clock is 75 s ahead, with the offset that takes it back.
    save_samples(path, PowerLog(times + 75, np.full(200, np.nan), times - hands.ahead_s).samples(0))
    corrected = LogMeter(source, info, offset_s=-75.0, clocks=hands.clocks())
    corrected.start()
    hands.monotonic_s += 20
    assert corrected.stop().power_w.tolist() == list(range(108, 133))
    save_samples(path, PowerLog(times, np.full(200, np.nan), times - hands.ahead_s).samples(0))
    meter.start()
    hands.ahead_s += 3
    hands.monotonic_s += 40
    samples = meter.stop()
    assert "clock was set by +3 s in the run" in samples.remarks[0]
    assert samples.time_s[-1] == 172.0


def test_a_log_that_ends_early_is_waited_for_and_told(tmp_path: Path) -> None:
    hands, path = Hands(), tmp_path / "wall.npz"
    times = hands.ahead_s + np.arange(0.0, 100.0)
    save_samples(path, PowerLog(times, np.full(100, np.nan), np.full(100, 7.0)).samples(0))
    info = log_info("log", path, StoredLog(path).read(), LogTerms(), "samples of")
    meter = LogMeter(StoredLog(path), info, clocks=hands.clocks())
    meter.start()
    hands.monotonic_s += 60
    samples = meter.stop()
    assert 5.0 <= sum(hands.slept) < 5.5
    assert samples.time_s[-1] == 99.0
    assert "ends 11 s before the run did" in samples.remarks[0]


def test_another_clock_is_refused_with_the_flag(logger: Callable[..., Logger]) -> None:
    wall = logger(ahead_s=75.0)
    with pytest.raises(UsageError, match="its clock is ahead by 75 s") as error:
        named(f"csv:{wall.path},{COLUMNS}")
    fix = float(error.value.hint.removeprefix("offset=").removesuffix(" would fix it"))
    assert fix == pytest.approx(-75, abs=1.0)
    assert named(f"csv:{wall.path},{COLUMNS},offset=-75") is not None
    with pytest.raises(UsageError, match="takes one offset"):
        named(f"csv:{wall.path},{COLUMNS},offset=-75..-76")


def test_another_zone_is_refused_with_the_flag(tmp_path: Path) -> None:
    path, now = tmp_path / "wall.csv", time.time() + 8 * 3600
    times = (datetime.fromtimestamp(now - n, UTC).strftime("%Y-%m-%d %H:%M:%S") for n in (3, 2, 1))
    path.write_text("Time,Watts\n" + "".join(f"{t},100\n" for t in times))
    with pytest.raises(UsageError, match=r"its clock is ahead by (2879\d|28800) s") as error:
        named(f"csv:{path},{COLUMNS}")
    assert "zone=+08:00 would fix it" in error.value.hint
    assert named(f"csv:{path},{COLUMNS},zone=+08:00") is not None
    with pytest.raises(UsageError) as error:
        named(f"csv:{path},{COLUMNS},zone=-03:30")
    assert "zone=+08:00 would fix it" in error.value.hint


def test_a_log_that_no_one_writes_is_for_later(logger: Callable[..., Logger]) -> None:
    wall = logger(ahead_s=-3600.0)
    old = time.time() - 3600
    os.utime(wall.path, (old, old))
    with pytest.raises(UsageError, match="no logger writes to it") as error:
        named(f"csv:{wall.path},{COLUMNS}")
    assert "power attach" in error.value.hint


def test_a_stored_log_takes_the_same_road(tmp_path: Path) -> None:
    path, now = tmp_path / "wall.npz", time.time()
    times = now - 2 + 0.1 * np.arange(60)
    log = PowerLog(times, np.full(60, np.nan), watts_at(times))
    save_samples(path, log.within(0, now).samples(0))
    meter = named(f"log:{path},scope=node_dc")
    assert "its error is taken to be 0.01 of 1" in meter.info.notes[0]
    assert "no error bound" in meter.info.notes[1]
    capped = named(f"log:{path},cap=2000")
    assert (capped.info.cap_w, len(capped.info.notes)) == (2000.0, 1)
    assert (meter.info.name, meter.info.source, meter.info.scope) == ("log", "polled", "node_dc")
    meter.start()
    save_samples(path, log.samples(0))
    samples = meter.stop()
    at = samples.time_s + time.time() - time.perf_counter()
    assert 2 <= len(samples.time_s) <= 8
    assert samples.power_w == pytest.approx(watts_at(at), abs=0.1)


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        ("csv", UsageError, "names no file"),
        ("csv:nowhere.csv,time=Time,power=Watts", BadInputError, "no such file"),
        ("csv:nowhere.csv,time=Time", UsageError, "needs power="),
        ("csv:x.csv,time=T,power=P,scope=rack", UnknownNameError, "scope of a power log"),
        ("csv:x.csv,time=T,power=P,error=2", UsageError, "error=2"),
        ("csv:x.csv,time=T,power=P,averaging=long", UsageError, "averaging=long"),
        ("csv:x.csv,time=T,power=P,tine=3", UnknownNameError, "did you mean time"),
        ("log:nowhere.npz", BadInputError, "no such file"),
        ("log:x.npz,time=T", UnknownNameError, "option of --meter log"),
    ],
)
def test_names_and_options_that_are_none(text: str, kind: type[Exception], what: str) -> None:
    with pytest.raises(kind, match=what):
        named(text)
