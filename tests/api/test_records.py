from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest

import chipmark
from chipmark.table.columns import COLUMNS, EXTRA_KEYS
from chipmark.table.render import FORMATS

PUBLISHED = Path(__file__).parents[2] / "results" / "amd-epyc-zen4"


@pytest.fixture
def copies(records: chipmark.Records, folder: Path, tmp_path: Path) -> list[Path]:
    """The measured records again, to be broken; the first is of sim:golden."""
    shutil.copytree(folder, tmp_path / "copies")
    return [tmp_path / "copies" / r.path.name for r in by_backend(records)]


def by_backend(records: chipmark.Records) -> list[chipmark.Record]:
    return sorted(records, key=lambda record: record.backend)


def test_what_was_measured_is_what_is_loaded(records: chipmark.Records, folder: Path) -> None:
    loaded = chipmark.load(folder)
    assert [r.id for r in loaded] == [r.id for r in records]
    assert loaded.table() == records.table()
    assert [r.id for r in chipmark.load(*[r.path for r in records])] == [r.id for r in records]


def test_a_record_shows_what_is_stored(records: chipmark.Records) -> None:
    record = by_backend(records)[0]
    document = json.loads((record.path / "record.json").read_text())
    assert record.backend == "sim:golden"
    assert dict(record.metrics) == document["metrics"]["values"]
    assert [dict(values) for values in record.per_repeat] == document["metrics"]["per_repeat"]
    assert {k: list(v) for k, v in record.intervals.items()} == document["metrics"]["intervals"]
    assert dict(record.null_reasons) == document["metrics"]["null_reasons"]
    assert record.manifest.repeats == 3
    noted = document["manifest"]["notes"] + document["metrics"]["notes"]
    assert [(n.code, n.text) for n in record.notes] == [(n["code"], n["text"]) for n in noted]
    assert record.parity == "pass"
    assert record.audit == document["manifest"]["audit"]["verdict"]
    assert record.failure == ""
    assert record.validate() == []
    assert repr(record) == f"Record('{record.id}')"


def test_a_record_cannot_be_changed(records: chipmark.Records) -> None:
    with pytest.raises(TypeError):
        records[0].metrics["decode_tok_s"] = 1.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        records[0].stored = None  # type: ignore[misc,assignment]


def test_a_changed_file_is_found(copies: list[Path]) -> None:
    (copies[0] / "child.log").write_text("other")
    assert {f.path.name for f in chipmark.load(copies[0])[0].validate()} == {"child.log"}


def test_it_is_a_sequence(records: chipmark.Records) -> None:
    assert len(records) == 2
    assert isinstance(records[:1], chipmark.Records)
    both = records[1:] + records[:1]
    assert [r.id for r in both] == [records[1].id, records[0].id]
    assert chipmark.Records(r for r in records if r.backend == "sim:golden")[0] in records
    assert len(records.failed) == 0
    assert chipmark.Records().table() == []
    assert list(chipmark.Records().to_pandas().columns) == [*COLUMNS, "rank"]


def test_rows_have_exactly_the_columns(records: chipmark.Records) -> None:
    for row in records.table():
        assert tuple(row) == (*COLUMNS, *EXTRA_KEYS)
        assert row["decode_tok_s"] > 0


def test_the_table_takes_baseline_metric_and_prices(
    records: chipmark.Records, tmp_path: Path
) -> None:
    rows = records.table(baseline="sim:golden-slots", rank_by="decode_tok_s")
    base = next(r.id for r in records if r.backend == "sim:golden-slots")
    assert {row["details"]["baseline"] for row in rows} == {base}
    assert {row["details"]["rank_by"] for row in rows} == {"decode_tok_s"}
    with pytest.raises(chipmark.UnknownNameError):
        records.table(baseline="torch:cpu")
    with pytest.raises(chipmark.UnknownNameError):
        records.table(rank_by="backend")
    with pytest.raises(chipmark.BadInputError):
        records.table(prices=tmp_path / "none.toml")


def test_a_data_frame_has_types(records: chipmark.Records) -> None:
    frame = records.to_pandas()
    assert list(frame.columns) == [*COLUMNS, "rank"]
    assert list(frame.index) == [r.id for r in records]
    assert frame["decode_tok_s"].dtype == "float64"
    assert frame["sessions"].dtype == "Int64"
    assert frame["rank"].dtype == "Int64"
    assert frame["backend"].dtype == "string"
    assert frame["notes"].dtype == "object"
    for name in COLUMNS:
        values = [row[name] for row in records.table()]
        for stored, value in zip(values, frame[name], strict=True):
            assert pandas.isna(value) if stored is None else value == stored, name


def test_comparisons_say_what_the_table_says(records: chipmark.Records) -> None:
    found = {c.record.backend: c for c in records.compare("sim:golden")}
    own, other = found["sim:golden"], found["sim:golden-slots"]
    assert (own.ratio, own.interval, own.baseline) == (1.0, None, own.record.id)
    assert other.baseline == own.record.id
    assert "perf" in other.comparable
    assert other.ratio is not None
    assert other.metric == "total_tok_s"
    mine, its = other.record.metrics["total_tok_s"], own.record.metrics["total_tok_s"]
    assert mine is not None
    assert its is not None
    assert math.isclose(other.ratio, mine / its, rel_tol=0.05)
    assert other.interval is not None


def test_what_is_not_comparable_has_a_reason(records: chipmark.Records) -> None:
    both = records[:1] + chipmark.load(PUBLISHED)
    found = both.compare(records[0].id)
    assert [c.ratio for c in found[1:]] == [None] * (len(both) - 1)
    assert all(c.reason and c.refusals for c in found[1:])


def test_ranked_is_best_first(records: chipmark.Records) -> None:
    ranks = {row["details"]["record"]: row["rank"] for row in records.table()}
    ranked = [ranks[r.id] for r in records.ranked()]
    assert ranked == sorted(r for r in ranks.values() if r is not None)
    assert ranked


@pytest.mark.parametrize("format_", FORMATS)
def test_text_in_every_format(records: chipmark.Records, format_: str) -> None:
    assert "sim:golden" in records.render(format_)


def test_an_unknown_format(records: chipmark.Records) -> None:
    with pytest.raises(chipmark.UnknownNameError):
        records.render("jsno")


def test_published_records_load() -> None:
    published = chipmark.load(PUBLISHED)
    computed = ["fp32 ort:cpu", "fp32 torch:cpu", "w4a8 ort:cpu", "w8a8 ort:cpu"]
    assert computed == sorted(f"{r.manifest.precision.class_name} {r.backend}" for r in published)
    assert {r.parity for r in published} == {"pass"}
    assert {r.manifest.chip.vendor for r in published} == {"AMD"}
    assert len(published.table()) == len(computed)


def test_a_broken_record_is_an_error_or_is_listed(copies: list[Path]) -> None:
    (copies[0] / "record.json").write_text("{")
    with pytest.raises(chipmark.BrokenRecordError) as caught:
        chipmark.load(copies[0].parent)
    assert caught.value.path == str(copies[0] / "record.json")
    left = chipmark.load(copies[0].parent, strict=False)
    assert [r.backend for r in left] == ["sim:golden-slots"]
    assert [s.path for s in left.skipped] == [copies[0]]
    with pytest.raises(chipmark.BrokenRecordError):
        chipmark.load(copies[0], strict=False)


def test_no_records_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(chipmark.NothingToJudgeError):
        chipmark.load(tmp_path)
    with pytest.raises(chipmark.BadInputError):
        chipmark.load(tmp_path / "none")


@pytest.mark.parametrize("paths", [(), ("",)])
def test_loading_nothing_is_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(chipmark.UsageError, match="no folder"):
        chipmark.load(*paths)


@pytest.mark.parametrize("format", ["md", "csv", "json", "html"])
def test_rendering_is_what_the_command_prints(
    format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from chipmark.cli.main import main

    assert main(["table", str(PUBLISHED), "--format", format]) == 0
    printed = capsys.readouterr().out
    assert printed == chipmark.load(PUBLISHED).render(format)


def test_power_over_time_is_there_as_data(records: chipmark.Records) -> None:
    lines = records[0].power_timelines()
    assert [line.repeat for line in lines] == list(range(records[0].manifest.repeats))
    line = lines[0]
    (series,) = line.series
    assert series.meter == "sim"
    inside = (series.time_s >= 0) & (series.time_s <= line.window_s)
    assert set(np.round(series.power_w[inside])) <= {80.0, 150.0, 200.0, 300.0}
    assert line.phases[0].phase == "prefill_cold"
    assert line.phases[0].start_s == pytest.approx(0.0, abs=1e-9)
    assert line.phases[-1].end_s == pytest.approx(line.window_s)
    assert records[0].details["energy"]["phases"]["decode"]["method"] == "regressed"
    joules = np.trapezoid(series.power_w[inside], series.time_s[inside])
    assert joules == pytest.approx(records[0].per_repeat[0]["power_w"] * line.window_s, rel=0.01)
