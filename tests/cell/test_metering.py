"""Meters that fail, hang or hand over rubbish cost a note and never a cell."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chipmark.cell.metering import Metering
from chipmark.errors import ChipmarkError
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.pick import Picked
from chipmark.meters.replay import load_samples


def samples(watts: float, remarks: tuple[str, ...] = ()) -> PowerSamples:
    return PowerSamples(np.array([0.0, 1.0]), np.full(2, np.nan), np.full(2, watts), remarks)


class Paper:
    def __init__(
        self,
        name: str,
        stop: Callable[[], Any],
        start: Callable[[], Any] = lambda: None,
        calls: list[str] | None = None,
    ) -> None:
        self.info = MeterInfo(name, "polled", "board", "paper", 0.1)
        self._start, self._stop = start, stop
        self.calls = [] if calls is None else calls

    def start(self) -> None:
        self.calls.append(f"start {self.info.name}")
        self._start()

    def stop(self) -> Any:
        self.calls.append(f"stop {self.info.name}")
        return self._stop()


def raising(error: Exception) -> Callable[[], Any]:
    def call() -> None:
        raise error

    return call


def test_all_are_read_the_rows_own_the_shortest(tmp_path: Path) -> None:
    calls: list[str] = []
    own = Paper("card", lambda: samples(100.0), calls=calls)
    host = Paper("Host CPU", lambda: samples(40.0), calls=calls)
    metering = Metering(Picked(own, (host,)))
    metering.start()
    found = metering.stop()
    assert calls == ["start Host CPU", "start card", "stop card", "stop Host CPU"]
    assert found.notes == ()
    found.save(tmp_path / "power.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["power-host-cpu.npz", "power.npz"]
    assert load_samples(tmp_path / "power-host-cpu.npz").power_w.tolist() == [40.0, 40.0]


def test_remarks_of_a_meter_are_notes_each_once() -> None:
    own = Paper("card", lambda: samples(100.0, ("3 readings were late", "3 readings were late")))
    metering = Metering(Picked(own))
    metering.start()
    found = metering.stop()
    assert [(note.code, note.text) for note in found.notes] == [
        ("meter", "card: 3 readings were late")
    ]
    metering.start()
    assert len(metering.stop().notes) == 1


BACKWARDS = PowerSamples(np.array([1.0, 0.0]), np.zeros(2), np.zeros(2))
RAGGED = PowerSamples(np.array([0.0, 1.0]), np.zeros(3), np.zeros(2))
ENDLESS = PowerSamples(np.array([0.0, np.inf]), np.zeros(2), np.zeros(2))


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (raising(ChipmarkError("the sensor went away", "plug it in")), "away. plug it in"),
        (raising(ZeroDivisionError("a fault")), "ZeroDivisionError: a fault"),
        (raising(SystemExit(3)), "did not stop"),
        (lambda: None, "handed over no samples"),
        (lambda: [1.0], "handed over no samples"),
        (lambda: BACKWARDS, "time_s goes back in time"),
        (lambda: RAGGED, "has columns of different lengths"),
        (lambda: ENDLESS, "time_s is not finite"),
    ],
)
@pytest.mark.parametrize("is_row", [False, True])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_that_fails_leaves_a_note_and_the_others(
    stop: Callable[[], Any], text: str, is_row: bool
) -> None:
    good, bad = Paper("good", lambda: samples(100.0)), Paper("bad", stop)
    metering = Metering(Picked(bad, (good,)) if is_row else Picked(good, (bad,)))
    metering.start()
    found = metering.stop()
    assert [note.code for note in found.notes] == ["meter"]
    assert found.notes[0].text.startswith("bad: ")
    assert text in found.notes[0].text
    if is_row:
        assert found.own is None
        assert list(found.beside) == ["good"]
    else:
        assert found.own is not None
        assert found.beside == {}


def test_one_that_does_not_start_is_asked_again_the_next_time() -> None:
    faults = [OSError("no such device")]

    def start() -> None:
        if faults:
            raise faults.pop()

    own = Paper("card", lambda: samples(1.0), start)
    metering = Metering(Picked(own))
    metering.start()
    first = metering.stop()
    assert first.own is None
    assert "did not start: OSError: no such device" in first.notes[0].text
    metering.start()
    second = metering.stop()
    assert second.own is not None
    assert second.notes == ()


def test_one_that_hangs_is_left_behind_and_not_asked_again() -> None:
    for_ever = threading.Event()
    hung = Paper("hung", lambda: samples(1.0), for_ever.wait)
    own = Paper("card", lambda: samples(1.0))
    metering = Metering(Picked(own, (hung,)), limit_s=0.05)
    metering.start()
    found = metering.stop()
    assert found.own is not None
    assert [note.text for note in found.notes] == ["hung: did not start within 0.05 s"]
    metering.start()
    assert metering.stop().notes == ()
    assert hung.calls == ["start hung"]
    for_ever.set()
