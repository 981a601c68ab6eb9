"""Batches with a shared prefix, mixed launches, windows that cut, sessions that run again."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from chipmark.engine.contract import PHASES
from chipmark.metrics import phases
from chipmark.metrics.consistency import inconsistencies
from chipmark.metrics.events import view
from chipmark.metrics.roofline import live_rows


def test_a_shared_prefix_is_read_once_a_launch(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    decode = PHASES.index("decode")
    # Put the decode rows of both sessions (contexts 10 and 12, prefix 8) into one launch.
    rows, launches = tables["rows"], tables["launches"]
    first = int(np.flatnonzero(launches["phase"] == decode)[0])
    other = int(
        np.flatnonzero((rows["session"] == 1) & (launches["phase"][rows["launch"]] == decode))[0]
    )
    rows["launch"][other] = first
    live, written, counts = live_rows(view(tables), rawcells.trace())
    at = int(np.flatnonzero(counts == 2)[0])
    assert live[at] == 10 + 12 - 8
    assert written[at] == 2
    assert sorted(counts.tolist()) == [0, 1, 1, 1, 1, 2]


def test_rates_come_from_homogeneous_launches_only(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    launches = tables["launches"]
    launches["phase"][launches["phase"] == PHASES.index("decode")] = PHASES.index("mixed")
    joined = view(tables)
    rates = phases.rates(joined, phases.work(joined))
    assert rates["decode_tok_s"].null_reason == "mixed"
    assert rates["decode_rows"].null_reason == "no_decode_launches"
    assert rates["total_tok_s"].value == pytest.approx(32 / 0.280)
    assert rates["prefill_tok_s"].value == pytest.approx(22 / 0.240)


def test_a_decode_rate_needs_nine_tenths_of_the_tokens(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    launches = tables["launches"]
    decode = np.flatnonzero(launches["phase"] == PHASES.index("decode"))
    # 1 of 6 decoded tokens came from a mixed launch.
    launches["phase"][decode[0]] = PHASES.index("mixed")
    joined = view(tables)
    work = phases.work(joined)
    assert (work.n_decoded, work.n_decoded_pure) == (6, 5)
    assert phases.rates(joined, work)["decode_tok_s"].null_reason == "mixed"


def test_copies_are_charged_to_prefill(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    launches = tables["launches"]
    n = len(launches["launch"])
    for name, column in launches.items():
        launches[name] = np.append(column, column[-1])
    launches["launch"][n], launches["phase"][n] = n, PHASES.index("kv")
    launches["n_tokens"][n] = launches["n_rows"][n] = 0
    launches["start_s"][n] = launches["end_s"][n] - 0.060
    joined = view(tables)
    assert phases.rates(joined, phases.work(joined))["prefill_tok_s"].value == pytest.approx(
        22 / 0.3
    )
    assert phases.pad_ratio(joined).value == 1.0
    # Growth of the cache is inside the launch that caused it; decode pays no copy.
    assert phases.rates(joined, phases.work(joined))["decode_tok_s"].value == pytest.approx(200)


def test_only_work_inside_the_window_counts(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    # Cut after the first turn: one prefill of 10 and three decode launches, 0.119 s.
    cut = float(tables["turns"]["last_token_s"][0])
    tables["window"]["end_s"][0] = cut
    joined = view(tables)
    work = phases.work(joined)
    assert (work.n_new, work.n_out) == (10, 4)
    assert joined.window_s == pytest.approx(0.119)


def test_a_session_that_runs_again_has_its_own_rows(rawcells: ModuleType) -> None:
    first, second = rawcells.tables(), rawcells.tables(1.0, 200.0)
    n = len(first["launches"]["launch"])
    second["launches"]["launch"] += n
    second["launches"]["step"] += n
    second["steps"]["step"] += n
    second["rows"]["launch"] += n
    both = {
        name: {c: np.concatenate([first[name][c], second[name][c]]) for c in first[name]}
        for name in first
    }
    both["window"] = first["window"]
    both["window"]["end_s"] = second["window"]["end_s"]
    work = phases.work(view(both))
    assert (work.n_new, work.n_out) == (44, 20)
    assert phases.recomputed_tokens(view(both)) == 0


def test_whole_events_have_no_inconsistency(rawcells: ModuleType) -> None:
    assert inconsistencies(rawcells.tables(), rawcells.trace()) == []


@pytest.mark.parametrize(
    ("table", "column", "row", "value", "code"),
    [
        ("turns", "n_new", 0, 11, "turn_counts"),
        ("turns", "session", 0, 9, "turn_unknown"),
        ("turns", "reused_tokens", 1, 15, "hit_above_ideal"),
        ("turns", "first_token_s", 0, 1e6, "turn_times"),
        ("rows", "n_tokens", 0, 9, "launch_rows"),
        ("rows", "launch", 0, 99, "events_keys"),
        ("launches", "end_s", 0, 1.0, "launch_time"),
        ("launches", "chunk_bucket", 0, 4, "bucket_too_small"),
        ("launches", "step", 0, 77, "events_keys"),
        ("launches", "start_s", 9, 100.0, "phases_exceed_window"),
        ("rows", "session", 0, 1, "work_missing"),
        ("window", "end_s", 0, 100.0, "window"),
    ],
)
def test_a_contradiction_is_named(
    rawcells: ModuleType, table: str, column: str, row: int, value: float, code: str
) -> None:
    tables = rawcells.tables()
    tables[table][column][row] = value
    assert code in {found.code for found in inconsistencies(tables, rawcells.trace())}
