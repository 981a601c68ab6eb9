"""Who may be ranked, by what, and who shares a rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chipmark.engine.events import Table
from chipmark.metrics.events import FAILED, UNFINISHED
from chipmark.results.manifest import Note
from chipmark.results.record import Record
from chipmark.table.cells import people_text
from chipmark.table.ranking import ranks
from chipmark.table.rows import TableRow, build_rows

Make = Callable[..., Record]


def why(row: TableRow) -> str:
    return "; ".join(row.details["not_ranked"])


def test_a_run_that_was_cut_does_not_outrank_a_whole_one(make_record: Make) -> None:
    """Cut short, a run has a higher rate than the whole of it: no session has ended yet."""

    def cut(events: dict[str, Table]) -> None:
        events["turns"]["status"][1:] = UNFINISHED
        events["sessions"]["status"][:] = UNFINISHED

    rows = build_rows([make_record(), make_record(0.6, backend="fast:1", edit=cut)], None)
    assert [row.rank for row in rows] == [1, None]
    assert rows[1].values["comparable"] == []
    assert rows[1].values["vs_baseline"] is None
    assert any(char.isdigit() for char in why(rows[1]))


def test_failed_turns_bar_the_faster_row_that_they_leave(make_record: Make) -> None:
    def small_context(events: dict[str, Table]) -> None:
        events["turns"]["status"][-1] = FAILED
        events["sessions"]["status"][-1] = FAILED

    rows = build_rows([make_record(), make_record(0.7, backend="f:1", edit=small_context)], None)
    assert [row.rank for row in rows] == [1, None]
    assert rows[1].values["vs_baseline"] is None


@pytest.mark.parametrize("repeats", [1, 2])
def test_fewer_repeats_never_make_a_rank(make_record: Make, repeats: int) -> None:
    few = make_record(1.3, backend="few:1", repeats=repeats)
    rows = build_rows([make_record(), few, make_record(1.01, backend="three:1")], None)
    assert [row.rank for row in rows] == [1, None, 2]
    assert rows[1].values["vs_baseline"] is None
    assert f"{repeats} complete, at least 3 are needed" in why(rows[1])


def test_repeats_that_are_missing_are_counted(make_record: Make) -> None:
    record = make_record()
    manifest = record.manifest.model_copy(update={"repeats": 4})
    (row,) = build_rows([record.model_copy(update={"manifest": manifest})], None)
    assert row.rank is None
    assert "3 of 4 repeats are complete" in why(row)


@pytest.mark.parametrize("code", ["clock", "plugin", "weight_bytes", "kv_bytes", "turns_lost"])
def test_a_row_of_other_code_or_bytes_than_it_says_has_no_rank(
    make_record: Make, code: str
) -> None:
    """Half the bytes under the same precision class read twice as fast."""
    honest, fast = make_record(), make_record(0.5, backend="fast:1")
    note = Note(code=code, text="found after the run")
    manifest = fast.manifest.model_copy(update={"notes": (note,)})
    rows = build_rows([honest, fast.model_copy(update={"manifest": manifest})], None)
    assert [row.rank for row in rows] == [1, None]
    assert rows[1].values["comparable"] == []
    assert f"{code}: found after the run" in why(rows[1])


def without_interval(
    record: Record, name: str, ends: tuple[float | None, float | None] | None
) -> Record:
    intervals = {n: b for n, b in record.metrics.intervals.items() if n != name}
    if ends is not None:
        intervals[name] = ends
    metrics = record.metrics.model_copy(update={"intervals": intervals})
    return record.model_copy(update={"metrics": metrics})


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        (None, "no interval of total_tok_s"),
        ((100.0, None), "the interval of total_tok_s has no upper end"),
        ((None, 200.0), "the interval of total_tok_s has no lower end"),
    ],
)
def test_without_an_interval_there_is_no_rank(
    make_record: Make, ends: tuple[float | None, float | None] | None, reason: str
) -> None:
    open_ended = without_interval(make_record(0.5, backend="open:1"), "total_tok_s", ends)
    rows = build_rows([make_record(), open_ended], None)
    assert [row.rank for row in rows] == [1, None]
    assert rows[1].details["not_ranked"] == [reason]


def test_rows_linked_by_overlaps_share_a_rank_and_gaps_divide() -> None:
    chain = {0: (8.0, 10.0), 1: (9.0, 12.0), 2: (11.0, 13.0), 3: (5.0, 7.0), 4: (1.0, 6.0)}
    assert ranks(chain) == {2: 1, 1: 1, 0: 1, 3: 4, 4: 4}
    assert ranks({0: (1.0, 1.0), 1: (1.0, 1.0), 2: (0.5, 0.5)}) == {0: 1, 1: 1, 2: 3}
    assert ranks({0: (1.0, 2.0), 1: (2.0, 3.0)}) == {1: 1, 0: 1}
    assert ranks({}) == {}


def test_simulated_rows_are_ranked_among_themselves(make_record: Make) -> None:
    own = {"model__source_kind": "sim"}
    records = [
        make_record(),
        make_record(0.5, backend="sim:golden", model__source_hash="sim:golden", **own),
        make_record(0.8, backend="sim:slow", model__source_hash="sim:slow", **own),
    ]
    rows = build_rows(records, None)
    assert [row.rank for row in rows] == [1, 1, 2]
    assert len({row.details["group"] for row in rows}) == 2
    assert [row.details["baseline"] for row in rows[1:]] == [records[1].id] * 2
    assert "simulated" in {note["code"] for note in rows[1].values["notes"]}


@pytest.mark.parametrize("plugins", [{}, {"backend": False}])
def test_a_virtual_clock_of_somebody_elses_is_not_ranked(
    make_record: Make, plugins: dict[str, Any]
) -> None:
    code = {
        "module": "vendor.sim", "distribution": "vendor", "version": "1", "sha256": "",
        "built_in": False,
    }  # fmt: skip
    record = make_record(backend="sim:golden", plugins={"backend": code} if plugins else {})
    (row,) = build_rows([record], None)
    assert row.rank is None
    assert "built-in sim only" in why(row)


def test_what_is_ranked_by_follows_the_kind_of_work(make_record: Make) -> None:
    records = [
        make_record(),
        make_record(scenario="capacity"),
        make_record(workload__loop="open", workload__hash="1" * 64),
        make_record(notes=[{"code": "load_bound", "text": "tool time"}], workload__hash="2" * 64),
    ]
    rows = build_rows(records, None)
    # Too few turns for a p95, so the median.
    assert [row.details["rank_by"] for row in rows] == [
        "total_tok_s", "sessions_per_hour", "ttft_p50_s", "ttft_p50_s",
    ]  # fmt: skip
    asked = build_rows(records, None, rank_by="decode_tok_s")
    assert {row.details["rank_by"] for row in asked} == {"decode_tok_s"}


def test_requests_that_share_nothing_are_ranked_by_the_ttft_of_cold_turns(
    make_record: Make,
) -> None:
    """As an Azure trace: every request is a session of its own, so there is no append turn."""

    def all_cold(events: dict[str, Table]) -> None:
        events["turns"]["cold"][:] = 1

    records = [
        make_record(slow, backend=f"b:{slow}", edit=all_cold, workload__loop="open")
        for slow in (1.0, 0.5)
    ]
    rows = build_rows(records, None)
    assert [row.details["rank_by"] for row in rows] == ["ttft_cold_p50_s"] * 2
    assert [row.rank for row in rows] == [2, 1]


def test_p95_is_taken_where_every_row_has_one(make_record: Make) -> None:
    def with_p95(record: Record, seconds: float) -> Record:
        metrics = record.metrics
        update = {
            "values": dict(metrics.values) | {"ttft_p95_s": seconds},
            "intervals": dict(metrics.intervals) | {"ttft_p95_s": (seconds * 0.9, seconds * 1.1)},
        }
        return record.model_copy(update={"metrics": metrics.model_copy(update=update)})

    records = [
        with_p95(make_record(workload__loop="open"), 0.2),
        with_p95(make_record(backend="b:1", workload__loop="open"), 0.1),
    ]
    rows = build_rows(records, None)
    assert [row.details["rank_by"] for row in rows] == ["ttft_p95_s"] * 2
    assert [row.rank for row in rows] == [2, 1]
    assert rows[1].values["vs_baseline"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    "change",
    [{"workload__loop": "open"}, {"notes": [{"code": "load_bound", "text": "tool time"}]}],
)
def test_an_offered_load_ranks_nobody_by_total_tok_s(
    make_record: Make, change: dict[str, Any]
) -> None:
    records = [make_record(**change), make_record(0.5, backend="b:1", **change)]
    for row in build_rows(records, None, rank_by="total_tok_s"):
        assert row.rank is None
        assert row.values["total_tok_s"] is not None
        assert row.values["vs_baseline"] is None
        assert "load_bound" in why(row)
    by_rate = build_rows(records, None, rank_by="decode_tok_s")
    assert [row.rank for row in by_rate] == [2, 1]


def test_ratios_across_precisions_are_shown_and_never_ranked(make_record: Make) -> None:
    half = {"precision__class_name": "16-bit", "precision__weights": "bf16"}
    records = [make_record(), make_record(0.5, backend="b:1", **half)]
    strict = build_rows(records, None)
    assert [row.values["vs_baseline"] for row in strict] == [1.0, 1.0]
    assert [row.rank for row in strict] == [1, 1]
    rows = build_rows(records, None, across_precision=True)
    assert rows[1].values["vs_baseline"] == pytest.approx(2.0)
    assert rows[1].values["comparable"] == []
    assert [row.rank for row in rows] == [1, None]
    assert "another precision class: 16-bit, the baseline's is fp32" in why(rows[1])
    assert "across_precision" in {note["code"] for note in rows[1].values["notes"]}
    other_work = [records[0], make_record(0.5, concurrency=4, **half)]
    lone = build_rows(other_work, None, baseline="torch:cpu", across_precision=True)[1]
    assert lone.details["baseline"] == other_work[1].id


def test_a_sweep_that_was_cut_gives_bounds_and_no_rank(make_record: Make) -> None:
    cut = {"scenario": "capacity", "capacity": {"concurrency": 16, "cut": True}, "concurrency": 16}
    records = [make_record(scenario="capacity"), make_record(0.5, backend="b:1", **cut)]
    rows = build_rows(records, None)
    assert [row.rank for row in rows] == [1, None]
    assert rows[1].values["vs_baseline"] is None
    assert "capacity_cut: the sweep ended at 16 sessions" in why(rows[1])
    assert rows[1].details["marks"]["sessions_per_hour"] == ["at_least"]
    assert "capacity_cut" in {note["code"] for note in rows[1].values["notes"]}


@pytest.mark.parametrize("met_in_sweep", [None, 4])
def test_repeats_that_miss_the_objective_are_no_capacity(
    make_record: Make, met_in_sweep: int | None
) -> None:
    """(a) no N meets it at all; (b) the sweep met it at 4, and then the device slowed down."""
    missed = make_record(
        20.0, backend="b:1", scenario="capacity",
        capacity={"concurrency": met_in_sweep, "cut": False},
    )  # fmt: skip
    rows = build_rows([make_record(scenario="capacity"), missed], None)
    assert [row.rank for row in rows] == [1, None]
    assert rows[1].values["comparable"] == []
    assert rows[1].values["sessions_per_hour"] is None
    assert rows[1].null_reasons["sessions_per_hour"] == "slo_not_met"
    assert "slo_not_met" in {note["code"] for note in rows[1].values["notes"]}
    assert "slo_not_met" in why(rows[1])


def test_a_record_of_schema_1_prints_and_says_in_a_line_why_it_is_not_ranked(
    make_record: Make,
) -> None:
    old = make_record(0.5, backend="b:1").model_copy(update={"written_as": "chipmark.record/1"})
    rows = build_rows([make_record(), old], None)
    assert [row.rank for row in rows] == [1, None]
    assert rows[1].values["total_tok_s"] is not None
    assert rows[1].details["not_ranked"] == [
        "measured as chipmark.record/1, before runs were audited: measure it again"
    ]


def test_a_power_limit_is_part_of_the_chip(make_record: Make) -> None:
    def chip(**identity: object) -> TableRow:
        return build_rows(
            [make_record(chip__name="nvidia-h200-sxm", chip__identity=identity)], None
        )[0]

    limited = chip(power_limit_w=400.0, power_limit_default_w=700.0)
    assert limited.values["chip"] == "nvidia-h200-sxm (400 W of 700 W)"
    notes = {note["code"]: note["text"] for note in limited.values["notes"]}
    assert notes["power_limit"] == "400 W of 700 W by default"
    assert (
        chip(power_limit_w=700.0, power_limit_default_w=700.0).values["chip"] == "nvidia-h200-sxm"
    )
    assert chip(power_limit_w=None).values["chip"] == "nvidia-h200-sxm"


@pytest.mark.parametrize(
    ("checked", "clear", "ranked"),
    [(256, 15, False), (256, 0, False), (256, 16, True), (9, 8, False), (9, 9, True)],
)
def test_an_audit_that_can_see_little_ranks_nobody(
    make_record: Make, checked: int, clear: int, ranked: bool
) -> None:
    audit = {"verdict": "pass", "ids_checked": checked, "ids_clear": clear}
    (row,) = build_rows([make_record(audit=audit)], None)
    assert (row.rank is not None) == ranked
    assert ("the audit is too blunt" in why(row)) != ranked


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, "pass"),
        ({"parity": {"verdict": "fail"}}, "fail"),
        ({"audit": {"verdict": "fail"}}, "fail"),
        ({"parity": {"verdict": "unchecked"}}, "unchecked"),
        ({"audit": {"verdict": "pending"}}, "audit_pending"),
        ({"parity": {"verdict": "fail"}, "audit": {"verdict": "pending"}}, "fail"),
    ],
)
def test_the_parity_column_holds_the_audit(
    make_record: Make, change: dict[str, Any], shown: str
) -> None:
    (row,) = build_rows([make_record(**change)], None)
    assert row.values["parity"] == shown


def test_a_refusal_names_the_fields_of_the_work_that_differ(make_record: Make) -> None:
    base = make_record()
    other = make_record(
        workload__hash="9" * 64, workload__scale=["1/4", "1/4", "0"], workload__seed=7,
        cache_policy={"policy": "other"},
    )  # fmt: skip
    row = build_rows([base, other.model_copy(update={"id": "o"})], None, baseline=base.id)[1]
    text = why(row)
    assert "scale (1/4, 1/4, 0) against (1/16, 1/16, 0)" in text
    assert "seed 7 against 1" in text
    assert "another cache policy: policy other against hand" in text


def test_a_sweep_whose_end_is_unknown_ranks_nobody(make_record: Make) -> None:
    unknown = make_record(0.5, backend="b:1", scenario="capacity", capacity=None)
    rows = build_rows([make_record(scenario="capacity"), unknown], None)
    assert [row.rank for row in rows] == [1, None]
    assert why(rows[1]) == "how the sweep over N ended is not in the record"
    assert why(rows[1]) in rows[1].details["break_even_refusals"]


def test_a_declared_power_of_schema_1_is_no_bound(make_record: Make) -> None:
    record = make_record(meter__source="declared")
    old = record.model_copy(update={"written_as": "chipmark.record/1"})
    new_row, old_row = build_rows([record, old], None)
    assert people_text(new_row, "tok_per_joule").startswith("≥")
    assert people_text(new_row, "joule_per_session").startswith("≤")
    assert people_text(old_row, "tok_per_joule").startswith("~")


def test_an_open_loop_of_cold_turns_alone_is_ranked_by_their_ttft(make_record: Make) -> None:
    def cold(tables: dict[str, Any]) -> None:
        tables["turns"]["cold"][:] = 1

    records = [
        make_record(slow, backend=name, workload__loop="open", edit=cold)
        for slow, name in ((1.0, "torch:cpu"), (1.5, "ort:cpu"))
    ]
    rows = build_rows(records, None)
    assert [row.details["rank_by"] for row in rows] == ["ttft_cold_p50_s"] * 2
    assert sorted(row.rank or 0 for row in rows) == [1, 2]
