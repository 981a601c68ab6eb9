"""Prepared weights: written once, mapped by children, or computed where they are too large."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from chipmark_models.cache import cache_folder
from chipmark_models.errors import BadInputError, CannotWriteError
from chipmark_models.weights import writer
from chipmark_models.weights.open import open_weights
from chipmark_models.weights.plain import STORED_DTYPE, round_to, widen
from chipmark_models.weights.prepared import (
    ComputedWeights,
    PreparedWeights,
    WeightSpec,
    open_any,
    prepare,
    prepare_spec,
    stored_bytes,
)
from chipmark_models.weights.source import WeightRef
from chipmark_models.weights.writer import encode_all

REF = WeightRef("synthetic", "tiny", None, 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_was_prepared_is_what_is_read(tmp_path: Path, precision: str) -> None:
    source = open_weights(REF)
    done = prepare(REF, precision, tmp_path)
    again = PreparedWeights(done.folder)
    assert again.config == source.config
    assert again.names() == source.names()
    assert again.source_hash == source.hash
    assert again.precision_hash == encode_all(source, precision).precision_hash
    data = again.path.read_bytes()
    for name in source.names():
        stored = round_to(source.read(name), precision)
        np.testing.assert_array_equal(again.tensor(name), stored)
        np.testing.assert_array_equal(again.float32(name), widen(stored, precision))
        assert again.tensor(name).dtype == np.dtype(STORED_DTYPE[precision])
        assert not again.tensor(name).flags.owndata
        at = again.offset(name)
        assert at % 64 == 0
        assert data[at : at + again.n_bytes(name)] == stored.tobytes()
    again.verify()


def test_the_data_file_is_valid_safetensors_even_with_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = pytest.importorskip("safetensors.numpy")
    # A wider alignment makes gaps between tensors that are multiples of 64 bytes.
    monkeypatch.setattr(writer, "ALIGNMENT", 1000)
    done = prepare(REF, "fp16", tmp_path)
    theirs = reference.load_file(done.path)
    assert set(done.names()) < set(theirs)
    for name in done.names():
        np.testing.assert_array_equal(theirs[name], done.tensor(name))


def test_a_second_preparation_writes_nothing(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = prepare(REF, "bf16", tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] == stored_bytes(open_weights(REF), "bf16")
    calls.clear()
    second = prepare(REF, "bf16", tmp_path, progress=lambda *a: calls.append(a))
    assert second.folder == first.folder
    assert not calls


def test_two_at_once_both_succeed_and_leave_one_folder(tmp_path: Path) -> None:
    results: list[PreparedWeights] = []
    threads = [
        threading.Thread(target=lambda: results.append(prepare(REF, "fp32", tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert [p.name for p in (tmp_path / "prepared").iterdir()] == [results[0].folder.name]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CannotWriteError, match="No space"):
        prepare(REF, "fp32", tmp_path)
    assert list((tmp_path / "prepared").iterdir()) == []


def test_a_damaged_folder_is_made_again(tmp_path: Path) -> None:
    done = prepare(REF, "fp32", tmp_path)
    done.path.write_bytes(done.path.read_bytes()[:-5])
    with pytest.raises(BadInputError, match="cut short"):
        PreparedWeights(done.folder)
    prepare(REF, "fp32", tmp_path).verify()


def test_changed_bytes_are_found_by_verify(tmp_path: Path) -> None:
    done = prepare(REF, "fp32", tmp_path)
    content = bytearray(done.path.read_bytes())
    content[-100] ^= 1
    done.path.write_bytes(bytes(content))
    with pytest.raises(BadInputError, match="not those that were written"):
        PreparedWeights(done.folder).verify()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"prepared\.json"):
        PreparedWeights(tmp_path)
    (tmp_path / "prepared.json").write_text('{"schema": 1}')
    with pytest.raises(BadInputError, match="field 'config': is missing"):
        PreparedWeights(tmp_path)
    (tmp_path / "prepared.json").write_text('{"schema": 99}')
    with pytest.raises(BadInputError, match="schema"):
        PreparedWeights(tmp_path)


@pytest.mark.parametrize("to_disk", [True, False])
def test_mapped_and_computed_weights_are_the_same(tmp_path: Path, to_disk: bool) -> None:
    spec = prepare_spec(REF, "bf16", tmp_path, to_disk=to_disk)
    assert WeightSpec.from_dict(spec.to_dict()) == spec
    weights = open_any(spec)
    assert isinstance(weights, PreparedWeights if to_disk else ComputedWeights)
    source = open_weights(REF)
    assert weights.source_hash == source.hash
    assert weights.precision_hash == encode_all(source, "bf16").precision_hash
    name = "model.layers.1.mlp.gate_proj.weight"
    np.testing.assert_array_equal(weights.tensor(name), round_to(source.read(name), "bf16"))
    np.testing.assert_array_equal(weights.float32(name), source.read(name))


def test_large_synthetic_models_are_not_stored(tmp_path: Path) -> None:
    spec = prepare_spec(WeightRef("synthetic", "qwen3-8b", None, 0), "bf16", tmp_path)
    assert spec.folder is None
    assert open_any(spec).config.name == "qwen3-8b"
    assert not (tmp_path / "prepared").exists()


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIPMARK_CACHE", "/a/b")
    assert cache_folder() == Path("/a/b")
    monkeypatch.delenv("CHIPMARK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_folder() == Path("/c/chipmark")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "chipmark"
