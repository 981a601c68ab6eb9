"""Quantised matrices: bounds, layout, rounding, rows by themselves, bad values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from chipmark_kernels.reference.gemm import dequantize_int4, dequantize_int8
from chipmark_models.errors import BadInputError, UnknownNameError
from chipmark_models.precision import (
    PRECISIONS,
    QUANTISED,
    group_of,
    kept_matrices,
    label,
    stored_as,
    tensor_bytes,
)
from chipmark_models.presets import PRESETS, preset
from chipmark_models.tensors import EMBEDDING, HEAD, expected_shapes
from chipmark_models.weights import e4m3
from chipmark_models.weights import quantise as quantise_module
from chipmark_models.weights.plain import widen
from chipmark_models.weights.quantise import fuse, quantise
from chipmark_models.weights.stored import parts_of

INTEGERS = ("w8", "w4")
TOP = {"w8": 127, "w4": 7}


def matrix(n: int = 24, k: int = 384, seed: int = 5) -> np.ndarray:
    """Heavy tails and rows of very different size, exact in no narrow type."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_t(3, (n, k)) * np.exp(rng.uniform(-12, 12, (n, 1)))
    return rows.astype(np.float32)


def each_scale(tensor: quantise_module.QuantisedTensor) -> np.ndarray:
    """The scale of each weight, (n, k) or to be broadcast to it."""
    if tensor.precision == "fp8":
        return tensor.scales[:, None]
    return np.repeat(widen(tensor.scales, "bf16"), tensor.group, axis=1)


@pytest.mark.parametrize("precision", INTEGERS)
@pytest.mark.parametrize("k", [128, 384, 576, 96])
def test_integers_are_within_half_a_scale(precision: str, k: int) -> None:
    weight = matrix(k=k)
    tensor = quantise(weight, precision)
    assert tensor.shape == weight.shape
    error = np.abs(weight.astype(np.float64) - tensor.dequantise())
    # A quotient in fp32 may round onto a tie from either side: an ulp of it beyond the half.
    assert (error <= each_scale(tensor) * (0.5 + TOP[precision] * 2.0**-23)).all()


def test_fp8_is_within_half_a_step() -> None:
    weight = matrix(k=200)
    tensor = quantise(weight, "fp8")
    scaled = np.abs(weight / tensor.scales[:, None]).astype(np.float64)
    step = np.exp2(np.floor(np.log2(np.maximum(scaled, 2.0**-6))) - 3)
    # A scale rounded down leaves the largest up to 448 (1 + 2**-8), which becomes 448.
    error = np.abs(weight.astype(np.float64) - tensor.dequantise()) / tensor.scales[:, None]
    assert (error <= step * (0.5 + 1e-6)).all()
    assert np.abs(e4m3.decode(tensor.packed)).max() == 448.0


@pytest.mark.parametrize("precision", QUANTISED)
def test_what_is_dequantised_quantises_to_itself(precision: str) -> None:
    # Not by rounding twice: the largest integer of a group may be below the top after rounding
    # the scale, so the values and not the codes are what returns, where the scale returns.
    once = quantise(matrix(), precision)
    twice = quantise(once.dequantise(), precision)
    same = each_scale(once) == each_scale(twice)
    assert same.mean() > 0.9
    np.testing.assert_array_equal(
        np.where(same, once.dequantise(), 0), np.where(same, twice.dequantise(), 0)
    )


@pytest.mark.parametrize("precision", QUANTISED)
def test_dequantised_weights_are_exact_in_fp32(precision: str) -> None:
    tensor = quantise(matrix(), precision)
    if precision == "fp8":
        codes = e4m3.decode(tensor.packed).astype(np.float64)
    elif precision == "w8":
        codes = tensor.packed.astype(np.float64)
    else:
        scales = torch.ones(tensor.scales.shape, dtype=torch.float64)
        packed = torch.from_numpy(tensor.packed)
        codes = dequantize_int4(packed, scales, None, torch.float64).numpy()
    np.testing.assert_array_equal(codes * each_scale(tensor), tensor.dequantise())


def test_the_layouts_are_those_of_the_kernels() -> None:
    weight = matrix()
    w8, w4 = quantise(weight, "w8"), quantise(weight, "w4")
    assert (w8.packed.dtype, w8.packed.shape) == (np.int8, (24, 384))
    assert (w4.packed.dtype, w4.packed.shape) == (np.uint8, (24, 192))
    assert w8.scales.shape == w4.scales.shape == (24, 3)
    for tensor, dequantize in (
        (w8, lambda q, s: dequantize_int8(q, s, torch.float32)),
        (w4, lambda q, s: dequantize_int4(q, s, None, torch.float32)),
    ):
        scales = torch.from_numpy(tensor.scales.view(np.int16)).view(torch.bfloat16)
        theirs = dequantize(torch.from_numpy(tensor.packed), scales).numpy()
        np.testing.assert_array_equal(tensor.dequantise(), theirs)
    assert np.abs(w8.packed.astype(np.int16)).max() == 127
    assert set(np.unique(w4.packed & 15)) <= set(range(1, 16))


@pytest.mark.parametrize("precision", QUANTISED)
def test_rows_are_independent_so_fusing_may_come_before_or_after(precision: str) -> None:
    parts = [matrix(n, seed=n) for n in (48, 16, 16)]
    before = quantise(np.concatenate(parts), precision)
    after = fuse([quantise(part, precision) for part in parts])
    np.testing.assert_array_equal(before.packed, after.packed)
    np.testing.assert_array_equal(before.scales, after.scales)
    order = np.random.default_rng(0).permutation(80)
    moved = quantise(np.concatenate(parts)[order], precision)
    np.testing.assert_array_equal(moved.packed, after.rows(order).packed)
    np.testing.assert_array_equal(moved.scales, after.rows(order).scales)
    with pytest.raises(ValueError, match="fuse"):
        fuse([before, quantise(matrix(k=128), precision)])


@pytest.mark.parametrize("precision", QUANTISED)
def test_the_size_of_a_step_makes_no_difference(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quantise(matrix(), precision)
    monkeypatch.setattr(quantise_module, "_CHUNK", 400)  # a row at a time
    stepped = quantise(matrix(), precision)
    np.testing.assert_array_equal(whole.packed, stepped.packed)
    np.testing.assert_array_equal(whole.scales, stepped.scales)


@pytest.mark.parametrize("precision", QUANTISED)
def test_rows_of_zeros_stay_zero_and_have_scale_one(precision: str) -> None:
    weight = matrix()
    weight[3] = 0.0
    tensor = quantise(weight, precision)
    assert (tensor.dequantise()[3] == 0).all()
    assert (each_scale(tensor)[3] == 1).all()


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("least", [1e-38, 1e-44])
def test_scales_are_normal_numbers_however_small_the_weights(precision: str, least: float) -> None:
    weight = np.full((2, 128), least, np.float32)
    tensor = quantise(weight, precision)
    assert (each_scale(tensor) >= 2.0**-126).all()
    assert np.isfinite(tensor.dequantise()).all()
    if precision in INTEGERS:
        assert (np.abs(tensor.dequantise() - weight) <= each_scale(tensor) / 2).all()


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_name(precision: str, bad: float) -> None:
    weight = matrix()
    weight[20, 300] = bad
    with pytest.raises(BadInputError, match="w\\.x: has a value that is not finite"):
        quantise(weight, precision, "w.x")


def test_largest_finite_weights_do_not_overflow() -> None:
    weight = np.full((1, 128), np.finfo(np.float32).max, np.float32)
    for precision in QUANTISED:
        assert np.isfinite(quantise(weight, precision).scales).all()


@pytest.mark.parametrize("low", [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_e4m3_is_that_of_torch(low: int) -> None:
    # Every upper half of a float32 with the lower halves that make ties and their neighbours.
    bits = (np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)) | np.uint32(low)
    values = bits.view(np.float32)
    theirs = torch.from_numpy(values.copy()).clamp(-448, 448).to(torch.float8_e4m3fn)
    ours, nan = e4m3.encode(values), np.isnan(values)
    np.testing.assert_array_equal(ours[~nan], theirs.view(torch.uint8).numpy()[~nan])
    assert (ours[nan] & 0x7F == 0x7F).all()


def test_e4m3_codes_are_those_of_torch() -> None:
    theirs = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(e4m3.decode(np.arange(256, dtype=np.uint8)), theirs)
    finite = np.flatnonzero(np.isfinite(theirs)).astype(np.uint8)
    np.testing.assert_array_equal(e4m3.encode(theirs[finite]), finite)


def test_groups_are_the_largest_that_divides() -> None:
    assert [group_of("w4", k) for k in (4096, 576, 96, 176, 14_336)] == [128, 64, 32, None, 128]
    assert group_of("fp8", 176) == 176
    with pytest.raises(UnknownNameError, match="fp8"):
        group_of("bf16", 128)
    with pytest.raises(BadInputError, match="field 'w4': has rows of 176"):
        quantise(np.zeros((2, 176), np.float32), "w4")


def test_every_public_model_is_quantised_whole() -> None:
    for name, config in PRESETS.items():
        for precision in QUANTISED:
            kept = kept_matrices(config, precision)
            down = tuple(f"model.layers.{i}.mlp.down_proj.weight" for i in range(3))
            assert kept == (down if name == "tiny" and precision != "fp8" else ())
    assert kept_matrices(preset("tiny"), "bf16") == ()
    assert label(preset("qwen3-8b"), "w4") == "w4/g128"
    assert label(preset("smollm2-135m"), "w8") == "w8/g64+128"
    assert label(preset("qwen3-8b"), "fp8") == "fp8/row"
    assert label(preset("qwen3-8b"), "bf16") == "bf16"


def test_table_head_and_vectors_stay_bf16() -> None:
    untied = dataclasses.replace(preset("tiny"), tied_embeddings=False, qkv_bias=True)
    for precision in QUANTISED:
        stored = {n: stored_as(precision, n, s) for n, s in expected_shapes(untied).items()}
        assert stored[EMBEDDING] == stored[HEAD] == stored["model.norm.weight"] == "bf16"
        assert stored["model.layers.0.self_attn.q_proj.bias"] == "bf16"
        assert stored["model.layers.0.self_attn.q_proj.weight"] == precision


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_parts_of_a_tensor_take_the_bytes_that_are_counted(precision: str) -> None:
    for name, shape in expected_shapes(preset("smollm2-135m")).items():
        parts = parts_of(precision, name, shape)
        assert sum(p.n_bytes for p in parts.values()) == tensor_bytes(precision, name, shape)
