"""Query and key norm, rotary positions and the cache write in plain torch."""

from __future__ import annotations

import torch

from chipmark_kernels.dtypes import wide_dtype


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = wide_dtype(x)
    t = x.to(wide)
    normed = (t * torch.rsqrt(t.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return (normed.to(wide) * weight.to(wide)).to(x.dtype)


def _rotate(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool
) -> torch.Tensor:
    half = x.shape[-1] // 2
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    c, s = cos[:, None, :], sin[:, None, :]
    turned = (a * c - b * s, b * c + a * s)
    return torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)


def qknorm_rope_kvwrite_reference(
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
    eps: float = 1e-6,
    interleaved: bool = False,
) -> torch.Tensor:
    """As `chipmark_kernels.rope_kv.qknorm_rope_kvwrite`; float64 is computed in float64."""
    wide = wide_dtype(qkv)
    page, n_kv_heads, head_dim = k_cache.shape[1:]
    heads = qkv.view(qkv.shape[0], n_heads + 2 * n_kv_heads, head_dim)
    q, k, v = heads.split((n_heads, n_kv_heads, n_kv_heads), dim=1)
    if q_norm is not None and k_norm is not None:
        q, k = _norm(q, q_norm, eps), _norm(k, k_norm, eps)
    c, s = cos[positions.long()].to(wide), sin[positions.long()].to(wide)
    q = _rotate(q.to(wide), c, s, interleaved).to(qkv.dtype)
    k = _rotate(k.to(wide), c, s, interleaved).to(qkv.dtype)
    kept = slots.long() >= 0
    slot = slots.long()[kept]
    k_cache[slot // page, slot % page] = k[kept].to(k_cache.dtype)
    v_cache[slot // page, slot % page] = v[kept].to(v_cache.dtype)
    return q
