"""`--meter csv:FILE`: a wall meter's log that is written while a run is measured."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from chipmark.metrics.energy import window_energy
from chipmark.results.raw import load_raw
from chipmark.results.store import find_records, load_record
from chipmark.results.validate import validate_record

RUN = ("run", "quick", "-b", "torch:cpu", "-m", "tiny", "--sessions", 2, "--repeats", 1)
COLUMNS = "time=Time,power=Watts"


@pytest.mark.parametrize(
    ("meter", "what"),
    [
        ("csv:{log},time=Time,power=Watt", "did you mean Watts?"),
        ("csv:{log},time=Time,power=Watts,zone=+08:00", "zone=+00:00 would fix it"),
        ("csv:{log},time=Time", "needs power="),
        ("csv:{log}x,time=Time,power=Watts", "no such file"),
    ],
)
def test_a_log_that_does_not_fit_ends_the_command_at_once(
    chipmark, tmp_path: Path, meter: str, what: str
) -> None:
    log, now = tmp_path / "wall.csv", time.time()
    times = (time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now - n)) for n in (3, 2, 1))
    log.write_text("Time,Watts\n" + "".join(f"{t},300\n" for t in times))
    answer = chipmark(*RUN, "-o", tmp_path / "runs", "--meter", meter.format(log=log))
    assert answer.code == 2
    assert what in answer.err
    assert not list(tmp_path.glob("runs/*/record.json"))


@pytest.mark.long
def test_a_log_that_is_written_in_the_run_is_the_rows_meter(chipmark, tmp_path: Path) -> None:
    log, stop = tmp_path / "wall.csv", threading.Event()
    log.write_text("Time,Watts\n")

    def write() -> None:
        while not stop.wait(0.004):
            with log.open("a") as file:
                file.write(f"{time.time():.4f},300\n")

    logger = threading.Thread(target=write, daemon=True)
    logger.start()
    time.sleep(0.5)
    try:
        meter = f"csv:{log},{COLUMNS}"
        answer = chipmark(*RUN, "--idle-s", 0, "-o", tmp_path / "runs", "--meter", meter)
    finally:
        stop.set()
        logger.join()
    assert answer.code == 0, answer.err
    (folder,) = find_records([tmp_path / "runs"])
    record = load_record(folder)
    assert record.manifest.meter is not None
    assert (record.manifest.meter.name, record.manifest.meter.source) == ("csv", "wall")
    # The row itself has no joules where the machine's wall covers more than the CPUs that computed.
    raw = load_raw(folder, record.manifest)
    for repeat in raw.repeats:
        start_s, end_s = (float(repeat.events["window"][name][0]) for name in ("start_s", "end_s"))
        found = window_energy(repeat.power, raw.facts.meter, start_s, end_s)
        assert found.energy_j == pytest.approx(300 * (end_s - start_s), rel=1e-6)
    assert not [found for found in validate_record(folder) if found.severity == "error"]
