"""Stored weights through the kernels: equal to the product with the dequantised weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from chipmark_kernels.fp8_gemm import fp8_gemm, quantize_rows_fp8
from chipmark_kernels.reference.gemm import quantize_rows_fp8_reference, skinny_gemm_reference
from chipmark_kernels.skinny_gemm import fp8a16_gemm
from chipmark_kernels.tiles import Tile
from chipmark_kernels.weight_only import w4a16_gemm, w8a16_gemm
from chipmark_models.decoder.paged.quantised import QuantisedMatrix, on_device
from chipmark_models.oracle import Oracle
from chipmark_models.presets import preset
from chipmark_models.rounding import Rounding, round_rows_fp8
from chipmark_models.weights.prepared import ComputedWeights
from chipmark_models.weights.quantise import fuse, quantise
from chipmark_models.weights.synthetic import SyntheticWeights

CPU = torch.device("cpu")
WEIGHT_ONLY = {"w8": w8a16_gemm, "w4": w4a16_gemm}


def _parts(k: int, *rows: int) -> list[np.ndarray]:
    rng = np.random.default_rng(k)
    return [rng.standard_normal((n, k)).astype(np.float32) for n in rows]


@pytest.mark.parametrize("precision", WEIGHT_ONLY)
@pytest.mark.parametrize(("rows", "k", "split"), [(1, 256, 1), (3, 96, 1), (3, 576, 2)])
def test_packed_weights_multiply_as_their_dequantised_values(
    precision: str, rows: int, k: int, split: int, rng: torch.Generator, assert_accurate
) -> None:
    # q, k and v of unequal rows, quantised apart and fused.
    tensor = fuse([quantise(part, precision) for part in _parts(k, 24, 8, 9)])
    weight = on_device(tensor, CPU)
    x = torch.randn(rows, k, generator=rng)
    tile = Tile(m=1 if rows == 1 else 16, n=16, k=1, split=split)
    got = WEIGHT_ONLY[precision](x, weight.packed, weight.scales, tile=tile)
    dense = torch.from_numpy(tensor.dequantise())
    oracle = skinny_gemm_reference(x.double(), dense.double())
    assert_accurate(got, oracle, skinny_gemm_reference(x, dense))


@pytest.mark.parametrize("precision", WEIGHT_ONLY)
@pytest.mark.parametrize(("rows", "k"), [(1, 64), (3, 64), (3, 96)])
def test_rows_shorter_than_a_group_of_128_multiply_with_the_tile_of_the_rule(
    precision: str, rows: int, k: int, rng: torch.Generator, assert_accurate
) -> None:
    tensor = quantise(_parts(k, 24)[0], precision)
    weight = on_device(tensor, CPU)
    x = torch.randn(rows, k, generator=rng)
    got = WEIGHT_ONLY[precision](x, weight.packed, weight.scales)
    dense = torch.from_numpy(tensor.dequantise())
    oracle = skinny_gemm_reference(x.double(), dense.double())
    assert_accurate(got, oracle, skinny_gemm_reference(x, dense))


@pytest.mark.parametrize("precision", WEIGHT_ONLY)
def test_gate_and_up_fused_feed_the_swiglu_epilogue(
    precision: str, rng: torch.Generator, assert_accurate
) -> None:
    tensor = fuse([quantise(part, precision) for part in _parts(128, 20, 20)])
    weight = on_device(tensor, CPU)
    # Sixteen rows, so that the largest error of torch is that of many sums and not a lucky one.
    x = torch.randn(16, 128, generator=rng)
    tile = Tile(m=16, n=16, k=1)
    got = WEIGHT_ONLY[precision](x, weight.packed, weight.scales, swiglu=True, tile=tile)
    dense = torch.from_numpy(tensor.dequantise())
    oracle = skinny_gemm_reference(x.double(), dense.double(), swiglu=True)
    assert_accurate(got, oracle, skinny_gemm_reference(x, dense, swiglu=True))


@pytest.mark.parametrize("k", [128, 176])
def test_fp8_weights_multiply_as_their_dequantised_values(
    k: int, rng: torch.Generator, assert_accurate
) -> None:
    tensor = fuse([quantise(part, "fp8") for part in _parts(k, 24, 9)])
    weight = on_device(tensor, CPU)
    x, x_scales = quantize_rows_fp8(torch.randn(3, k, generator=rng))
    tile = Tile(m=16, n=16, k=64)
    got = fp8_gemm(x, x_scales, weight.packed, weight.scales, torch.float32, tile=tile)
    activations = x.double() * x_scales.double()[:, None]
    oracle = activations @ torch.from_numpy(tensor.dequantise()).double().T
    assert_accurate(got, oracle)


@pytest.mark.parametrize("rows", [1, 3])
def test_fp8_weights_multiply_wide_rows_too(
    rows: int, rng: torch.Generator, assert_accurate
) -> None:
    tensor = fuse([quantise(part, "fp8") for part in _parts(176, 24, 9)])
    weight = on_device(tensor, CPU)
    x = torch.randn(rows, 176, generator=rng)
    got = fp8a16_gemm(x, weight.packed, weight.scales)
    dense = torch.from_numpy(tensor.dequantise())
    oracle = skinny_gemm_reference(x.double(), dense.double())
    assert_accurate(got, oracle, skinny_gemm_reference(x, dense))


class KernelOracle(Oracle):
    """The oracle with every quantised product by its kernel, on the weights as they are stored."""

    weights: ComputedWeights

    def _load(self, name: str):
        if self.weights.stored_as(name) == self.weights.precision:
            return on_device(self.weights.quantised(name), CPU)
        return super()._load(name)

    def _linear(self, x: torch.Tensor, w, name: str) -> torch.Tensor:
        weight = w[f"{name}.weight"]
        if not isinstance(weight, QuantisedMatrix):
            return super()._linear(x, w, name)
        if weight.precision == "fp8":
            # The interpreter's e4m3 loses the carry of a rounding (a factor of two, on 2 % of
            # values), so the kernel that quantises rows would not be the one of a device.
            rows, scales = quantize_rows_fp8_reference(x)
            return fp8_gemm(
                rows, scales, weight.packed, weight.scales, torch.float32, tile=Tile(16, 64, 64)
            )
        multiply = WEIGHT_ONLY[weight.precision]
        return multiply(x.contiguous(), weight.packed, weight.scales, tile=Tile(16, 64, 1))


@pytest.mark.parametrize(("precision", "furthest"), [("w8", 1e-5), ("w4", 1e-5), ("fp8", 0.02)])
def test_a_whole_model_on_stored_weights_is_the_oracles(
    precision: str, furthest: float, logit_loss: Any
) -> None:
    # fp8: sums in another order put some activations on the next e4m3 value, and layers amplify it.
    weights = ComputedWeights(SyntheticWeights(preset("tiny"), 0), precision)
    kernels = KernelOracle(weights.config, weights.float32)
    kernels.weights = weights
    rounding = Rounding(round_rows_fp8, lambda x: x) if precision == "fp8" else None
    oracle = Oracle(weights.config, weights.float32, rounding=rounding)
    ids = [np.arange(5, 16), np.arange(300, 303)]
    loss = logit_loss(oracle.logits(ids), kernels.logits(ids))
    assert loss.rms_rel < furthest
    assert loss.top1 == 1.0
