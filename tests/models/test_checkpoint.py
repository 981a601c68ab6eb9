"""Folders of safetensors whose names, shards or head are not where the config expects them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chipmark_models.errors import BadInputError
from chipmark_models.presets import preset
from chipmark_models.tensors import EMBEDDING, FINAL_NORM, HEAD
from chipmark_models.weights.checkpoint import SafetensorsWeights
from chipmark_models.weights.synthetic import SyntheticWeights

TIED = dataclasses.replace(preset("tiny"), max_context=512, n_layers=2)
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    weights = SyntheticWeights(TIED, 0)
    return {name: weights.read(name) for name in weights.names()}


def write_file(path: Path, tensors: Tensors) -> None:
    header: dict[str, Any] = {}
    at = 0
    for name, array in tensors.items():
        size = array.size * 4
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    data = b"".join(a.astype("<f4").tobytes() for a in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_config(folder: Path, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    c = TIED
    config = {
        "model_type": "llama", "vocab_size": c.vocab_size, "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size, "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads, "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.head_dim, "rms_norm_eps": c.rms_eps, "tie_word_embeddings": True,
        "max_position_embeddings": 512,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))


def one_file(folder: Path, tensors: Tensors, **changes: Any) -> Path:
    write_config(folder, **changes)
    write_file(folder / "model.safetensors", tensors)
    return folder


def in_shards(folder: Path, *parts: Tensors, index: dict[str, str] | None = None) -> Path:
    """Shards s0, s1, ..; `index` in place of the right weight map."""
    write_config(folder)
    places = {}
    for number, part in enumerate(parts):
        write_file(folder / f"s{number}.safetensors", part)
        places |= dict.fromkeys(part, f"s{number}.safetensors")
    text = json.dumps({"metadata": {}, "weight_map": places if index is None else index})
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def halves(tensors: Tensors) -> tuple[Tensors, Tensors]:
    names = list(tensors)
    return {n: tensors[n] for n in names[:9]}, {n: tensors[n] for n in names[9:]}


def assert_holds(source: SafetensorsWeights, tensors: Tensors) -> None:
    assert source.names() == tuple(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(source.read(name), array, err_msg=name)


def test_a_checkpoint_of_the_base_model_is_read_without_its_prefix(
    tmp_path: Path, tensors: Tensors
) -> None:
    bare = {name.removeprefix("model."): array for name, array in tensors.items()}
    assert_holds(SafetensorsWeights(one_file(tmp_path / "m", bare)), tensors)


def test_a_tensor_under_both_names_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    both = tensors | {"norm.weight": tensors[FINAL_NORM] + 1}
    with pytest.raises(
        BadInputError, match=r"field 'norm\.weight': is stored twice, also as model\.norm"
    ):
        SafetensorsWeights(one_file(tmp_path / "m", both))


def test_another_prefix_is_named(tmp_path: Path, tensors: Tensors) -> None:
    other = {f"language_model.{name}": array for name, array in tensors.items()}
    with pytest.raises(BadInputError, match=r"has language_model\.model\.embed_tokens\.weight"):
        SafetensorsWeights(one_file(tmp_path / "m", other))


def test_a_tied_matrix_may_be_stored_as_the_head_alone(tmp_path: Path, tensors: Tensors) -> None:
    swapped = {HEAD if n == EMBEDDING else n: a for n, a in tensors.items()}
    source = SafetensorsWeights(one_file(tmp_path / "m", swapped))
    assert source.config.tied_embeddings
    assert_holds(source, tensors)


def test_an_untied_model_needs_both_matrices(tmp_path: Path, tensors: Tensors) -> None:
    for name in (EMBEDDING, HEAD):
        folder = one_file(
            tmp_path / "m",
            {n: a for n, a in (tensors | {HEAD: tensors[EMBEDDING]}).items() if n != name},
            tie_word_embeddings=False,
        )
        with pytest.raises(BadInputError, match=rf"field '{name}': the tensor is missing"):
            SafetensorsWeights(folder)


def test_a_stored_head_counts_where_it_differs_from_the_embedding(
    tmp_path: Path, tensors: Tensors
) -> None:
    same = one_file(tmp_path / "a", tensors | {HEAD: tensors[EMBEDDING]})
    assert SafetensorsWeights(same).config.tied_embeddings
    head = tensors[EMBEDDING].copy()
    head[-1, -1] += 1
    source = SafetensorsWeights(one_file(tmp_path / "b", tensors | {HEAD: head}))
    assert not source.config.tied_embeddings
    np.testing.assert_array_equal(source.read(HEAD), head)
    tied = one_file(tmp_path / "c", tensors | {HEAD: head}, tie_word_embeddings=False)
    assert SafetensorsWeights(tied).hash != source.hash


def test_tensors_are_found_where_they_lie_whatever_the_index_says(
    tmp_path: Path, tensors: Tensors
) -> None:
    first, second = halves(tensors)
    swapped = dict.fromkeys(first, "s1.safetensors") | dict.fromkeys(second, "s0.safetensors")
    assert_holds(
        SafetensorsWeights(in_shards(tmp_path / "a", first, second, index=swapped)), tensors
    )
    short = {EMBEDDING: "s0.safetensors", FINAL_NORM: "s1.safetensors"}
    assert_holds(SafetensorsWeights(in_shards(tmp_path / "b", first, second, index=short)), tensors)


def test_a_shard_that_the_index_leaves_out_is_named(tmp_path: Path, tensors: Tensors) -> None:
    first, second = halves(tensors)
    index = dict.fromkeys(tensors, "s0.safetensors")
    folder = in_shards(tmp_path / "m", first, second, index=index)
    with pytest.raises(BadInputError, match=r"missing\ns1\.safetensors holds it, which"):
        SafetensorsWeights(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    first, second = halves(tensors)
    folder = in_shards(tmp_path / "m", first, second | {EMBEDDING: tensors[EMBEDDING]})
    with pytest.raises(
        BadInputError, match=r"s1\.safetensors: field 'model\.embed_tokens\.weight': is st"
    ):
        SafetensorsWeights(folder)


def test_one_shard_stands_for_all_of_them(tmp_path: Path, tensors: Tensors) -> None:
    folder = in_shards(tmp_path / "m", *halves(tensors))
    whole = SafetensorsWeights(folder)
    for name in ("s0.safetensors", "s1.safetensors"):
        source = SafetensorsWeights(folder / name)
        assert_holds(source, tensors)
        assert source.hash == whole.hash


def test_a_whole_file_goes_before_an_index(tmp_path: Path, tensors: Tensors) -> None:
    older = {name: array + 1 for name, array in tensors.items()}
    folder = in_shards(tmp_path / "m", *halves(older))
    write_file(folder / "model.safetensors", tensors)
    assert_holds(SafetensorsWeights(folder), tensors)


def test_a_folder_with_an_adapter_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    folder = one_file(tmp_path / "m", tensors)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"adapter_config\.json: adapters are not applied"):
        SafetensorsWeights(folder)


def test_a_tensor_without_use_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    name = "model.layers.0.self_attn.q_norm.weight"
    extra = tensors | {name: np.ones(TIED.head_dim, np.float32)}
    with pytest.raises(BadInputError, match=rf"field '{name}': 1 tensor\(s\) do not belong"):
        SafetensorsWeights(one_file(tmp_path / "m", extra))
