"""Seeded weights: the same bits everywhere, in any piece, and in any precision."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np
import pytest

from chipmark_models.errors import BadInputError, UnknownNameError
from chipmark_models.presets import preset
from chipmark_models.tensors import check_shapes, expected_shapes
from chipmark_models.weights import synthetic
from chipmark_models.weights.open import open_weights
from chipmark_models.weights.plain import round_to, widen
from chipmark_models.weights.source import WeightRef
from chipmark_models.weights.synthetic import SyntheticWeights, power_of_two
from chipmark_models.weights.writer import encode_all

GOLDEN = {
    "model.embed_tokens.weight": "74babe92070b030d940e697cc8e6e5cb",
    "model.layers.0.self_attn.q_proj.weight": "721b465e72a89cf50b5d1e95fd8b8c76",
    "model.layers.2.mlp.down_proj.weight": "bf1ae0bf40102211e8392870739bc1e1",
    "model.layers.1.input_layernorm.weight": "281fb4b02ce61321f3b675a7a77288b4",
    "model.norm.weight": "67cf9d6a3280a32648570c3f6bc8dde3",
}
GOLDEN_BF16 = "0ff3d4ae7fa9d649a23d56c6413b1564db59ce4754b32b732140df7f556ff1f6"


@pytest.fixture(scope="module")
def tiny() -> SyntheticWeights:
    return SyntheticWeights(preset("tiny"), 0)


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.mark.parametrize("name", GOLDEN)
def test_tensors_have_their_golden_bits(tiny: SyntheticWeights, name: str) -> None:
    assert sha256(tiny.read(name))[:32] == GOLDEN[name]


def test_all_tensors_have_their_golden_hash(tiny: SyntheticWeights) -> None:
    assert encode_all(tiny, "bf16").precision_hash == GOLDEN_BF16


def test_the_generator_is_the_documented_rule(tiny: SyntheticWeights) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    key = int.from_bytes(hashlib.blake2b(f"0:{name}".encode(), digest_size=16).digest(), "little")
    raw = [int(x) for x in np.random.Philox(key=key).random_raw(50)]
    stream = b"".join(x.to_bytes(8, "little") for x in raw)
    sums = [sum(stream[4 * i : 4 * i + 4]) - 510 for i in range(100)]
    # Above 256 a bf16 holds even integers only: ties go to the multiple of four.
    rounded = [s if abs(s) <= 256 else 2 * round(s / 2) for s in sums]
    expected = np.array(rounded, np.float32) * np.float32(2.0 ** power_of_two(64))
    np.testing.assert_array_equal(tiny.read(name).reshape(-1)[:100], expected)


def test_every_value_is_exact_in_bf16(tiny: SyntheticWeights) -> None:
    for name in tiny.names():
        array = tiny.read(name)
        np.testing.assert_array_equal(widen(round_to(array, "bf16"), "bf16"), array)


def test_a_large_tensor_read_in_parallel_is_the_serial_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = SyntheticWeights(dataclasses.replace(preset("tiny"), vocab_size=70_000), 1)
    name = "model.embed_tokens.weight"
    whole = weights.read(name)
    assert whole.size > synthetic._PARALLEL_FROM
    monkeypatch.setattr(synthetic, "_PARALLEL_FROM", whole.size + 1)
    np.testing.assert_array_equal(whole, weights.read(name))


def test_seed_and_name_make_other_weights(tiny: SyntheticWeights) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    other = SyntheticWeights(preset("tiny"), 1)
    assert other.hash != tiny.hash
    assert (other.read(name) != tiny.read(name)).mean() > 0.9
    second = tiny.read("model.layers.1.self_attn.q_proj.weight")
    assert (second != tiny.read(name)).mean() > 0.9


def test_the_label_of_a_model_is_no_part_of_its_weights(tiny: SyntheticWeights) -> None:
    renamed = SyntheticWeights(dataclasses.replace(preset("tiny"), name="other"), 0)
    assert renamed.hash == tiny.hash


def test_scales_keep_activations_near_one(tiny: SyntheticWeights) -> None:
    for name, shape in expected_shapes(tiny.config).items():
        array = tiny.read(name)
        if len(shape) == 1:
            assert 0.9 < array.mean() < 2.0
            assert 0.02 < array.std() < 0.05
        elif "embed" not in name:
            assert 0.68 < array.std() * math.sqrt(shape[1]) < 1.46
            assert abs(array.mean()) < 0.05 * array.std()


@pytest.mark.parametrize("columns", [1, 3, 48, 64, 176, 4096, 14_336])
def test_the_power_of_two_is_the_nearest_in_ratio(columns: int) -> None:
    ratio = 2.0 ** power_of_two(columns) * math.sqrt(21_845 * columns)
    assert 2**-0.5 <= ratio <= 2**0.5


def test_rounding_to_bf16_is_to_nearest_even() -> None:
    bits = [0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0x80000000]
    array = np.array(bits, np.uint32).view(np.float32)
    expected = [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0x7F80, 0x7F80, 0x8000]
    assert round_to(array, "bf16").tolist() == expected


def test_a_nan_stays_one_in_bf16() -> None:
    array = np.array([0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(widen(round_to(array, "bf16"), "bf16")).all()


def test_rounding_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    theirs = torch.from_numpy(array)
    np.testing.assert_array_equal(
        widen(round_to(array, "bf16"), "bf16"), theirs.bfloat16().float().numpy()
    )
    np.testing.assert_array_equal(
        widen(round_to(array, "fp16"), "fp16"), theirs.half().float().numpy()
    )


def test_fp32_is_passed_through() -> None:
    array = np.ones(3, np.float32)
    assert round_to(array, "fp32") is array
    assert widen(array, "fp32") is array


def test_an_unknown_precision_is_refused(tiny: SyntheticWeights) -> None:
    with pytest.raises(UnknownNameError, match="bf16"):
        encode_all(tiny, "bf61")


def test_references_survive_json_and_refuse_nonsense() -> None:
    ref = WeightRef("synthetic", "tiny", None, 3)
    assert WeightRef.from_dict(ref.to_dict()) == ref
    assert open_weights(ref).config == preset("tiny")
    with pytest.raises(UnknownNameError, match="safetensors"):
        WeightRef("safetensor", "", "x", 0)
    with pytest.raises(BadInputError, match="path"):
        WeightRef("gguf", "x", None, 0)
    with pytest.raises(BadInputError, match="model"):
        WeightRef("synthetic", "", None, 0)
    with pytest.raises(BadInputError, match="seed"):
        WeightRef.from_dict({"kind": "synthetic", "model": "tiny", "path": None})


def test_shapes_that_do_not_fit_are_named(tiny: SyntheticWeights) -> None:
    shapes = expected_shapes(tiny.config)
    lacking = {n: s for n, s in shapes.items() if n != "model.layers.1.mlp.up_proj.weight"}
    with pytest.raises(BadInputError, match=r"1\.mlp\.up_proj\.weight': the tensor is miss"):
        check_shapes(tiny.config, lacking, "f")
    with pytest.raises(BadInputError, match=r"norm\.weight': has shape \(3,\), expected \(64,\)"):
        check_shapes(tiny.config, shapes | {"model.norm.weight": (3,)}, "f")
    with pytest.raises(BadInputError, match="do not belong"):
        check_shapes(tiny.config, shapes | {"visual.patch": (3,)}, "f")
