"""Every launch that dispatch can make for the presets' shapes, as calls of the real launchers.

The calls run on meta tensors inside `launch.recording`: they allocate nothing and start nothing.
Shapes are data of their own here, so that this package needs no model package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from chipmark_kernels.decode_attention import decode_attention
from chipmark_kernels.dense_gemm_hopper import dense_gemm_hopper
from chipmark_kernels.dependent_launch import launches_early
from chipmark_kernels.device import DeviceFacts
from chipmark_kernels.dtypes import DTYPE_NAMES
from chipmark_kernels.embedding import embedding_rmsnorm
from chipmark_kernels.formats import PAGE_TOKENS, scale_group
from chipmark_kernels.fp8_gemm import fp8_gemm, quantize_rows_fp8
from chipmark_kernels.gemv_hopper import gemv_hopper
from chipmark_kernels.launch import Launch, recording
from chipmark_kernels.philox_weights import philox_weights
from chipmark_kernels.prefill_attention import prefill_attention
from chipmark_kernels.reference.philox_weights import SUMS
from chipmark_kernels.rmsnorm import rmsnorm
from chipmark_kernels.rope_decode_attention import rope_decode_attention
from chipmark_kernels.rope_kv import qknorm_rope_kvwrite
from chipmark_kernels.sampling import sample
from chipmark_kernels.skinny_gemm import fp8a16_gemm, skinny_gemm
from chipmark_kernels.swiglu import swiglu
from chipmark_kernels.tiles import Tile
from chipmark_kernels.top_p import nucleus_cutoff
from chipmark_kernels.weight_only import w4a16_gemm, w8a16_gemm

MAX_CONTEXT = 32_768
SHORT_CONTEXT = 128
"""Tokens that decode attention reads in one part: another variant of its kernel."""
DECODE_ROWS = (1, 2, 4, 8, 16, 32, 64)
PREFILL_ROWS = (128, 512, 2_048, 8_192)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of one model that kernels see; from its public `config.json`."""

    name: str
    vocab: int
    hidden: int
    inner: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    qk_norm: bool = False
    interleaved: bool = False
    qkv_bias: bool = False


MODEL_SHAPES = (
    ModelShape("qwen3-0.6b", 151_936, 1_024, 3_072, 16, 8, 128, qk_norm=True),
    ModelShape("qwen3-1.7b", 151_936, 2_048, 6_144, 16, 8, 128, qk_norm=True),
    ModelShape("qwen3-8b", 151_936, 4_096, 12_288, 32, 8, 128, qk_norm=True),
    ModelShape("llama-3.2-1b", 128_256, 2_048, 8_192, 32, 8, 64),
    ModelShape("llama-3.1-8b", 128_256, 4_096, 14_336, 32, 8, 128),
    ModelShape("smollm2-135m", 49_152, 576, 1_536, 9, 3, 64),
    ModelShape("ernie-4.5-0.3b", 103_424, 1_024, 3_072, 16, 2, 128, interleaved=True),
)

Call = Callable[[ModelShape, int, torch.dtype], object]


def _meta(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _ints(*shape: int) -> torch.Tensor:
    return _meta(*shape, dtype=torch.int32)


def _floats(*shape: int) -> torch.Tensor:
    return _meta(*shape, dtype=torch.float32)


def _caches(s: ModelShape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (1024, PAGE_TOKENS, s.n_kv_heads, s.head_dim)
    return _meta(*shape, dtype=dtype), _meta(*shape, dtype=dtype)


def _rmsnorm(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    x, weight = _meta(rows, s.hidden, dtype=dtype), _meta(s.hidden, dtype=dtype)
    rmsnorm(x, weight, 1e-6)
    rmsnorm(x, weight, 1e-6, torch.empty_like(x))


def _embedding(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    table, weight = _meta(s.vocab, s.hidden, dtype=dtype), _meta(s.hidden, dtype=dtype)
    embedding_rmsnorm(_ints(rows), table, weight, 1e-6)


T = torch.Tensor
_Rotation = tuple[T, T, T, T, T, T, T]


def _rotation(s: ModelShape, rows: int, dtype: torch.dtype) -> tuple[_Rotation, dict[str, Any]]:
    """Arguments, up to the caches, and keywords of what rotates queries and keys."""
    qkv = _meta(rows, (s.n_heads + 2 * s.n_kv_heads) * s.head_dim, dtype=dtype)
    angles = _floats(MAX_CONTEXT, s.head_dim // 2)
    slots = _meta(rows, dtype=torch.int64)  # which may lie beyond 2**31
    norm = _meta(s.head_dim, dtype=dtype) if s.qk_norm else None
    keywords = {"q_norm": norm, "k_norm": norm, "interleaved": s.interleaved}
    return (qkv, angles, angles, _ints(rows), slots, *_caches(s, dtype)), keywords


def _rope_kv(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    args, keywords = _rotation(s, rows, dtype)
    qknorm_rope_kvwrite(*args, s.n_heads, **keywords)


def _rope_decode(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    args, keywords = _rotation(s, rows, dtype)
    weights = (
        _meta(s.hidden, s.n_heads * s.head_dim, dtype=dtype),
        _meta(2 * s.inner, s.hidden, dtype=dtype),
    )
    for context in (MAX_CONTEXT, SHORT_CONTEXT):
        table = _ints(rows, context // PAGE_TOKENS)
        for ahead in ((), weights):
            rope_decode_attention(
                *args, table, _ints(rows), s.n_heads, 0.1, ahead=ahead, **keywords
            )


def _prefill(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    q = _meta(rows, s.n_heads, s.head_dim, dtype=dtype)
    table = _ints(8, MAX_CONTEXT // PAGE_TOKENS)
    prefill_attention(q, *_caches(s, dtype), table, _ints(9), _ints(8), 0.1)


def _decode(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    q = _meta(rows, s.n_heads, s.head_dim, dtype=dtype)
    for context in (MAX_CONTEXT, SHORT_CONTEXT):
        table = _ints(rows, context // PAGE_TOKENS)
        decode_attention(q, *_caches(s, dtype), table, _ints(rows), 0.1)


@dataclass(frozen=True, slots=True)
class Projection:
    """A product of a layer: n and k as the weight has them, and what is fused with it."""

    n: int
    k: int
    norm: bool = False
    swiglu: bool = False
    residual: bool = False
    bias: bool = False

    def options(self, rows: int, dtype: torch.dtype) -> dict[str, Any]:
        """The launchers' keywords, as dispatch gives them for `rows` rows."""
        return {
            "bias": _meta(self.n, dtype=dtype) if self.bias else None,
            "norm_weight": _meta(self.k, dtype=dtype) if self.norm else None,
            "swiglu": self.swiglu,
            "residual": _meta(rows, self.n, dtype=dtype) if self.residual else None,
        }


def projections(s: ModelShape) -> tuple[Projection, ...]:
    """qkv, output, gate|up and down of a layer."""
    heads = s.n_heads * s.head_dim
    return (
        Projection(heads + 2 * s.n_kv_heads * s.head_dim, s.hidden, norm=True, bias=s.qkv_bias),
        Projection(s.hidden, heads, residual=True),
        Projection(2 * s.inner, s.hidden, norm=True, swiglu=True),
        Projection(s.hidden, s.inner, residual=True),
    )


def _skinny_gemm(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    head = Projection(s.vocab, s.hidden, norm=True)
    for p in (*projections(s), head):
        x, w = _meta(rows, p.k, dtype=dtype), _meta(p.n, p.k, dtype=dtype)
        skinny_gemm(x, w, **p.options(rows, dtype))
        if p.norm:
            # Where a norm of its own is faster (many rows), or exists already (the first layer).
            skinny_gemm(x, w, **p.options(rows, dtype) | {"norm_weight": None})


def _gemv(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    if rows > 1:  # a measured table of another kernel asks at its own rows
        return
    head = Projection(s.vocab, s.hidden, norm=True)
    for p in (*projections(s), head):
        x, w, options = _meta(rows, p.k, dtype=dtype), _meta(p.n, p.k, dtype=dtype), p.options
        gemv_hopper(x, w, **options(rows, dtype))
        if p.norm and not p.swiglu:
            gemv_hopper(x, w, **options(rows, dtype) | {"norm_weight": None})
        if dtype != torch.float32 and p is not head:
            w8 = _meta(p.n, p.k, dtype=torch.float8_e4m3fn)
            gemv_hopper(x, w8, _floats(p.n), **options(rows, dtype))


def _step(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    """The portable kernels of a decode step."""
    _embedding(s, rows, dtype)
    _rope_kv(s, rows, dtype)
    _decode(s, rows, dtype)
    if rows > 1:
        _skinny_gemm(s, rows, dtype)
        if dtype != torch.float32:
            _fp8a16(s, rows, dtype)
            _split_k(s, rows, dtype)
    sample(_meta(rows, s.vocab, dtype=dtype))


def _split_k(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    """What a tuned tile may ask for: the rules split no product of the presets on Hopper."""
    for p in projections(s):
        tile = Tile(m=1 if rows == 1 else 16, n=16, k=256, split=4, num_warps=2, num_stages=2)
        x, w = _meta(rows, p.k, dtype=dtype), _meta(p.n, p.k, dtype=dtype)
        skinny_gemm(x, w, **p.options(rows, dtype), tile=tile)


def _weight_only(bits: int, s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    multiply = w8a16_gemm if bits == 8 else w4a16_gemm
    for p in projections(s):
        packed = torch.int8 if bits == 8 else torch.uint8
        x, w = _meta(rows, p.k, dtype=dtype), _meta(p.n, p.k * bits // 8, dtype=packed)
        # The scales are stored in bf16, whatever the activations are.
        scales = _meta(p.n, p.k // scale_group(p.k), dtype=torch.bfloat16)
        options = p.options(rows, dtype)
        multiply(x, w, scales, **options)
        if p.norm and not p.swiglu:
            # The first layer's queries, keys and values, whose rows the embedding has normed.
            multiply(x, w, scales, **options | {"norm_weight": None})


def _fp8a16(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    for p in projections(s):
        x, w = _meta(rows, p.k, dtype=dtype), _meta(p.n, p.k, dtype=torch.float8_e4m3fn)
        options = p.options(rows, dtype)
        fp8a16_gemm(x, w, _floats(p.n), **options)
        if p.norm and not p.swiglu:
            # The first layer's, as in `_weight_only`.
            fp8a16_gemm(x, w, _floats(p.n), **options | {"norm_weight": None})


def _fp8(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    for p in projections(s):
        options = p.options(rows, dtype)
        x, x_scales = quantize_rows_fp8(_meta(rows, p.k, dtype=dtype), options.pop("norm_weight"))
        weight = torch.empty_like(x).new_empty((p.n, p.k))
        fp8_gemm(x, x_scales, weight, _floats(p.n), dtype, **options)


def _dense_hopper(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    for p in projections(s):
        options = p.options(rows, dtype)
        options.pop("norm_weight")
        dense_gemm_hopper(_meta(rows, p.k, dtype=dtype), _meta(p.n, p.k, dtype=dtype), **options)


def _swiglu(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    swiglu(_meta(rows, 2 * s.inner, dtype=dtype))


def _sample(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    logits = _meta(rows, s.vocab, dtype=dtype)
    sample(logits)
    seeds = _meta(rows, dtype=torch.int64)
    sample(logits, temperatures=_floats(rows), seeds=seeds)
    sample(logits, temperatures=_floats(rows), seeds=seeds, cutoffs=_floats(rows))


def _nucleus(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    nucleus_cutoff(_meta(rows, s.vocab, dtype=dtype), _floats(rows), _floats(rows))


def _philox(s: ModelShape, rows: int, dtype: torch.dtype) -> None:
    philox_weights(_meta(SUMS, dtype=dtype), 1, s.vocab * s.hidden)


ROWS = DECODE_ROWS + PREFILL_ROWS
HALVES = (torch.bfloat16, torch.float16)
ALL = (*HALVES, torch.float32)


@dataclass(frozen=True, slots=True)
class Family:
    """A kernel's public launcher: the rows and dtypes with which dispatch may call it.

    hopper: needs compute capability 9.0; such a variant is only taken where it is asked for.
    early: its launches are those of a chain, each begun before the one before it has ended.
    again: they are those of other families, by the same tiles.
    hardware: what was seen of it on a device.
    """

    name: str
    call: Call
    rows: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    hopper: bool = False
    early: bool = False
    again: bool = False
    hardware: str = "unverified on hardware"


FAMILIES = (
    Family("rmsnorm", _rmsnorm, ROWS, ALL),
    Family("embedding_rmsnorm", _embedding, ROWS, ALL),
    Family("qknorm_rope_kvwrite", _rope_kv, ROWS, ALL),
    Family("prefill_attention", _prefill, ROWS, ALL),
    Family("decode_attention", _decode, DECODE_ROWS, ALL),
    Family("rope_decode_attention", _rope_decode, DECODE_ROWS, ALL),
    Family("swiglu", _swiglu, PREFILL_ROWS, ALL),
    Family("skinny_gemm", _skinny_gemm, DECODE_ROWS, ALL),
    Family("split_k", _split_k, (1, 16), HALVES),
    Family("w8a16_gemm", partial(_weight_only, 8), ROWS, HALVES),
    Family("w4a16_gemm", partial(_weight_only, 4), ROWS, HALVES),
    Family("fp8a16_gemm", _fp8a16, DECODE_ROWS, HALVES),
    Family("fp8_gemm", _fp8, PREFILL_ROWS, HALVES),
    Family("dense_gemm_hopper", _dense_hopper, PREFILL_ROWS, HALVES, hopper=True),
    Family("sample", _sample, DECODE_ROWS, ALL),
    Family("gemv_hopper", _gemv, (1,), ALL, early=True),
    Family("dependent_launches", _step, DECODE_ROWS, HALVES, early=True, again=True),
    Family("nucleus_cutoff", _nucleus, DECODE_ROWS, ALL),
    Family("philox_weights", _philox, (1,), ALL),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One launch to compile: the family and dtype that make it, and a shape that does."""

    family: str
    dtype: str
    example: str
    launch: Launch


def left_out(family: str, device: DeviceFacts) -> str | None:
    """Why dispatch never picks this family on the device, or None."""
    if family == "fp8_gemm" and not device.fp8_e4m3:
        return f"{device.name} has no float8_e4m3fn matrix unit"
    if family == "fp8a16_gemm" and not device.fp8_e4m3:
        return f"{device.name} multiplies no prompt in float8_e4m3fn, so fp8 is refused there"
    if any(f.early for f in FAMILIES if f.name == family) and not launches_early(device):
        return f"{device.name} launches no kernel early"
    if family == "rope_decode_attention" and device.vendor == "npu":
        return f"{device.name}: the two operations that it joins are launched instead"
    if family == "philox_weights" and device.vendor == "npu":
        return f"{device.name}: seeded weights are made by the host there"
    needs_hopper = any(f.hopper for f in FAMILIES if f.name == family)
    if needs_hopper and (device.vendor != "cuda" or int(device.arch) < 90):
        return f"{device.name} has no tensor memory accelerator"
    return None


def _early(launch: Launch) -> Launch:
    """The same launch in a chain, of a kernel that knows it."""
    if "PDL" not in launch.constants:
        return launch
    return replace(launch, constants={**launch.constants, "PDL": True})


def entries(
    device: DeviceFacts,
    families: tuple[Family, ...] = FAMILIES,
    shapes: tuple[ModelShape, ...] = MODEL_SHAPES,
) -> Iterator[Entry]:
    """Every launch on `device` of the given families and shapes, the same one many times."""
    for family in families:
        if left_out(family.name, device) is not None:
            continue
        for shape in shapes:
            for rows in family.rows:
                for dtype in family.dtypes:
                    with recording(device) as launches:
                        family.call(shape, rows, dtype)
                    for launch in map(_early, launches) if family.early else launches:
                        example = f"{shape.name} rows={rows}"
                        yield Entry(family.name, DTYPE_NAMES[dtype], example, launch)
