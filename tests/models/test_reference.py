"""Stored reference logits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from chipmark_models.errors import BadInputError
from chipmark_models.reference import Reference, load_reference, save_reference

REFERENCE = Reference(
    weights_hash="a" * 64,
    precision="bf16",
    tokens=(np.arange(5), np.arange(9)),
    positions=(np.array([4]), np.array([0, 8])),
    logits=(np.ones((1, 7), np.float32), np.full((2, 7), 2.5, np.float32)),
)


def test_a_reference_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    save_reference(path, REFERENCE)
    loaded = load_reference(path, weights_hash="a" * 64)
    assert loaded.tokens_hash == REFERENCE.tokens_hash
    assert loaded.precision == "bf16"
    for ours, theirs in zip(loaded.logits, REFERENCE.logits, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [p.name for p in tmp_path.iterdir()] == ["r.npz"]


def test_logits_of_other_weights_are_refused(tmp_path: Path) -> None:
    save_reference(tmp_path / "r.npz", REFERENCE)
    with pytest.raises(BadInputError, match="weights_hash"):
        load_reference(tmp_path / "r.npz", weights_hash="b" * 64)


def test_tokens_that_were_changed_are_found(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    save_reference(path, REFERENCE)
    with np.load(path) as data:
        arrays = dict(data)
    arrays["tokens_1"] = arrays["tokens_1"][::-1]
    np.savez(path, **arrays)
    with pytest.raises(BadInputError, match="tokens_hash"):
        load_reference(path)


def test_logits_of_a_wrong_shape_are_found(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    save_reference(path, dataclasses.replace(REFERENCE, logits=(np.ones((1, 7)), np.ones((1, 7)))))
    with pytest.raises(BadInputError, match="logits_1"):
        load_reference(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    np.savez(path, version=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadInputError, match="no reference"):
        load_reference(path)


def test_a_file_that_is_cut_or_lacking_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    save_reference(path, REFERENCE)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadInputError, match="no reference"):
        load_reference(path)
    with pytest.raises(BadInputError, match="no reference"):
        load_reference(tmp_path / "none.npz")
