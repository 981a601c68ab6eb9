"""The kernels under pytest-benchmark: device time with CUDA, the torch references on a CPU.

`pytest tests/bench --benchmark-only`. On CUDA each round waits for the device, so a round is one
launch with its cost on the host; `chipmark kernels run` measures inside graphs with a cold cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from chipmark_kernels.reference.attention import decode_attention_reference
from chipmark_kernels.reference.gemm import (
    fp8a16_gemm_reference,
    quantize_rows_fp8_reference,
    skinny_gemm_reference,
    w4a16_gemm_reference,
)
from chipmark_kernels.reference.rmsnorm import rmsnorm_reference
from chipmark_kernels.reference.swiglu import swiglu_reference

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
DTYPE = torch.bfloat16 if CUDA else torch.float32
# What a device needs to be busy, and what two slow cores do in no time.
HIDDEN, INNER, CONTEXT = (4096, 12_288, 8192) if CUDA else (64, 176, 32)
ROWS = (1, 8)


def _kernel(reference: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    """The Triton launcher on CUDA, the reference on a CPU."""
    if not CUDA:
        return reference
    import importlib

    launcher: Callable[..., Any] = getattr(
        importlib.import_module(f"chipmark_kernels.{module}"), name
    )
    return launcher


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(DTYPE)


def _run(benchmark: Any, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    def waited() -> Any:
        result = call(*args, **options)
        if CUDA:
            torch.cuda.synchronize()
        return result

    benchmark.extra_info["device"] = DEVICE.type
    benchmark.extra_info["implementation"] = "triton" if CUDA else "torch reference"
    return benchmark.pedantic(waited, rounds=20, warmup_rounds=1)


@pytest.mark.parametrize("rows", ROWS)
def test_add_and_norm(rows: int, benchmark: Any) -> None:
    call = _kernel(rmsnorm_reference, "rmsnorm", "rmsnorm")
    x, residual, weight = _random(rows, HIDDEN), _random(rows, HIDDEN), _random(HIDDEN)
    out, total = _run(benchmark, call, x, weight, 1e-6, residual)
    assert out.shape == total.shape == (rows, HIDDEN)


@pytest.mark.parametrize("rows", ROWS)
def test_norm_gate_up_swiglu(rows: int, benchmark: Any) -> None:
    call = _kernel(skinny_gemm_reference, "skinny_gemm", "skinny_gemm")
    x, w, norm = _random(rows, HIDDEN), _random(2 * INNER, HIDDEN), _random(HIDDEN)
    out = _run(benchmark, call, x, w, norm_weight=norm, swiglu=True)
    assert out.shape == (rows, INNER)


@pytest.mark.parametrize("rows", ROWS)
def test_four_bit_weights(rows: int, benchmark: Any) -> None:
    call = _kernel(w4a16_gemm_reference, "weight_only", "w4a16_gemm")
    codes = torch.randint(0, 256, (HIDDEN, HIDDEN // 2), device=DEVICE).to(torch.uint8)
    scales = torch.rand(HIDDEN, HIDDEN // 32, device=DEVICE)
    out = _run(benchmark, call, _random(rows, HIDDEN), codes, scales)
    assert out.shape == (rows, HIDDEN)


@pytest.mark.parametrize("rows", ROWS)
def test_e4m3_weights(rows: int, benchmark: Any) -> None:
    call = _kernel(fp8a16_gemm_reference, "skinny_gemm", "fp8a16_gemm")
    weight = quantize_rows_fp8_reference(_random(HIDDEN, HIDDEN))
    assert _run(benchmark, call, _random(rows, HIDDEN), *weight).shape == (rows, HIDDEN)


def test_swiglu_of_a_prompt(benchmark: Any) -> None:
    call = _kernel(swiglu_reference, "swiglu", "swiglu")
    assert _run(benchmark, call, _random(32, 2 * INNER)).shape == (32, INNER)


@pytest.mark.parametrize("seqs", ROWS)
def test_decode_attention(seqs: int, benchmark: Any) -> None:
    call = _kernel(decode_attention_reference, "decode_attention", "decode_attention")
    pages = seqs * CONTEXT // 16
    caches = [_random(pages, 16, 8, 64) for _ in range(2)]
    table = torch.arange(pages, device=DEVICE, dtype=torch.int32).view(seqs, -1)
    lens = torch.full((seqs,), CONTEXT, device=DEVICE, dtype=torch.int32)
    q = _random(seqs, 16, 64)
    assert _run(benchmark, call, q, *caches, table, lens, 0.125).shape == q.shape
