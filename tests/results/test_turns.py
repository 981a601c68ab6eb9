"""What a paired comparison needs of two records, read from their tables of turns."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from chipmark.engine.events import load_events, save_events
from chipmark.metrics.paired import paired_latencies, ratio_by_repeats
from chipmark.metrics.samples import Kind, Samples
from chipmark.results.manifest import ChipId
from chipmark.results.raw import nameplate_bytes_s
from chipmark.results.record import Record
from chipmark.results.store import load_record
from chipmark.results.turns import PAIRED, turn_medians
from chipmark.results.write import record_raw
from chipmark.table.rows import build_rows


def medians_of(record: Record) -> Mapping[Kind, Samples]:
    complete = [bool(repeat.get("complete", 1)) for repeat in record.metrics.per_repeat]
    return turn_medians(record.path, complete, record.manifest.scenario)


def test_turns_of_two_records_are_paired(rawcells: ModuleType, tmp_path: Path) -> None:
    slow, fast = (
        load_record(
            record_raw(tmp_path / f"{name}-out", rawcells.write_raw(tmp_path / name, slows=slows))
        )
        for name, slows in (("a", (1.0, 1.1, 0.9)), ("b", (0.5, 0.5, 0.7)))
    )
    mine, base = medians_of(fast), medians_of(slow)
    assert set(mine) == set(PAIRED)
    assert mine["ttft_append"].value_s == pytest.approx([0.0205, 0.0305])
    assert base["tpot"].value_s == pytest.approx([0.006] * 3)
    for kind in PAIRED:
        found = paired_latencies(mine[kind], base[kind])
        assert found is not None
        assert found.ratio == pytest.approx(2.0)


def test_a_table_compares_latencies_turn_by_turn(rawcells: ModuleType, tmp_path: Path) -> None:
    """Two turns of unlike length, both 2 % faster in every repeat: the repeats of each row scatter
    by more than that, but not from turn to turn."""
    base, row = (
        load_record(
            record_raw(
                tmp_path / f"{name}-out",
                rawcells.write_raw(
                    tmp_path / name, slows=slows, backend=backend, audit={"verdict": "pass"}
                ),
            )
        )
        for name, slows, backend in (
            ("a", (1.0, 1.05, 0.95), "torch:cpu"),
            ("b", (0.98, 1.029, 0.931), "ort:cpu"),
        )
    )
    _, found = build_rows([base, row], None, rank_by="ttft_p50_s")
    assert found.values["vs_baseline"] == pytest.approx(1 / 0.98)
    low, high = found.intervals["vs_baseline"]
    assert low is not None
    assert high is not None
    assert 1.0 < low <= 1 / 0.98 <= high
    # Without its raw files a record is still shown, by its own intervals.
    shutil.rmtree(row.path / "repeat-1")
    _, unpaired = build_rows([base, row], None, rank_by="ttft_p50_s")
    low, _ = unpaired.intervals["vs_baseline"]
    assert low is not None
    assert low < 1.0


def test_rates_are_compared_by_the_repeats_of_both(rawcells: ModuleType, tmp_path: Path) -> None:
    """Welch: the noise of both sides has the repeats of both sides behind it."""
    records = [
        load_record(
            record_raw(
                tmp_path / f"{name}-out",
                rawcells.write_raw(
                    tmp_path / name, slows=slows, backend=f"{name}:cpu", audit={"verdict": "pass"}
                ),
            )
        )
        for name, slows in (("a", (1.0, 1.02, 0.98)), ("b", (0.9, 0.919, 0.882)))
    ]
    rows = build_rows(records, None, rank_by="total_tok_s")
    per_repeat = [[r["total_tok_s"] for r in x.metrics.per_repeat] for x in records]
    ratio = rows[1].values["vs_baseline"]
    expected = ratio_by_repeats(ratio, per_repeat[1], per_repeat[0])
    assert expected is not None
    assert rows[1].intervals["vs_baseline"] == expected.interval


def test_repeats_that_did_not_complete_are_left_out(rawcells: ModuleType, tmp_path: Path) -> None:
    raw = rawcells.write_raw(tmp_path / "raw", slows=(9.0, 1.0))
    path = raw / "repeat-0" / "events.npz"
    events = load_events(path)
    events["turns"]["status"][3] = 3
    save_events(path, events)
    record = load_record(record_raw(tmp_path / "out", raw))
    assert medians_of(record)["ttft_append"].value_s == pytest.approx([0.041, 0.061])


def test_passes_of_the_capacity_scenario_are_the_same_turns(
    rawcells: ModuleType, tmp_path: Path
) -> None:
    raw = rawcells.write_raw(tmp_path / "raw", slows=(1.0,), scenario="capacity")
    path = raw / "repeat-0" / "events.npz"
    first, second = load_events(path), rawcells.tables(1.2, 200.0)
    n = len(first["launches"]["launch"])
    for table, column in (("launches", "launch"), ("launches", "step"), ("steps", "step"),
                          ("rows", "launch")):  # fmt: skip
        second[table][column] += n
    for table in ("rows", "turns", "sessions"):
        second[table]["session"] += 2  # the second pass over sessions 0 and 1
    both = {
        name: {c: np.concatenate([first[name][c], second[name][c]]) for c in first[name]}
        for name in first
    }
    both["window"] = first["window"] | {"end_s": second["window"]["end_s"]}
    save_events(path, both)
    record = load_record(record_raw(tmp_path / "out", raw))
    found = medians_of(record)["ttft_append"]
    assert found.session.tolist() == [0, 1]
    assert found.value_s == pytest.approx([0.041 * 1.1, 0.061 * 1.1])
    assert record.metrics.details["distinct_samples"]["session"] == 2
    assert record.metrics.values["ttft_p50_s"] == pytest.approx(0.041 * 1.1)


@pytest.mark.parametrize(
    ("changes", "bandwidth"),
    [
        ({}, 3200e9),
        ({"name": "ascend-910c (300 W of 400 W)"}, 3200e9),
        ({"used": 1}, 1600e9),
        ({"used": 1, "of": 7}, None),
        ({"identity": {"mig": True}}, None),
        ({"name": "hand-chip", "vendor": "Hand"}, None),
        ({"name": "amd-epyc-7763", "unit": "package"}, None),
        ({"unit": "server"}, None),
    ],
)
def test_the_nameplate_is_that_of_the_devices_used(
    changes: dict[str, object], bandwidth: float | None
) -> None:
    fields = {
        "name": "ascend-910c", "vendor": "Huawei", "device_name": "x", "unit": "card",
        "used": 2, "of": 2,
    } | changes  # fmt: skip
    assert nameplate_bytes_s(ChipId.model_validate(fields)) == bandwidth
