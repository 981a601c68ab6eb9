from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chipmark.cell.logits import (
    LogitRows,
    centred_rms,
    distance,
    load_logits,
    rms_rel_of_rows,
    row_statistics,
    save_logits,
    select,
)
from chipmark.errors import BadInputError


def _rows(n: int = 4, vocab: int = 64) -> LogitRows:
    bits = np.random.Philox(key=3).random_raw(n * vocab)
    logits = ((bits >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1.0).astype(np.float32)
    keys = np.array([[0, 0, i] for i in range(n)], np.int32)
    return LogitRows(keys, logits.reshape(n, vocab))


def test_equal_logits_are_at_no_distance() -> None:
    found = distance(_rows(), _rows(), 1e-3)
    assert (found.rms_rel, found.max_rel, found.kl, found.top1) == (0.0, 0.0, 0.0, 1.0)
    assert found.passes(1e-3)


def test_distance_is_that_of_the_worst_position_in_units_of_the_oracles_spread() -> None:
    oracle, measured = _rows(), _rows()
    spread = oracle.logits[2].astype(np.float64).std()
    measured.logits[2] += np.float32(0.01)
    found = distance(oracle, measured, 1e-3)
    assert found.rms_rel == pytest.approx(0.01 / spread, rel=1e-3)
    assert not found.passes(1e-3)
    assert found.passes(1e-1)


def test_kl_sees_what_a_shift_does_not() -> None:
    oracle, shifted, other = _rows(), _rows(), _rows()
    shifted.logits[:] += np.float32(0.5)
    assert distance(oracle, shifted, 1e-3).kl == pytest.approx(0.0, abs=1e-9)
    other.logits[0, 5] += np.float32(3.0)
    assert distance(oracle, other, 1e-3).kl > 0.01


def test_top1_counts_only_clear_margins() -> None:
    oracle, measured = _rows(1, 8), _rows(1, 8)
    oracle.logits[0] = [0, 0, 0, 0, 0, 0, 1.0, 1.0005]
    measured.logits[0] = [0, 0, 0, 0, 0, 0, 1.0005, 1.0]
    assert distance(oracle, measured, 1e-2).top1 is None
    oracle.logits[0, 7] = 2.0
    assert distance(oracle, measured, 1e-2).top1 == 0.0


def test_rows_are_matched_by_key_and_not_by_order() -> None:
    oracle = _rows()
    turned = LogitRows(oracle.keys[::-1].copy(), oracle.logits[::-1].copy())
    assert distance(oracle, turned, 1e-3).passes(1e-3)


def test_missing_row_or_no_number_never_passes() -> None:
    oracle, broken = _rows(), _rows()
    fewer = LogitRows(oracle.keys[:3], oracle.logits[:3])
    assert distance(oracle, fewer, 1e-3).missing == 1
    assert not distance(oracle, fewer, 1e-3).passes(1e-3)
    broken.logits[1, 1] = np.nan
    assert not distance(oracle, broken, 1e-3).passes(1e9)
    assert not distance(oracle, _rows(4, 32), 1e-3).passes(1e9)


def test_file_round_trip_and_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save_logits(path, _rows())
    assert np.array_equal(load_logits(path).logits, _rows().logits)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadInputError, match="not a whole npz archive"):
        load_logits(path)
    np.savez(path, rows=np.zeros((2, 3)), logits=np.zeros((3, 4)))
    with pytest.raises(BadInputError, match="has rows"):
        load_logits(path)


def test_statistics_of_rows_are_the_same_in_steps() -> None:
    logits = np.random.default_rng(1).normal(size=(37, 50)).astype(np.float32)
    found = row_statistics(logits)
    ordered = np.sort(logits, axis=1)
    assert np.array_equal(found.id, logits.argmax(1))
    assert np.array_equal(found.top2, ordered[:, :-3:-1])
    assert np.allclose(found.scale, centred_rms(logits))
    assert np.allclose(found.scale, logits.std(1))
    assert row_statistics(logits[:0]).top2.shape == (0, 2)


def test_rows_are_selected_by_their_places() -> None:
    rows = LogitRows(np.array([(0, 0, 1), (0, 0, 2)], np.int32), np.eye(2, dtype=np.float32))
    assert select(rows, rows.keys[::-1]).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(KeyError):
        select(rows, np.array([(1, 0, 1)], np.int32))


def test_distances_row_by_row_are_those_of_the_whole() -> None:
    random = np.random.default_rng(2)
    keys = np.array([(0, 0, i) for i in range(40)], np.int32)
    left = LogitRows(keys, random.normal(size=(40, 30)).astype(np.float32))
    right = LogitRows(keys, left.logits + 0.01 * random.normal(size=(40, 30)).astype(np.float32))
    found = rms_rel_of_rows(left, right, keys)
    assert found.max() == pytest.approx(distance(left, right, 1.0).rms_rel, rel=1e-5)
    right.logits[3, 0] = np.inf
    assert row_statistics(right.logits).id[3] == 0
    assert np.flatnonzero(np.isinf(rms_rel_of_rows(left, right, keys))).tolist() == [3]
