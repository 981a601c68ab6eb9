"""The paged decoder's operations in plain torch; what takes the place of a kernel that is out.

All but prefill attention can be captured in a CUDA graph: no copy to the host, and shapes that do
not depend on lengths. A quantised weight is widened and multiplied by cuBLAS.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as functional

from chipmark_kernels.formats import E4M3_MAX
from chipmark_kernels.reference.gemm import dequantize_int4, dequantize_int8
from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged.ops import PRODUCTS, Fp8Rows, Matrix
from chipmark_models.decoder.paged.quantised import QuantisedMatrix
from chipmark_models.decoder.slots.torch_ops import rms_norm


def embed_norm(
    ids: torch.Tensor, table: torch.Tensor, norm: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the table, and their norm."""
    hidden = table.index_select(0, ids)
    return hidden, rms_norm(hidden, norm, eps)


def quantise_rows(x: torch.Tensor, norm: torch.Tensor | None, eps: float) -> Fp8Rows:
    """Rows as e4m3 with a scale each, after the norm where one is given."""
    wide = (x if norm is None else rms_norm(x, norm, eps)).float()
    top = wide.abs().amax(-1) / E4M3_MAX
    scales = torch.where(top > 0, top, torch.ones_like(top))
    scaled = (wide / scales[:, None]).clamp(-E4M3_MAX, E4M3_MAX)
    return Fp8Rows(scaled.to(torch.float8_e4m3fn), scales, x.dtype)


def widened(matrix: QuantisedMatrix, dtype: torch.dtype) -> torch.Tensor:
    """The matrix (n, k) that quantised values stand for, in `dtype`."""
    if matrix.precision == "fp8":
        return (matrix.packed.float() * matrix.scales[:, None]).to(dtype)
    if matrix.precision == "w8":
        return dequantize_int8(matrix.packed, matrix.scales, torch.float32).to(dtype)
    return dequantize_int4(matrix.packed, matrix.scales, None, torch.float32).to(dtype)


def product(
    x: torch.Tensor | Fp8Rows,
    matrix: Matrix,
    bias: torch.Tensor | None = None,
    *,
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """norm(x) @ matrix.T + bias, then SwiGLU, then + residual, which may be what is returned."""
    if isinstance(x, Fp8Rows):
        x = (x.values.float() * x.scales[:, None]).to(x.dtype)
    elif norm is not None:
        x = rms_norm(x, norm, eps)
    weight = widened(matrix, x.dtype) if isinstance(matrix, QuantisedMatrix) else matrix
    if residual is not None and bias is None and not swiglu:
        return residual.addmm_(x, weight.T)
    y = functional.linear(x, weight, bias)
    if swiglu:
        gate, up = y.chunk(2, dim=-1)
        y = functional.silu(gate) * up
    return y if residual is None else y.add_(residual)


def rope_kv(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    n_heads: int,
    *,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float,
) -> torch.Tensor:
    """Head norms, rotation and the write into the pages; slot -1 writes nothing.

    A row that is not written puts back, at slot 0, what a written row puts there or what is there.
    """
    n_kv, size = k_cache.shape[2:]
    heads = qkv.view(qkv.shape[0], n_heads + 2 * n_kv, size)
    q, k, v = torch.split(heads, [n_heads, n_kv, n_kv], dim=1)
    if q_norm is not None and k_norm is not None:
        q, k = rms_norm(q, q_norm, eps), rms_norm(k, k_norm, eps)
    c, s = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
    k = _rotated(k, c, s)
    for cache, new in ((k_cache, k), (v_cache, v)):
        _write(cache.view(-1, n_kv, size), slots, new.to(cache.dtype))
    return _rotated(q, c, s)


def _write(flat: torch.Tensor, slots: torch.Tensor, rows: torch.Tensor) -> None:
    at = slots.long()
    at_zero = (at == 0)[:, None, None]
    kept = torch.where(at_zero.any(), torch.where(at_zero, rows, 0).sum(0), flat[0])
    flat.index_copy_(
        0, at.clamp(min=0), torch.where((at > 0)[:, None, None], rows, kept.to(flat.dtype))
    )


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def prefill_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    cu_q: torch.Tensor,
    kv_lens: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Causal attention over gathered pages, a sequence at a time; lengths are read by the host.

    A prompt without a prefix is causal by name and not by a mask, for which torch has its fastest
    kernels (cuDNN, flash); groups of query heads share their keys without a copy.
    """
    out = torch.empty_like(q)
    page = k_cache.shape[1]
    starts = cu_q.tolist()
    for seq, length in enumerate(kv_lens.tolist()):
        first, last = starts[seq], starts[seq + 1]
        if first == last:
            continue
        pages = page_table[seq, : -(-length // page)].long()
        k, v = (cache[pages].flatten(0, 1)[:length].transpose(0, 1) for cache in (k_cache, v_cache))
        cold = last - first == length
        attended = functional.scaled_dot_product_attention(
            q[first:last].transpose(0, 1)[None],
            k[None].to(q.dtype),
            v[None].to(q.dtype),
            attn_mask=None if cold else _seen(last - first, length, q.device),
            is_causal=cold,
            scale=scale,
            enable_gqa=True,
        )
        out[first:last] = attended[0].transpose(0, 1)
    return out


def _seen(new: int, length: int, device: torch.device) -> torch.Tensor:
    """Which of `length` keys each of the last `new` tokens attends to, bool (new, length)."""
    at = torch.arange(length - new, length, device=device)
    return torch.arange(length, device=device)[None, :] <= at[:, None]


def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    kv_lens: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attention of one token a sequence over its whole page table, masked; zeros at length 0."""
    n_kv = k_cache.shape[2]
    grouped = q.view(q.shape[0], n_kv, -1, q.shape[2]).float()
    pages = page_table.long().clamp(min=0)
    k, v = (cache[pages].flatten(1, 2).float() for cache in (k_cache, v_cache))
    live = torch.arange(k.shape[1], device=q.device)[None, :] < kv_lens[:, None]
    scores = torch.einsum("bhgd,bnhd->bhgn", grouped, k) * scale
    probs = scores.masked_fill(~live[:, None, None], float("-inf")).softmax(-1)
    probs = torch.where(live[:, None, None], probs, 0.0)
    # What was never written may be NaN, and zero times NaN is not zero.
    v = torch.where(live[:, :, None, None], v, 0.0)
    return torch.einsum("bhgn,bnhd->bhgd", probs, v).reshape(q.shape).to(q.dtype)


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """Ids of the largest logits."""
    return torch.argmax(logits, dim=-1).to(torch.int32)


OPS: Mapping[str, Implementation] = {
    "embed_norm": embed_norm,
    "quantise_rows": quantise_rows,
    "rope_kv": rope_kv,
    "prefill_attention": prefill_attention,
    "decode_attention": decode_attention,
    "greedy": greedy,
    **dict.fromkeys(PRODUCTS, product),
}
"""The function of each operation, by its name."""
