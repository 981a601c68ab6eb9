"""Products by cuBLAS between our kernels: what they compute, and when they are tried."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as functional

pytest.importorskip("triton")

from chipmark.backends.triton_cuda import loading
from chipmark.backends.triton_cuda.kernel_check import failures
from chipmark.backends.triton_cuda.product_candidates import ALWAYS, SOMETIMES, able_at
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.ops import FEW_ROWS, PRODUCTS, TABLE
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import ComputedWeights
from chipmark_models.weights.synthetic import SyntheticWeights

CPU = torch.device("cpu")


def _decoder(precision: str, activation: torch.dtype) -> PagedDecoder:
    weights = ComputedWeights(SyntheticWeights(replace(preset("tiny"), n_layers=1), 3), precision)
    ops = TABLE.select(TABLE.resolve(None, "torch"))
    return PagedDecoder(weights, CPU, ops, activation=activation, n_pages=8, max_context=128)


@pytest.fixture(scope="module")
def plain() -> PagedDecoder:
    return _decoder("fp32", torch.float32)


@pytest.fixture(scope="module")
def fp8() -> PagedDecoder:
    return _decoder("fp8", torch.bfloat16)


def test_products_between_kernels_are_right(plain: PagedDecoder) -> None:
    mixed = {operation: TABLE.find(operation, "mixed") for operation in PRODUCTS}
    assert failures(plain, mixed, [1, 3], 8) == {}


def _between_kernels(x, matrix, bias=None, *, norm, eps, swiglu):
    """As `mixed` on a card, whose kernels compute in fp32: the interpreter cuts bf16 short."""
    wide = x.float()
    rows = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * norm.float()
    gate, up = functional.linear(rows.to(x.dtype), matrix).float().chunk(2, -1)
    return (functional.silu(gate) * up).to(x.dtype)


def test_what_rounding_in_between_does_by_itself_is_no_fault() -> None:
    """A product rounded to bf16 before SwiGLU is over 2 % off in its worst value, as torch's is."""
    narrow = _decoder("bf16", torch.bfloat16)
    assert failures(narrow, {"gate_up_swiglu": _between_kernels}, (), 512) == {}

    def without_norm(x, matrix, bias=None, *, norm, **more):
        return _between_kernels(x, matrix, norm=torch.ones_like(norm), **more)

    found = failures(narrow, {"gate_up_swiglu": without_norm}, (), FEW_ROWS + 1)
    assert "rms-relative" in found["gate_up_swiglu"]


def test_a_residual_that_is_forgotten_is_found(plain: PagedDecoder) -> None:
    right = TABLE.find("down_add", "mixed")
    found = failures(plain, {"down_add": lambda *a, residual, **more: right(*a, **more)}, [3], 8)
    assert found["down_add"].startswith("3 rows of ")


def test_scaled_products_are_right_and_one_without_its_scales_is_found(fp8: PagedDecoder) -> None:
    products = [operation for operation in PRODUCTS if operation != "head"]
    scaled = {operation: TABLE.find(operation, "scaled") for operation in products}
    assert failures(fp8, scaled, (), FEW_ROWS + 1) == {}

    def without_scales(x, matrix, *args, **more):
        forgotten = replace(matrix, scales=torch.ones_like(matrix.scales))
        return scaled["qkv"](x, forgotten, *args, **more)

    found = failures(fp8, {"qkv": without_scales}, (), FEW_ROWS + 1)
    assert found["qkv"].startswith(f"{FEW_ROWS + 1} rows of ")


def test_each_is_tried_for_its_own_rows_and_weights(plain: PagedDecoder, fp8: PagedDecoder) -> None:
    names = [*ALWAYS, *SOMETIMES]
    assert able_at(names, FEW_ROWS) == ["triton", "torch", "mixed"]
    assert able_at(names, FEW_ROWS + 1) == ["triton", "torch", "hopper", "scaled"]
    chosen = {
        precision: {name for name in SOMETIMES if SOMETIMES[name].multiplies(decoder, "qkv")}
        for precision, decoder in (("fp32", plain), ("fp8", fp8))
    }
    assert chosen == {"fp32": {"mixed", "hopper"}, "fp8": {"scaled"}}
    assert not SOMETIMES["hopper"].multiplies(plain, "head")
    assert SOMETIMES["mixed"].multiplies(plain, "head")


def test_a_load_tries_what_is_right_here_alone(
    plain: PagedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(decoder, functions, rows, chunk):
        return {"head": "wrong"} if rows else dict.fromkeys(functions, "no such device")

    tried = {}
    monkeypatch.setattr(loading, "failures", wrong)
    monkeypatch.setattr(
        loading, "choose_products", lambda decoder, candidates, rows, stream: tried | candidates
    )
    names = TABLE.resolve(None, "triton")
    found = loading._choose(plain, names, {"qkv": "torch"}, {}, (1, 8), 128, None)
    both = ["triton", "torch"]
    assert found == {op: [*both, "mixed"] for op in PRODUCTS if op not in ("qkv", "head")} | {
        "head": both
    }
