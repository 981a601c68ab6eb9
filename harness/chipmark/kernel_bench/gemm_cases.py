"""Cases of the matrix products, with what is fused into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as functional

from chipmark.kernel_bench.case import Call, Case, Inputs, Peer, random
from chipmark_kernels.dense_gemm_hopper import dense_gemm_hopper
from chipmark_kernels.formats import scale_group
from chipmark_kernels.fp8_gemm import fp8_gemm
from chipmark_kernels.gemv_hopper import gemv_hopper
from chipmark_kernels.manifest import ModelShape, Projection, projections
from chipmark_kernels.reference.gemm import (
    dequantize_fp8,
    dequantize_int4,
    dequantize_int8,
    fp8_gemm_reference,
    fp8a16_gemm_reference,
    quantize_rows_fp8_reference,
    skinny_gemm_reference,
    w4a16_gemm_reference,
    w8a16_gemm_reference,
)
from chipmark_kernels.skinny_gemm import fp8a16_gemm, skinny_gemm
from chipmark_kernels.tiles import Tile
from chipmark_kernels.weight_only import quantize_int4, quantize_int8, w4a16_gemm, w8a16_gemm


def _fused(function: Callable[..., Any], p: Projection) -> Callable[..., Any]:
    """The launcher or reference with what is fused taken from behind x and the weights."""

    def call(x: Any, norm: Any, residual: Any, *weights: Any) -> Any:
        options = {"norm_weight": norm, "residual": residual, "swiglu": p.swiglu}
        return function(x, *weights, **options)

    return call


def _dependent(x: torch.Tensor, *weights: torch.Tensor, **options: Any) -> torch.Tensor:
    """As the decode step launches it on a GPU, each launch waiting by itself for the one before;
    in Triton's interpreter, which knows no such launches, as any other."""
    return gemv_hopper(x, *weights, pdl=x.is_cuda, **options)


def _product_name(s: ModelShape, rows: int, p: Projection) -> str:
    return f"{s.name} rows={rows} n={p.n} k={p.k}" + (" swiglu" if p.swiglu else "")


def _cublas(p: Projection) -> Callable[..., Any]:
    """The same product and what is fused with it, by torch's own operators."""
    return _torchs(p, functional.linear)


def _scaled_mm(p: Projection) -> Callable[..., Any]:
    """By cuBLAS's e4m3 product, whose rows are quantised too: something else, so shown alone."""

    def multiply(x: torch.Tensor, weight: torch.Tensor, w_scales: torch.Tensor) -> torch.Tensor:
        rows, scales = quantize_rows_fp8_reference(x)
        product: torch.Tensor = torch._scaled_mm(
            rows, weight.T, scales[:, None], w_scales[None, :], out_dtype=torch.bfloat16
        )
        return product

    return _torchs(p, multiply)


def _torchs(p: Projection, multiply: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def call(x: Any, norm: Any, residual: Any, *weight: torch.Tensor) -> torch.Tensor:
        if norm is not None:
            x = functional.rms_norm(x, (x.shape[1],), norm, 1e-6)
        return _ended(multiply(x, *weight), p, residual)

    return call


def _ended(y: torch.Tensor, p: Projection, residual: torch.Tensor | None) -> torch.Tensor:
    """A product and what is fused with its end, by torch's own operators."""
    if p.swiglu:
        gate, up = y.chunk(2, -1)
        y = functional.silu(gate) * up
    return y if residual is None else residual + y


def _weights(kind: str, w: torch.Tensor) -> Inputs:
    if kind in _PLAIN:
        return (w,)
    if kind == "fp8a16_gemm":
        return quantize_rows_fp8_reference(w)
    quantize = quantize_int8 if kind == "w8a16_gemm" else quantize_int4
    codes, scales = quantize(w, scale_group(w.shape[1]))
    # In bf16, as weights are stored.
    return codes.contiguous(), scales.bfloat16().contiguous()


_PLAIN = ("skinny_gemm", "gemv_hopper")
"""Kernels of weights that are not quantised."""

_GEMMS: Mapping[str, tuple[Call, Call, int]] = {
    "skinny_gemm": (skinny_gemm, skinny_gemm_reference, 16),
    "gemv_hopper": (_dependent, skinny_gemm_reference, 16),
    "w8a16_gemm": (w8a16_gemm, w8a16_gemm_reference, 8),
    "w4a16_gemm": (w4a16_gemm, w4a16_gemm_reference, 4),
    "fp8a16_gemm": (fp8a16_gemm, fp8a16_gemm_reference, 8),
}


_DEQUANTISE: Mapping[str, Call] = {
    "w8a16_gemm": dequantize_int8,
    "w4a16_gemm": lambda codes, scales, dtype: dequantize_int4(codes, scales, None, dtype),
    "fp8a16_gemm": dequantize_fp8,
}


def _dequantised(kind: str, p: Projection) -> Call:
    """The weights in the activations' type first, then the plain product."""

    def multiply(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, _DEQUANTISE[kind](codes, scales, x.dtype))

    return _torchs(p, multiply)


def _gemm_peers(kind: str, p: Projection, rows: int) -> dict[str, Peer]:
    """torch's ways to the same product."""
    if kind in _PLAIN:
        return {"torch": _cublas(p), "torch.compile": _cublas(p)}
    peers: dict[str, Peer] = {"torch": _dequantised(kind, p)}
    if rows == 1:  # what gpt-fast does; a product of many rows does not fuse it
        peers["torch.compile"] = peers["torch"]
    if kind == "fp8a16_gemm":
        peers["torch, rows in e4m3 too"] = _scaled_mm(p)
    return peers


def _scale_bytes(kind: str, p: Projection) -> int:
    """Of the weight: bf16 a group of integers, fp32 a row of e4m3."""
    if kind in _PLAIN:
        return 0
    return 4 * p.n if kind == "fp8a16_gemm" else 2 * p.n * p.k // scale_group(p.k)


def gemm_cases(s: ModelShape, rows: int) -> Iterator[Case]:
    """Products of a decode step by weight format, with norm, residual and SwiGLU fused."""
    for kind, (ours, reference, bits) in _GEMMS.items():
        if kind == "gemv_hopper" and rows > 1:
            continue
        # The head's weights stay plain in every precision.
        head = (Projection(s.vocab, s.hidden, norm=True),) if bits == 16 else ()
        for p in (*projections(s), *head):

            def make(
                rng: Any, device: Any, dtype: Any, p: Projection = p, kind: str = kind
            ) -> Inputs:
                x = random(rng, device, dtype, rows, p.k)
                norm = random(rng, device, dtype, p.k) if p.norm else None
                residual = random(rng, device, dtype, rows, p.n) if p.residual else None
                w = random(rng, device, dtype, p.n, p.k, scale=p.k**-0.5)
                return x, norm, residual, *_weights(kind, w)

            columns = p.n // 2 if p.swiglu else p.n
            n_bytes = p.n * p.k * bits // 8 + 2 * rows * (p.k + columns * (1 + p.residual))
            n_bytes += _scale_bytes(kind, p)

            def tiled(tile: Tile, p: Projection = p, ours: Call = ours) -> Call:
                return _fused(partial(ours, tile=tile), p)

            yield Case(
                kind, _product_name(s, rows, p), make, _fused(ours, p),
                _fused(reference, p), n_bytes, 2 * rows * p.n * p.k, "memory",
                _gemm_peers(kind, p, rows), tiled=tiled,
                tile_shape={"rows": rows, "n": columns, "k": p.k, "glu": int(p.swiglu)},
            )  # fmt: skip


def dense_cases(s: ModelShape, rows: int) -> Iterator[Case]:
    """Products of a prompt by the Hopper kernel."""
    for p in projections(s):

        def make(rng: Any, device: Any, dtype: Any, p: Projection = p) -> Inputs:
            x = random(rng, device, dtype, rows, p.k)
            residual = random(rng, device, dtype, rows, p.n) if p.residual else None
            return x, None, residual, random(rng, device, dtype, p.n, p.k, scale=p.k**-0.5)

        def call(
            x: Any, norm: Any, residual: Any, weight: torch.Tensor, p: Projection = p
        ) -> torch.Tensor:
            return dense_gemm_hopper(x, weight, swiglu=p.swiglu, residual=residual)

        columns = p.n // 2 if p.swiglu else p.n
        n_bytes = 2 * (p.n * p.k + rows * (p.k + columns))
        yield Case(
            "dense_gemm_hopper", _product_name(s, rows, p), make, call,
            _fused(skinny_gemm_reference, p), n_bytes, 2 * rows * p.n * p.k, "matrix",
            {"torch": _cublas(p)},
        )  # fmt: skip


def fp8_cases(s: ModelShape, rows: int) -> Iterator[Case]:
    """Products of e4m3 rows with e4m3 weights."""
    for p in projections(s):

        def make(rng: Any, device: Any, dtype: Any, p: Projection = p) -> Inputs:
            x = quantize_rows_fp8_reference(random(rng, device, dtype, rows, p.k))
            w = quantize_rows_fp8_reference(random(rng, device, dtype, p.n, p.k, scale=p.k**-0.5))
            residual = random(rng, device, dtype, rows, p.n) if p.residual else None
            return *x, *w, residual, dtype

        def fused(function: Call, p: Projection = p, wide: Any = None) -> Call:
            def call(x: Any, x_scales: Any, w: Any, w_scales: Any, residual: Any, to: Any) -> Any:
                options = {"swiglu": p.swiglu, "residual": residual}
                return function(x, x_scales, w, w_scales, wide or to, **options)

            return call

        def scaled_mm(
            x: Any, x_scales: Any, w: Any, w_scales: Any, residual: Any, to: Any,
            p: Projection = p,
        ) -> torch.Tensor:  # fmt: skip
            scales = x_scales[:, None], w_scales[None, :]
            return _ended(torch._scaled_mm(x, w.T, *scales, out_dtype=to), p, residual)

        columns = p.n // 2 if p.swiglu else p.n
        yield Case(
            "fp8_gemm", _product_name(s, rows, p), make, fused(fp8_gemm),
            fused(fp8_gemm_reference),
            p.n * p.k + rows * (p.k + 2 * columns * (1 + p.residual)), 2 * rows * p.n * p.k,
            "memory" if rows <= 64 else "matrix", {"torch": scaled_mm},
            fused(fp8_gemm_reference, wide=torch.float64), rate="fp8",
        )  # fmt: skip
