"""What is measured: each kernel at the presets' shapes, beside torch, Liger and FlagGems.

Models and rows are data; `cases(small=True)` gives the same kernels at sizes for a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as functional

from chipmark_kernels.dense_gemm_hopper import dense_gemm_hopper
from chipmark_kernels.embedding import embedding_rmsnorm
from chipmark_kernels.fp8_gemm import fp8_gemm, quantize_rows_fp8
from chipmark_kernels.manifest import (
    MODEL_SHAPES,
    ModelShape,
    Projection,
    projections,
    scale_group,
)
from chipmark_kernels.reference.embedding import embedding_rmsnorm_reference
from chipmark_kernels.reference.gemm import (
    fp8_gemm_reference,
    fp8a16_gemm_reference,
    quantize_rows_fp8_reference,
    skinny_gemm_reference,
    w4a16_gemm_reference,
    w8a16_gemm_reference,
)
from chipmark_kernels.reference.rmsnorm import rmsnorm_reference
from chipmark_kernels.reference.sampling import nucleus_cutoff_reference, sample_reference
from chipmark_kernels.reference.swiglu import swiglu_reference
from chipmark_kernels.rmsnorm import rmsnorm
from chipmark_kernels.sampling import sample
from chipmark_kernels.skinny_gemm import fp8a16_gemm, skinny_gemm
from chipmark_kernels.swiglu import swiglu
from chipmark_kernels.top_p import nucleus_cutoff
from chipmark_kernels.weight_only import quantize_int4, quantize_int8, w4a16_gemm, w8a16_gemm

Inputs = tuple[Any, ...]
TINY = ModelShape("tiny", 512, 128, 256, 6, 2, 16)


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one shape. make(rng, device, dtype): its inputs; ours, reference and peers take
    them. bytes: necessary bytes of a call; flops: necessary products and sums; bound: which roof.
    oracle: the float64 reference where the widened inputs alone do not make `reference` one.
    """

    kernel: str
    name: str
    make: Callable[[torch.Generator, torch.device, torch.dtype], Inputs]
    ours: Callable[..., Any]
    reference: Callable[..., Any]
    bytes: int
    flops: int = 0
    bound: str = "memory"
    peers: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    oracle: Callable[..., Any] | None = None


def random(
    rng: torch.Generator, device: torch.device, dtype: torch.dtype, *shape: int, scale: float = 1.0
) -> torch.Tensor:
    """Normal values, made on the generator's device."""
    return (torch.randn(*shape, generator=rng, device=rng.device) * scale).to(device, dtype)


def _norms(s: ModelShape, rows: int) -> Iterator[Case]:
    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        x, residual = (random(rng, device, dtype, rows, s.hidden) for _ in range(2))
        return x, random(rng, device, dtype, s.hidden), 1e-6, residual

    def torchs(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor) -> Any:
        total = x + residual
        return functional.rms_norm(total, (x.shape[1],), weight, eps), total

    n_bytes = 4 * rows * s.hidden * 2
    peers = {"torch": torchs, "torch.compile": torchs}
    bound = "latency" if rows <= 64 else "memory"
    yield Case(
        "rmsnorm", f"{s.name} rows={rows}", make, rmsnorm, rmsnorm_reference, n_bytes, 0, bound,
        peers,
    )  # fmt: skip


def _embedding(s: ModelShape, rows: int) -> Iterator[Case]:
    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        ids = torch.randint(0, s.vocab, (rows,), generator=rng, device=rng.device)
        table = random(rng, device, dtype, s.vocab, s.hidden)
        return ids.to(device, torch.int32), table, random(rng, device, dtype, s.hidden), 1e-6

    n_bytes = 3 * rows * s.hidden * 2
    yield Case(
        "embedding_rmsnorm", f"{s.name} rows={rows}", make, embedding_rmsnorm,
        embedding_rmsnorm_reference, n_bytes, 0, "latency",
    )  # fmt: skip


def _swiglu(s: ModelShape, rows: int) -> Iterator[Case]:
    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        return (random(rng, device, dtype, rows, 2 * s.inner),)

    def torchs(packed: torch.Tensor) -> torch.Tensor:
        gate, up = packed.chunk(2, -1)
        return functional.silu(gate) * up

    peers = {"torch": torchs, "torch.compile": torchs}
    n_bytes = 3 * rows * s.inner * 2
    name = f"{s.name} rows={rows}"
    yield Case("swiglu", name, make, swiglu, swiglu_reference, n_bytes, 0, "memory", peers)


def _fused(function: Callable[..., Any], p: Projection) -> Callable[..., Any]:
    """The launcher or reference with what is fused taken from behind x and the weights."""

    def call(x: Any, norm: Any, residual: Any, *weights: Any) -> Any:
        options = {"norm_weight": norm, "residual": residual, "swiglu": p.swiglu}
        return function(x, *weights, **options)

    return call


def _cublas(p: Projection) -> Callable[..., Any]:
    """The same product and what is fused with it, by torch's own operators."""
    return _torchs(p, functional.linear)


def _scaled_mm(p: Projection) -> Callable[..., Any]:
    """The same by cuBLAS's e4m3 product, whose rows are quantised first: nearest that torch has."""

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
        y = multiply(x, *weight)
        if p.swiglu:
            gate, up = y.chunk(2, -1)
            y = functional.silu(gate) * up
        return y if residual is None else residual + y

    return call


def _weights(kind: str, w: torch.Tensor) -> Inputs:
    if kind == "skinny_gemm":
        return (w,)
    if kind == "fp8a16_gemm":
        return quantize_rows_fp8_reference(w)
    quantize = quantize_int8 if kind == "w8a16_gemm" else quantize_int4
    codes, scales = quantize(w, scale_group(w.shape[1]))
    # In bf16, as weights are stored.
    return codes.contiguous(), scales.bfloat16().contiguous()


_GEMMS = {
    "skinny_gemm": (skinny_gemm, skinny_gemm_reference, 16),
    "w8a16_gemm": (w8a16_gemm, w8a16_gemm_reference, 8),
    "w4a16_gemm": (w4a16_gemm, w4a16_gemm_reference, 4),
    "fp8a16_gemm": (fp8a16_gemm, fp8a16_gemm_reference, 8),
}


def _gemm_peers(kind: str, p: Projection) -> dict[str, Callable[..., Any]]:
    """torch's ways to the same product; it has none for integer weights in groups."""
    call = {"skinny_gemm": _cublas, "fp8a16_gemm": _scaled_mm}.get(kind)
    return {} if call is None else {"torch": call(p), "torch.compile": call(p)}


def _scale_bytes(kind: str, p: Projection) -> int:
    """Of the weight: bf16 a group of integers, fp32 a row of e4m3."""
    if kind == "skinny_gemm":
        return 0
    return 4 * p.n if kind == "fp8a16_gemm" else 2 * p.n * p.k // scale_group(p.k)


def _gemms(s: ModelShape, rows: int) -> Iterator[Case]:
    for kind, (ours, reference, bits) in _GEMMS.items():
        for p in projections(s):

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
            yield Case(
                kind, f"{s.name} rows={rows} n={p.n} k={p.k}", make, _fused(ours, p),
                _fused(reference, p), n_bytes, 2 * rows * p.n * p.k, "memory",
                _gemm_peers(kind, p),
            )  # fmt: skip


def _dense(s: ModelShape, rows: int) -> Iterator[Case]:
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
            "dense_gemm_hopper", f"{s.name} rows={rows} n={p.n} k={p.k}", make, call,
            _fused(skinny_gemm_reference, p), n_bytes, 2 * rows * p.n * p.k, "matrix",
            {"torch": _cublas(p)},
        )  # fmt: skip


def _fp8(s: ModelShape, rows: int) -> Iterator[Case]:
    p = projections(s)[0]

    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        x = quantize_rows_fp8_reference(random(rng, device, dtype, rows, p.k))
        return *x, *quantize_rows_fp8_reference(random(rng, device, dtype, p.n, p.k))

    def scaled_mm(x: Any, x_scales: Any, w: Any, w_scales: Any) -> torch.Tensor:
        scales = x_scales[:, None], w_scales[None, :]
        product: torch.Tensor = torch._scaled_mm(x, w.T, *scales, out_dtype=torch.bfloat16)
        return product

    n_bytes = p.n * p.k + rows * (p.k + 2 * p.n)
    bound = "memory" if rows <= 64 else "matrix"
    yield Case(
        "fp8_gemm", f"{s.name} rows={rows} n={p.n} k={p.k}", make, fp8_gemm, fp8_gemm_reference,
        n_bytes, 2 * rows * p.n * p.k, bound, {"torch": scaled_mm},
        lambda *inputs: fp8_gemm_reference(*inputs, torch.float64),
    )  # fmt: skip

    def make_rows(rng: Any, device: Any, dtype: Any) -> Inputs:
        return (random(rng, device, dtype, rows, p.k),)

    yield Case(
        "quantize_rows_fp8", f"{s.name} rows={rows}", make_rows,
        lambda x: quantize_rows_fp8(x)[1], lambda x: quantize_rows_fp8_reference(x)[1],
        3 * rows * p.k, 0, "latency" if rows <= 64 else "memory",
    )  # fmt: skip


def _sampling(s: ModelShape, rows: int) -> Iterator[Case]:
    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        return (random(rng, device, dtype, rows, s.vocab, scale=3.0),)

    def make_nucleus(rng: Any, device: Any, dtype: Any) -> Inputs:
        ones = torch.ones(rows, device=device)
        return random(rng, device, dtype, rows, s.vocab, scale=3.0), ones, ones * 0.9

    name, n_bytes = f"{s.name} rows={rows}", 2 * rows * s.vocab
    peers = {"torch": lambda x: x.argmax(-1)}
    yield Case("sample", name, make, sample, sample_reference, n_bytes, 0, "latency", peers)
    yield Case(
        "nucleus_cutoff", name, make_nucleus, nucleus_cutoff, nucleus_cutoff_reference, n_bytes, 0,
        "latency",
    )  # fmt: skip


def cases(*, small: bool = False) -> list[Case]:
    """Every case, the kernels of the decode step first."""
    from gpu_arms.attention_cases import attention_cases

    models = [TINY] if small else [s for s in MODEL_SHAPES if s.name in ("qwen3-0.6b", "qwen3-8b")]
    decode, prefill = ((1, 3), (5,)) if small else ((1, 8, 64), (2048,))
    found: list[Case] = []
    for s in models:
        found += attention_cases(s, small=small)
        for rows in decode:
            for family in (_gemms, _norms, _embedding, _sampling):
                found += family(s, rows)
        for rows in (*decode[1:], *prefill):
            found += _fp8(s, rows)
        for rows in prefill:
            found += [*_swiglu(s, rows), *_norms(s, rows), *_dense(s, rows)]
    return found
