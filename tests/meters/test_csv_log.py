from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chipmark.errors import BadInputError, ChipmarkError, UnknownNameError, UsageError
from chipmark.meters.csv_form import csv_form
from chipmark.meters.csv_log import MOST_LINE, CsvLog
from chipmark.meters.power_log import PowerLog, stored_log
from chipmark.meters.replay import save_samples

# 2026-11-27 09:00:00 UTC
T = 1795770000.0


def log(folder: Path, text: str | bytes, **options: str) -> CsvLog:
    path = folder / "wall.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return CsvLog(path, csv_form({"time": "Time", "power": "Watts", **options}))


def read(folder: Path, text: str | bytes, **options: str) -> PowerLog:
    return log(folder, text, **options).read()


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Time,Watts\n2026-11-27T09:00:00Z,100.5\n2026-11-27T09:00:01Z,101\n", {}),
        ("Time,Watts\n2026-11-27 17:00:00,100.5\n2026-11-27 17:00:01,101\n", {"zone": "+08:00"}),
        ("Time;Watts\r\n2026-11-27 17:00:00;100,5\r\n2026-11-27 17:00:01;101\r\n",
         {"zone": "Asia/Shanghai"}),
        ("﻿Time\tWatts\n2026/11/27 9:00:00\t100.5 W\n2026/11/27 09:00:01\t101W\n", {}),
        (f"n,Time,Watts\n1,{T},100.5\n2,{T + 1},101\n", {}),
        (f"Time,Watts\n{T * 1e3:.0f},100.5\n{T * 1e3 + 1e3:.0f},101\n", {}),
        (f"Time,Watts\n{T * 1e6:.0f},100.5\n{T * 1e6 + 1e6:.0f},101\n", {"format": "epoch_us"}),
        ("Time,Watts\n27.11.2026 09:00:00,100.5\n27.11.2026 09:00:01,101\n",
         {"format": "%d.%m.%Y %H:%M:%S"}),
        ("Date,Clock,Watts\n2026-11-27,09:00:00,100.5\n2026-11-27,09:00:01,101\n",
         {"time": "Date+Clock"}),
        (f"Time,Watts (mW)\n{T},100500\n{T + 1},1.01e5\n", {"power": "Watts (mW)"}),
        (f"Time,Watts\n{T},0.1005\n{T + 1},0.101\n", {"unit": "kW"}),
        (f'Time,Watts\n{T},"100,5"\n{T + 1},"101"\n', {"decimal": ","}),
        (f"Logger 3000, serial 7\n\n# 1 Hz\nTime|Watts\n{T}|100.50000000000001\n{T + 1}|101\n", {}),
        (f"Time,Watts\n{T},100.5\n\nTime,Watts\n{T + 1},101\n", {}),
    ],
)  # fmt: skip
def test_every_form_gives_the_same_rows(tmp_path: Path, text: str, options: dict[str, str]) -> None:
    found = read(tmp_path, text, **options)
    assert found.unix_s.tolist() == [T, T + 1]
    assert found.power_w == pytest.approx([100.5, 101.0])
    assert np.isnan(found.energy_j).all()


def test_a_column_in_gb18030_is_found_by_its_name(tmp_path: Path) -> None:
    text = f"时间,功率(W)\n{T},100\n{T + 1},101\n".encode("gb18030")
    with pytest.raises(BadInputError, match="not utf-8") as error:
        read(tmp_path, text, time="时间", power="功率(W)")
    assert "gb18030" in error.value.hint
    found = read(tmp_path, text, time="时间", power="功率(W)", encoding="gb18030")
    assert found.power_w.tolist() == [100.0, 101.0]
    with pytest.raises(BadInputError, match="is UTF-16"):
        read(tmp_path, f"Time,Watts\n{T},1\n".encode("utf-16"))


def test_a_counter_is_read_in_its_unit(tmp_path: Path) -> None:
    text = f"Time,Total (kWh)\n{T},0.5\n{T + 1},0.5001\n"
    found = read(tmp_path, text, power="", energy="Total (kWh)")
    assert found.energy_j == pytest.approx([1.8e6, 1.80036e6])
    assert np.isnan(found.power_w).all()
    with pytest.raises(BadInputError, match="does not say its unit") as error:
        read(tmp_path, f"Time,Total\n{T},1\n", power="", energy="Total")
    assert "energy_unit=" in error.value.hint
    with pytest.raises(BadInputError, match="is in kWh by its name, not in Wh"):
        read(tmp_path, text, power="", energy="Total (kWh)", energy_unit="Wh")


def test_what_was_not_read_is_never_zero(tmp_path: Path) -> None:
    found = read(tmp_path, f"Time,Watts\n{T},N/A\n{T + 1},0\n{T + 2},\n{T + 3},7\n{T + 4},-\n")
    assert (found.unix_s.tolist(), found.power_w.tolist()) == ([T + 3], [7.0])
    assert found.missing == 4


def test_rows_of_one_second_become_their_mean(tmp_path: Path) -> None:
    found = read(tmp_path, f"Time,Watts\n{T},10\n{T},20\n{T + 1},5\n{T + 1},N/A\n")
    assert found.unix_s.tolist() == [T, T + 1]
    assert found.power_w.tolist() == [15.0, 5.0]


def test_means_since_the_row_before_sum_to_a_counter(tmp_path: Path) -> None:
    text = f"Time,Watts\n{T},5\n{T + 1},10\n{T + 4},20\n"
    found = read(tmp_path, text).integrated()
    assert found.energy_j.tolist() == [0.0, 10.0, 70.0]
    lacking = read(tmp_path, text + f"{T + 5},N/A\n{T + 6},20\n").integrated()
    assert np.isnan(lacking.energy_j).all()


def test_a_line_that_is_still_written_is_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, f"Time,Watts\n{T},100\n{T + 1},10")
    assert found.power_w.tolist() == [100.0]


def test_rows_from_a_mark_are_those_since(tmp_path: Path) -> None:
    rows = "".join(f"{T + n},{100 + n % 7}\n" for n in range(2000))
    source = log(tmp_path, "Time,Watts\n" + rows)
    mark = source.mark()
    with source.path.open("a") as file:
        file.write("".join(f"{T + n},{50 + n % 7}\n" for n in range(2000, 2010)))
    found = source.read(mark)
    assert found.unix_s[-1] == T + 2009
    assert 10 < len(found.unix_s) < 500
    with source.path.open("a") as file:
        file.write(f"{T + 2010},x\n")
    # The line's number is that of the file, though only its end was read.
    for since in (mark, source.mark(), None):
        with pytest.raises(BadInputError, match=r"wall\.csv:2012: field 'Watts'"):
            source.read(since)
    source.path.write_text("Time,Watts\n")
    with pytest.raises(BadInputError, match="became shorter"):
        source.mark()


@pytest.mark.parametrize(
    ("line", "field", "problem"),
    [
        (f"{T + 2},abc", "Watts", "'abc' is not a number in W"),
        (f"{T + 2},=1+1", "Watts", r"'=1\+1' is not a number"),
        (f"{T + 2},=HYPERLINK(\"http://x\")", "Watts", "is not a number"),
        (f"{T + 2},-5", "Watts", "'-5' is out of range"),
        (f"{T + 2},1e9", "Watts", "out of range"),
        (f"{T + 2},1e99", "Watts", "not a number|out of range"),
        (f"{T + 2},nan W", "Watts", "not a number"),
        (f"{T + 2},10 kWh", "Watts", "not a number"),
        (f"{T + 2},10\0", "Watts", "zero byte"),
        (f"{T + 2}\0,10", "Time", "zero byte"),
        (f"{T + 2}", "Watts", "is missing: the line has 1 fields"),
        ("yesterday,10", "Time", "neither ISO 8601 nor Unix time"),
        ("2026-11-27,10", "Time", "neither ISO 8601"),
        ("12.5,10", "Time", "not Unix time; a clock that began"),
        (f"{T - 5},10", "Time", "goes back by 6 s, from 2026-11-27 09:00:01Z"),
        (f"{T + 2},{'9' * 20000}", "Watts", f"over {MOST_LINE:,} bytes"),
        (f"{'9' * 20000},1", "Time", f"over {MOST_LINE:,} bytes"),
        (f'{T + 2},"10', "", "a quote that does not close"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_line_and_field(
    tmp_path: Path, line: str, field: str, problem: str
) -> None:
    text = f"Time,Watts\n{T},100\n{T + 1},101\n{line}\n{T + 3},102\n"
    with pytest.raises(BadInputError, match=problem) as error:
        read(tmp_path, text)
    assert (error.value.line, error.value.field) == (4, field)
    assert "\n" not in error.value.message
    assert len(error.value.message) <= 500


def test_a_comma_that_may_be_thousands_needs_a_word(tmp_path: Path) -> None:
    text = f"Time;Watts\n{T};1,234\n"
    with pytest.raises(BadInputError, match="may be thousands or a fraction") as error:
        read(tmp_path, text)
    assert "decimal=," in error.value.hint
    assert read(tmp_path, text, decimal=",").power_w.tolist() == [1.234]
    with pytest.raises(BadInputError, match="a comma and a point"):
        read(tmp_path, f"Time;Watts\n{T};1.234,5\n")


def test_a_missing_column_names_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="field 'Watts': is missing") as error:
        read(tmp_path, f"Time,Watt\n{T},100\n")
    assert error.value.hint == "did you mean Watt?"
    with pytest.raises(BadInputError, match="field 'Watts'") as error:
        read(tmp_path, f"Time,U,I\n{T},230,1\n")
    assert error.value.hint == "columns: Time, U, I"
    with pytest.raises(BadInputError, match="has 2 such columns"):
        read(tmp_path, f"Time,Watts,Watts\n{T},1,2\n")
    for empty in ("", "Time,Watts"):
        with pytest.raises(BadInputError, match=r"is empty|no whole line"):
            read(tmp_path, empty)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"zone": "+25:00"}, "over 14 hours"),
        ({"zone": "Mars/Olympus"}, "is not a zone"),
        ({"zone": "../../etc/passwd"}, "is not a zone"),
        ({"format": "iso8601"}, "not a format of times"),
        ({"offset": "soon"}, "not a number of seconds"),
        ({"offset": "nan"}, "not a number of seconds"),
        ({"power": ""}, "needs power=COLUMN"),
        ({"time": ""}, "needs time=COLUMN"),
    ],
)
def test_options_that_are_none(options: dict[str, str], what: str) -> None:
    with pytest.raises(UsageError, match=what) as error:
        csv_form({"time": "Time", "power": "Watts", **options})
    assert error.value.hint
    with pytest.raises(UnknownNameError, match="unit of a power log"):
        csv_form({"time": "Time", "power": "Watts", "unit": "HP"})


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_logs_give_watts_in_range_or_an_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = "Time;Watts\n" + "".join(f"{T + n};{100 + n},5\n" for n in range(4))
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 12))
    raw = text[:at].encode() + data.draw(st.binary(max_size=8)) + text[at + cut :].encode()
    told: list[str] = []
    try:
        found = read(tmp_path_factory.mktemp("log"), raw)
    except ChipmarkError as error:
        found = PowerLog(np.zeros(0), np.zeros(0), np.zeros(0))
        told.append(error.message)
    assert all(told)
    assert ((found.power_w > 0) & (found.power_w <= 1e6)).all()
    assert (np.diff(found.unix_s) > 0).all()
    assert all(map(math.isfinite, found.unix_s))


def test_a_stored_log_is_of_unix_time(tmp_path: Path) -> None:
    path = tmp_path / "wall.npz"
    nothing = np.full(3, np.nan)
    save_samples(path, PowerLog(T + np.arange(3.0), nothing, np.array([1.0, 2.0, 3.0])).samples(0))
    assert stored_log(path).power_w.tolist() == [1.0, 2.0, 3.0]
    save_samples(path, PowerLog(np.arange(3.0), nothing, np.ones(3)).samples(0))
    with pytest.raises(BadInputError, match="not Unix time in seconds"):
        stored_log(path)
    save_samples(path, PowerLog(T + np.arange(3.0), nothing, -np.ones(3)).samples(0))
    with pytest.raises(BadInputError, match="below 0"):
        stored_log(path)
