"""Logs that are attached afterwards to records whose work, clock and power are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from chipmark.engine.events import Table
from chipmark.meters.power_log import PowerLog
from chipmark.meters.replay import save_samples
from chipmark.metrics.energy import window_energy
from chipmark.results.raw import load_raw
from chipmark.results.store import find_records, load_record
from chipmark.results.validate import validate_record
from chipmark.results.write import record_raw, write_recomputed

UNIX_S = 1795770000.0
"""Unix time minus the clock of the hand-made cell."""

SLOWS = (300.0, 303.0, 297.0)
"""The cell's 0.28 s take 84 s, with waits of 0.3 s between launches."""

Watts = Callable[[np.ndarray], np.ndarray]


@pytest.fixture
def record(rawcells: ModuleType, tmp_path: Path) -> Path:
    """A record without a meter whose repeats kept Unix time."""
    return made(rawcells, tmp_path, power=None, meter=None)


def made(
    rawcells: ModuleType, tmp_path: Path, unix_s: float | None = UNIX_S, idle=(), **words
) -> Path:
    """A record whose repeats begin at 100 s, 300 s and 500 s."""
    raw = rawcells.write_raw(tmp_path / "raw", slows=(1.0,) * 3, **words)
    for index, slow in enumerate(SLOWS):
        repeat = raw / f"repeat-{index}"
        events = rawcells.tables(slow, 100.0 + 200 * index)
        rawcells.save_events(repeat / "events.npz", events)
        timing = rawcells.timing(events) | ({} if unix_s is None else {"unix_s": unix_s})
        (repeat / "timing.json").write_text(json.dumps(timing))
        if words.get("power", True) is not None:
            start_s, end_s = window(events)
            save_samples(repeat / "power.npz", rawcells.counter(20.0, start_s, end_s, 2000))
    for name, (start_s, end_s) in zip(("before", "after"), idle, strict=False):
        samples = rawcells.counter(10.0, start_s + 2.5, end_s - 2.5, 400)
        save_samples(raw / f"idle-{name}.npz", samples)
    return record_raw(tmp_path / "runs", raw)


def window(events: dict[str, Table]) -> tuple[float, float]:
    return float(events["window"]["start_s"][0]), float(events["window"]["end_s"][0])


def launches(rawcells: ModuleType) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    found = []
    for index, slow in enumerate(SLOWS):
        table = rawcells.tables(slow, 100.0 + 200 * index)["launches"]
        decode = table["phase"] == rawcells.PHASES.index("decode")
        found.append((table["start_s"], table["end_s"], decode))
    return found


def joules_until(rawcells: ModuleType, at_s: np.ndarray) -> np.ndarray:
    """Exact: 100 W always, 400 W more in a prefill, 150 W more in a decode launch."""
    joules = 100.0 * at_s
    for starts, ends, decode in launches(rawcells):
        for start, end, is_decode in zip(starts, ends, decode, strict=True):
            watts = 150.0 if is_decode else 400.0
            joules = joules + watts * np.clip(at_s - start, 0, end - start)
    return joules


def wall(
    rawcells: ModuleType, path: Path, ahead_s: float = 0.0, period_s: float = 0.5, drift: float = 0
) -> Path:
    """A wall meter's CSV of that power, whose clock is ahead and may drift."""
    at_s = np.arange(50.0, 700.0, period_s)
    mean = (
        joules_until(rawcells, at_s + period_s / 2) - joules_until(rawcells, at_s - period_s / 2)
    ) / period_s
    unix = at_s + UNIX_S + ahead_s + drift * (at_s - 100)
    path.write_text(
        "Time,P (W)\n" + "".join(f"{t:.3f},{p:.2f}\n" for t, p in zip(unix, mean, strict=True))
    )
    return path


def arguments(record: Path, log: Path, out: Path, *more: object) -> tuple[object, ...]:
    return (
        "power", "attach", record, "--csv", log, "--time", "Time", "--power", "P (W)", "-o", out,
        "--averaging", "row", *more,
    )  # fmt: skip


def test_the_log_is_the_rows_meter_within_its_bound(
    chipmark, record: Path, rawcells: ModuleType, tmp_path: Path
) -> None:
    before = {p: p.read_bytes() for p in record.rglob("*") if p.is_file()}
    log = wall(rawcells, tmp_path / "wall.csv")
    answer = chipmark(*arguments(record, log, tmp_path / "out", "--format", "json"))
    assert answer.code == 0, answer.err
    (found,) = answer.json["records"]
    assert all(abs(lag) <= 0.5 for lag in found["lag_s"])
    assert {p: p.read_bytes() for p in record.rglob("*") if p.is_file()} == before
    (folder,) = find_records([tmp_path / "out"])
    new, old = load_record(folder), load_record(record)
    assert new.manifest.meter is not None
    assert (new.manifest.meter.name, new.manifest.meter.source) == ("csv", "wall")
    lag_s = max(map(abs, found["lag_s"]))
    assert new.manifest.meter.clock_s == pytest.approx(lag_s + 0.25)
    source = new.manifest.recomputed_from
    assert source is not None
    assert source.id == old.id
    energy = new.metrics.details["energy"]
    exact = sum(
        float(np.diff(joules_until(rawcells, np.array(window(events))))[0])
        for events in (rawcells.tables(s, 100.0 + 200 * i) for i, s in enumerate(SLOWS))
    )
    assert energy["energy_j"] == pytest.approx(exact, rel=energy["error_rel"])
    assert energy["energy_j"] == pytest.approx(exact, rel=0.01)
    assert new.metrics.values["tok_per_joule"] == pytest.approx(96 / exact, rel=0.01)
    # Nothing but energy changed, and the new record is whole.
    assert new.metrics.values["total_tok_s"] == old.metrics.values["total_tok_s"]
    errors = {f.code for f in validate_record(folder)} - {f.code for f in validate_record(record)}
    assert not errors
    notes = [note.text for note in new.manifest.notes if note.text.startswith("csv: attached")]
    assert len(notes) == 1
    assert "at the start and" in notes[0]
    (kept,) = new.manifest.options["attached_logs"]
    assert kept["file"] == "wall.csv"
    again = load_record(write_recomputed(tmp_path / "again", new))
    assert again.metrics == new.metrics


def test_what_measured_before_stands_next_to_it(
    chipmark, rawcells: ModuleType, tmp_path: Path
) -> None:
    record = made(rawcells, tmp_path)
    log = wall(rawcells, tmp_path / "wall.csv")
    for flag, of_row, other in ((None, "csv", "hand"), ("--beside", "hand", "csv")):
        out = tmp_path / f"out-{of_row}"
        more = () if flag is None else (flag,)
        assert chipmark(*arguments(record, log, out, *more)).code == 0
        (folder,) = find_records([out])
        new = load_record(folder)
        assert new.manifest.meter is not None
        assert new.manifest.meter.name == of_row
        assert [meter.name for meter in new.manifest.beside] == [other]
        (shown,) = new.metrics.details["energy"]["beside"]
        assert shown["name"] == other
        power = {"hand": 20.0, "csv": new_power(rawcells)}
        assert new.metrics.values["power_w"] == pytest.approx(power[of_row], rel=0.01)
        assert shown["power_w"] == pytest.approx(power[other], rel=0.01)
        again = load_record(write_recomputed(tmp_path / f"again-{of_row}", new))
        assert again.metrics == new.metrics
    # A second log needs a name of its own.
    answer = chipmark(*arguments(folder, log, tmp_path / "twice", "--beside"))
    assert answer.code == 2
    assert "--name" in answer.err
    named = chipmark(*arguments(folder, log, tmp_path / "twice", "--beside", "--name", "rack"))
    assert named.code == 0


def test_a_counter_is_attached_as_one(
    chipmark, record: Path, rawcells: ModuleType, tmp_path: Path
) -> None:
    at_s, log = np.arange(50.0, 700.0, 0.5), tmp_path / "plug.csv"
    joules = joules_until(rawcells, at_s)
    rows = (f"{t + UNIX_S:.3f};{j / 3600:.5f}\n" for t, j in zip(at_s, joules, strict=True))
    log.write_text("Time;E (Wh)\n" + "".join(rows).replace(".", ","))
    words = ("power", "attach", record, "--csv", log, "--time", "Time", "--energy", "E (Wh)")
    answer = chipmark(*words, "--decimal", ",", "-o", tmp_path / "out", "--format", "json")
    assert answer.code == 0, answer.err
    (found,) = answer.json["records"]
    assert all(abs(lag) <= 0.5 for lag in found["lag_s"])
    assert found["power_w"] == pytest.approx(new_power(rawcells), rel=1e-3)
    (folder,) = find_records([tmp_path / "out"])
    new = load_record(folder)
    assert new.metrics.details["energy"]["method"] == "counter"


def test_idle_is_read_from_the_log_where_it_was_measured(
    chipmark, rawcells: ModuleType, tmp_path: Path
) -> None:
    """Idle from 60 s to 92 s of the cell's clock, before the first repeat at 100 s."""
    record = made(rawcells, tmp_path, idle=[(60.0, 92.0), (640.0, 672.0)])
    log = wall(rawcells, tmp_path / "wall.csv")
    assert chipmark(*arguments(record, log, tmp_path / "out")).code == 0
    (folder,) = find_records([tmp_path / "out"])
    new = load_record(folder)
    assert new.metrics.details["energy"]["idle_w"] == pytest.approx([100.0, 100.0], rel=0.001)
    assert {p.stem for p in folder.glob("idle-*")} == {
        "idle-before", "idle-after", "idle-before-hand", "idle-after-hand",
    }  # fmt: skip


def new_power(rawcells: ModuleType) -> float:
    spans = [window(rawcells.tables(s, 100.0 + 200 * i)) for i, s in enumerate(SLOWS)]
    joules = sum(float(np.diff(joules_until(rawcells, np.array(span)))[0]) for span in spans)
    return joules / sum(end - start for start, end in spans)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ({"ahead_s": 3.0}, ("ahead of the run's work by", "--offset -")),
        ({"drift": 0.01}, ("drifts", "--offset -", "..-")),
        ({"ahead_s": 8 * 3600.0}, ("does not cover", "ahead by 8 h 00 min", "--offset -28800")),
        ({"ahead_s": 9e6}, ("does not cover", "begins")),
        ({"ahead_s": -250.0}, ("does not cover", "a part only")),
    ],
)
def test_a_log_of_another_clock_is_refused_with_the_offset(
    chipmark, record: Path, rawcells: ModuleType, tmp_path: Path, words, what: tuple[str, ...]
) -> None:
    log, out = wall(rawcells, tmp_path / "wall.csv", **words), tmp_path / "out"
    answer = chipmark(*arguments(record, log, out))
    assert answer.code == 2
    for word in what:
        assert word in answer.err, answer.err
    assert find_records([tmp_path]) == [record]
    if "--offset" in answer.err:
        found = answer.err.split("--offset ")[1].split()[0]
        fixed = chipmark(*arguments(record, log, out, "--offset", found))
        assert fixed.code == 0, fixed.err
        (folder,) = find_records([out])
        power = load_record(folder).metrics.values["power_w"]
        assert power == pytest.approx(new_power(rawcells), rel=0.01)


def test_times_of_another_zone_are_refused_with_the_zone(
    chipmark, record: Path, rawcells: ModuleType, tmp_path: Path
) -> None:
    log = wall(rawcells, tmp_path / "unix.csv", period_s=1.0)
    head, *rows = log.read_text().splitlines()
    local = [np.datetime64(int(float(row.split(",")[0])) + 8 * 3600, "s") for row in rows]
    lines = [f"{t},{row.split(',')[1]}" for t, row in zip(local, rows, strict=True)]
    log.write_text("\n".join((head, *lines)) + "\n")
    answer = chipmark(*arguments(record, log, tmp_path / "out"))
    assert answer.code == 2
    assert "--zone +08:00 would fix it" in answer.err
    fixed = chipmark(*arguments(record, log, tmp_path / "out", "--zone", "+08:00"))
    assert fixed.code == 0, fixed.err


def test_work_without_contrast_is_said(
    chipmark, record: Path, rawcells: ModuleType, tmp_path: Path
) -> None:
    log = tmp_path / "flat.npz"
    at_s = np.arange(50.0, 700.0)
    power = 300 + np.random.default_rng(0).normal(0, 1, len(at_s))
    save_samples(log, PowerLog(at_s + UNIX_S, np.full(len(at_s), np.nan), power).samples(0))
    out = tmp_path / "out"
    answer = chipmark("power", "attach", record, "--log", log, "-o", out, "--scope", "node_dc")
    assert answer.code == 0, answer.err
    assert "the watts do not follow the work" in answer.out
    (folder,) = find_records([out])
    new = load_record(folder)
    assert new.manifest.meter is not None
    assert (new.manifest.meter.source, new.manifest.meter.scope) == ("polled", "node_dc")
    assert any("could not be checked" in note.text for note in new.manifest.notes)
    # Nothing bounds the clock then but the user's word, and without it there is no interval.
    assert new.metrics.values["tok_per_joule"] is not None
    energy = new.metrics.details["energy"]
    assert (energy["error_rel"], energy["error_null_reason"]) == (None, "error_clock_unknown")
    words = ("power", "attach", record, "--log", log, "--averaging", 1, "--cap", 500)
    for seconds in (0.5, 2):
        folder = tmp_path / f"by-{seconds}"
        assert chipmark(*words, "--clock", seconds, "-o", folder).code == 0
        (found,) = find_records([folder])
        told = load_record(found)
        assert told.manifest.meter is not None
        assert told.manifest.meter.clock_s == seconds
        assert told.metrics.details["energy"]["error_rel"] is not None


def test_records_that_no_log_can_be_laid_over(
    chipmark, rawcells: ModuleType, tmp_path: Path
) -> None:
    log = wall(rawcells, tmp_path / "wall.csv")
    old = made(rawcells, tmp_path, unix_s=None)
    answer = chipmark(*arguments(old, log, tmp_path / "out"))
    assert answer.code == 2
    assert "before repeats kept Unix time" in answer.err
    chipmark("run", "quick", "-b", "sim:golden", "--repeats", 1, "-o", tmp_path / "sim")
    answer = chipmark(*arguments(tmp_path / "sim", log, tmp_path / "out"))
    assert answer.code == 2
    assert "virtual" in answer.err


@pytest.mark.long
def test_a_log_of_a_real_run_is_within_its_bound(chipmark, tmp_path: Path) -> None:
    """Real launches of torch; watts in closed form of them, by a clock that is 2 s ahead."""
    run = ("run", "quick", "-b", "torch:cpu", "-m", "tiny", "--sessions", 4, "--repeats", 1)
    assert chipmark(*run, "-o", tmp_path / "runs").code == 0
    (folder,) = find_records([tmp_path / "runs"])
    old = load_record(folder)
    repeats = load_raw(folder, old.manifest).repeats
    unix_s = json.loads((folder / "repeat-0" / "timing.json").read_text())["unix_s"]
    spans = [window(repeat.events) for repeat in repeats]

    def joules(at_s: np.ndarray) -> np.ndarray:
        total = 80.0 * at_s
        for launches in (repeat.events["launches"] for repeat in repeats):
            for start, end in zip(launches["start_s"], launches["end_s"], strict=True):
                total = total + 200 * np.clip(at_s - start, 0, end - start)
        return total

    at_s = np.arange(spans[0][0] - 30, spans[-1][1] + 30, 0.01)
    power = (joules(at_s + 0.005) - joules(at_s - 0.005)) / 0.01
    log = tmp_path / "wall.npz"
    save_samples(log, PowerLog(at_s + unix_s + 2, np.full(len(at_s), np.nan), power).samples(0))
    out = tmp_path / "out"
    answer = chipmark("power", "attach", folder, "--log", log, "-o", tmp_path / "ahead")
    if answer.code == 2:  # where the work had contrast
        assert "--offset -" in answer.err
    answer = chipmark(
        "power", "attach", folder, "--log", log, "-o", out, "--offset", "-2",
        "--averaging", "row", "--clock", "0.025",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (found,) = find_records([out])
    # The row itself has no joules where the machine's wall covers more than the CPUs that computed.
    raw = load_raw(found, load_record(found).manifest)
    for repeat, span in zip(raw.repeats, spans, strict=True):
        energy = window_energy(repeat.power, raw.facts.meter, *span)
        exact = float(np.diff(joules(np.array(span)))[0])
        assert energy.energy_j is not None
        assert energy.error_rel is not None
        assert abs(energy.energy_j - exact) <= energy.error_rel * energy.energy_j


def test_bad_input_names_the_fix_in_this_commands_flags(
    chipmark, record: Path, rawcells: ModuleType, tmp_path: Path
) -> None:
    log, out = wall(rawcells, tmp_path / "wall.csv"), tmp_path / "out"

    def err(*words: object) -> str:
        answer = chipmark("power", "attach", record, "-o", out, *words)
        assert answer.code == 2
        assert "Traceback" not in answer.err
        return answer.err

    assert "did you mean P (W)?" in err("--csv", log, "--time", "Time", "--power", "P(W)")
    assert "--time COLUMN\n" in err("--csv", log, "--power", "P (W)")
    assert "one log is attached at a time" in err("--time", "Time")
    log.write_text("Time,P\n27.11.2026 09:00:00,1\n")
    assert "--time-format %d.%m.%Y" in err("--csv", log, "--time", "Time", "--power", "P")
    log.write_text(f"Time;P\n{UNIX_S};1,234\n")
    assert "--decimal" in err("--csv", log, "--time", "Time", "--power", "P")
    assert "twice" in chipmark(*arguments(record, log, record.parent)).err
    assert chipmark(*arguments(tmp_path / "none", log, out)).code == 2
