"""What is measured: each kernel at the presets' shapes, beside torch, Liger and FlagGems.

Models and rows are data; `cases(small=True)` gives the same kernels at sizes for a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as functional

from chipmark_kernels.dense_gemm_hopper import dense_gemm_hopper
from chipmark_kernels.embedding import embedding_rmsnorm
from chipmark_kernels.fp8_gemm import fp8_gemm
from chipmark_kernels.manifest import (
    MODEL_SHAPES,
    ModelShape,
    Projection,
    projections,
    scale_group,
)
from chipmark_kernels.parity import Parity
from chipmark_kernels.reference.embedding import embedding_rmsnorm_reference
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
from chipmark_kernels.reference.rmsnorm import rmsnorm_reference
from chipmark_kernels.reference.swiglu import swiglu_reference
from chipmark_kernels.rmsnorm import rmsnorm
from chipmark_kernels.skinny_gemm import fp8a16_gemm, skinny_gemm
from chipmark_kernels.swiglu import swiglu
from chipmark_kernels.weight_only import quantize_int4, quantize_int8, w4a16_gemm, w8a16_gemm

Inputs = tuple[Any, ...]
Call = Callable[..., Any]
TINY = ModelShape("tiny", 512, 128, 256, 6, 2, 16)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A peer that takes other inputs than the kernel; `prepare` is done before the clock starts."""

    prepare: Callable[[Inputs], Inputs]
    call: Call


Peer = Call | Prepared


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one shape. make(rng, device, dtype): its inputs; ours, reference and peers take
    them. bytes: necessary bytes of a call; flops: necessary products and sums; bound: which roof,
    memory, matrix (of `rate`: bf16 or fp8) or latency. kernel: the launcher's name. name: sizes as
    `key=value`, which targets.toml speaks of.
    oracle: the float64 reference where the widened inputs alone do not make `reference` one.
    check(inputs, results): parity by another rule than `parity.compare`'s. again(inputs, rng): one
    more copy of the inputs, where it may share what a call reads a small part of.
    """

    kernel: str
    name: str
    make: Callable[[torch.Generator, torch.device, torch.dtype], Inputs]
    ours: Call
    reference: Call
    bytes: int
    flops: int = 0
    bound: str = "memory"
    peers: Mapping[str, Peer] = field(default_factory=dict)
    oracle: Call | None = None
    rate: str = "bf16"
    check: Callable[[Inputs, list[torch.Tensor]], Sequence[Parity]] | None = None
    again: Callable[[Inputs, torch.Generator], Inputs] | None = None

    @property
    def size(self) -> dict[str, int]:
        """The sizes in the name."""
        pairs = (part.split("=") for part in self.name.split() if "=" in part)
        return {key: int(value) for key, value in pairs if value.isdigit()}

    @property
    def swiglu(self) -> bool:
        """Whether a product ends with SwiGLU, as its name says."""
        return "swiglu" in self.name.split()


def random(
    rng: torch.Generator, device: torch.device, dtype: torch.dtype, *shape: int, scale: float = 1.0
) -> torch.Tensor:
    """Normal values, made on the generator's device."""
    return (torch.randn(*shape, generator=rng, device=rng.device) * scale).to(device, dtype)


def _norms(s: ModelShape, rows: int) -> Iterator[Case]:
    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        x, residual = (random(rng, device, dtype, rows, s.hidden) for _ in range(2))
        return x, random(rng, device, dtype, s.hidden), 1e-6, residual

    def make_plain(rng: Any, device: Any, dtype: Any) -> Inputs:
        return make(rng, device, dtype)[:3]

    def torchs(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: Any = None) -> Any:
        total = x if residual is None else x + residual
        return functional.rms_norm(total, (x.shape[1],), weight, eps), total

    peers: dict[str, Peer] = {"torch": torchs, "torch.compile": torchs}
    bound = "latency" if rows <= 64 else "memory"
    for name, made, rows_moved in (("residual", make, 4), ("plain", make_plain, 2)):
        yield Case(
            "rmsnorm", f"{s.name} rows={rows} {name}", made, rmsnorm, rmsnorm_reference,
            rows_moved * rows * s.hidden * 2, 0, bound, peers,
        )  # fmt: skip


def _embedding(s: ModelShape, rows: int) -> Iterator[Case]:
    def ids(rng: torch.Generator) -> torch.Tensor:
        return torch.randint(0, s.vocab, (rows,), generator=rng, device=rng.device)

    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        table = random(rng, device, dtype, s.vocab, s.hidden)
        norm = random(rng, device, dtype, s.hidden)
        return ids(rng).to(device, torch.int32), table, norm, 1e-6

    def again(inputs: Inputs, rng: torch.Generator) -> Inputs:
        # Other rows of the one table: a copy of it would be gigabytes, of which few are read.
        return ids(rng).to(inputs[0]), *inputs[1:]

    def torchs(ids: torch.Tensor, table: Any, weight: torch.Tensor, eps: float) -> Any:
        hidden = functional.embedding(ids, table)
        return hidden, functional.rms_norm(hidden, weight.shape, weight, eps)

    yield Case(
        "embedding_rmsnorm", f"{s.name} rows={rows}", make, embedding_rmsnorm,
        embedding_rmsnorm_reference, 3 * rows * s.hidden * 2, 0, "latency",
        {"torch": torchs, "torch.compile": torchs}, again=again,
    )  # fmt: skip


def _swiglu(s: ModelShape, rows: int) -> Iterator[Case]:
    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        return (random(rng, device, dtype, rows, 2 * s.inner),)

    def torchs(packed: torch.Tensor) -> torch.Tensor:
        gate, up = packed.chunk(2, -1)
        return functional.silu(gate) * up

    peers: dict[str, Peer] = {"torch": torchs, "torch.compile": torchs}
    bound = "latency" if rows <= 64 else "memory"
    yield Case(
        "swiglu", f"{s.name} rows={rows}", make, swiglu, swiglu_reference, 3 * rows * s.inner * 2,
        0, bound, peers,
    )  # fmt: skip


def _fused(function: Callable[..., Any], p: Projection) -> Callable[..., Any]:
    """The launcher or reference with what is fused taken from behind x and the weights."""

    def call(x: Any, norm: Any, residual: Any, *weights: Any) -> Any:
        options = {"norm_weight": norm, "residual": residual, "swiglu": p.swiglu}
        return function(x, *weights, **options)

    return call


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
    if kind == "skinny_gemm":
        return (w,)
    if kind == "fp8a16_gemm":
        return quantize_rows_fp8_reference(w)
    quantize = quantize_int8 if kind == "w8a16_gemm" else quantize_int4
    codes, scales = quantize(w, scale_group(w.shape[1]))
    # In bf16, as weights are stored.
    return codes.contiguous(), scales.bfloat16().contiguous()


_GEMMS: Mapping[str, tuple[Call, Call, int]] = {
    "skinny_gemm": (skinny_gemm, skinny_gemm_reference, 16),
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
    if kind == "skinny_gemm":
        return {"torch": _cublas(p), "torch.compile": _cublas(p)}
    peers: dict[str, Peer] = {"torch": _dequantised(kind, p)}
    if rows == 1:  # what gpt-fast does; a product of many rows does not fuse it
        peers["torch.compile"] = peers["torch"]
    if kind == "fp8a16_gemm":
        peers["torch, rows in e4m3 too"] = _scaled_mm(p)
    return peers


def _scale_bytes(kind: str, p: Projection) -> int:
    """Of the weight: bf16 a group of integers, fp32 a row of e4m3."""
    if kind == "skinny_gemm":
        return 0
    return 4 * p.n if kind == "fp8a16_gemm" else 2 * p.n * p.k // scale_group(p.k)


def _gemms(s: ModelShape, rows: int) -> Iterator[Case]:
    for kind, (ours, reference, bits) in _GEMMS.items():
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
            yield Case(
                kind, _product_name(s, rows, p), make, _fused(ours, p),
                _fused(reference, p), n_bytes, 2 * rows * p.n * p.k, "memory",
                _gemm_peers(kind, p, rows),
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
            "dense_gemm_hopper", _product_name(s, rows, p), make, call,
            _fused(skinny_gemm_reference, p), n_bytes, 2 * rows * p.n * p.k, "matrix",
            {"torch": _cublas(p)},
        )  # fmt: skip


def _fp8(s: ModelShape, rows: int) -> Iterator[Case]:
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


def cases(*, small: bool = False) -> list[Case]:
    """Every case, the kernels of the decode step first."""
    from gpu_arms.attention_cases import attention_cases
    from gpu_arms.quantiser_cases import quantiser_cases
    from gpu_arms.sampling_cases import sampling_cases

    models = [TINY] if small else [s for s in MODEL_SHAPES if s.name in ("qwen3-0.6b", "qwen3-8b")]
    decode, prefill = ((1, 3), (5,)) if small else ((1, 8, 64), (2048,))
    found: list[Case] = []
    for s in models:
        found += attention_cases(s, small=small)
        for rows in decode:
            for family in (_gemms, _norms, _swiglu, _embedding, sampling_cases):
                found += family(s, rows)
        for rows in (*decode[1:], *prefill):
            found += [*_fp8(s, rows), *quantiser_cases(s, rows)]
        for rows in prefill:
            found += [*_swiglu(s, rows), *_norms(s, rows), *_dense(s, rows)]
    return found
