"""Kernels of Liger and FlagGems, where they are installed, with the inputs of our cases.

The calls were read in liger_kernel 0.8.5 and flag_gems 5.0.2 and were never run on a device by this
code: one that fails is a row with its error, one that computes something else is shown as such, and
neither counts. Where a library has no one kernel for a case, what a user of it would call in turn
stands here; what it lacks is torch's.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch

from chipmark.kernel_bench.attention_cases import prepare_rope, split_heads
from chipmark.kernel_bench.case import Call, Case, Inputs, Peer, PreparedPeer
from chipmark.kernel_bench.measuring import clones

PACKAGES = {"liger": "liger_kernel", "flag_gems": "flag_gems"}


def installed() -> dict[str, str]:
    """The versions of those that are here, without importing them."""
    found = {}
    for name, package in PACKAGES.items():
        if importlib.util.find_spec(package) is not None:
            try:
                found[name] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[name] = "unknown version"
    return found


# Liger: autograd functions whose forward takes positional arguments only.


def _liger_swiglu(packed: torch.Tensor) -> Any:
    from liger_kernel.ops.swiglu import LigerFusedGateUpSiLUMulFunction

    return LigerFusedGateUpSiLUMulFunction.apply(packed)


def _liger_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> Any:
    if residual is None:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction

        return LigerRMSNormFunction.apply(x, weight, eps), x
    from liger_kernel.ops.fused_add_rms_norm import LigerFusedAddRMSNormFunction

    return LigerFusedAddRMSNormFunction.apply(x, residual, weight, eps)


def _liger_embedding(ids: Any, table: Any, weight: torch.Tensor, eps: float) -> Any:
    from liger_kernel.ops.experimental.embedding import LigerEmbeddingFunction

    hidden = LigerEmbeddingFunction.apply(table, ids)
    return hidden, _liger_norm(hidden, weight, eps)[0]


def _liger_rope(
    qkv: Any, cos: Any, sin: Any, positions: Any, slots: Any, k_cache: Any, v_cache: Any,
    q_norm: Any, k_norm: Any,
) -> Any:  # fmt: skip
    """It rotates q and k where they lie, (batch, heads, tokens, head_dim) as a view, by a row of
    cos a token; `rotary_dim` says that cos has half a head. The write is torch's."""
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction
    from liger_kernel.ops.rope import LigerRopeFunction

    q, k, v = split_heads(qkv, k_cache)
    if q_norm is not None:
        q = LigerRMSNormFunction.apply(q, q_norm, 1e-6)
        k = LigerRMSNormFunction.apply(k, k_norm, 1e-6)
    turned = (x[None].transpose(1, 2) for x in (q, k))
    q, k = LigerRopeFunction.apply(*turned, cos[positions], sin[positions], None, 1, q.shape[-1])
    for cache, written in ((k_cache, k.transpose(1, 2)[0]), (v_cache, v)):
        cache.flatten(0, 1).index_copy_(0, slots, written)
    return q.transpose(1, 2)[0], k_cache[:-1], v_cache[:-1]


# FlagGems: functions of the package, named and ordered as torch's.


def _gems_swiglu(packed: torch.Tensor) -> Any:
    import flag_gems

    return flag_gems.silu_and_mul(*packed.chunk(2, -1))


def _gems_packed_swiglu(packed: torch.Tensor) -> Any:
    import flag_gems

    return flag_gems.swiglu(packed)


def _gems_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> Any:
    import flag_gems

    if residual is None:
        return flag_gems.rms_norm(x, [x.shape[1]], weight, eps), x
    # It writes into both inputs, as serving engines call it; so it has copies of its own.
    return flag_gems.fused_add_rms_norm(x, residual, [x.shape[1]], weight, eps)


def _gems_embedding(ids: Any, table: Any, weight: torch.Tensor, eps: float) -> Any:
    import flag_gems

    hidden = flag_gems.embedding(table, ids)
    return hidden, flag_gems.rms_norm(hidden, [hidden.shape[1]], weight, eps)


def _gems_rope(
    qkv: Any, cos: Any, sin: Any, positions: Any, slots: Any, k_cache: Any, v_cache: Any,
    q_norm: Any, k_norm: Any,
) -> Any:  # fmt: skip
    import flag_gems

    q, k, v = split_heads(qkv, k_cache)
    if q_norm is not None:
        q = flag_gems.rms_norm(q, [q.shape[-1]], q_norm, 1e-6)
        k = flag_gems.rms_norm(k, [k.shape[-1]], k_norm, 1e-6)
    q, k = flag_gems.apply_rotary_pos_emb(q, k, cos, sin, positions)
    flag_gems.reshape_and_cache_flash(k, v, k_cache, v_cache, slots, "auto", None, None)
    return q, k_cache, v_cache


def _gems_decode(q: Any, k: Any, v: Any, table: Any, lens: Any, scale: float, longest: int) -> Any:
    import flag_gems

    starts = torch.arange(q.shape[0] + 1, dtype=torch.int32, device=q.device)
    return flag_gems.flash_attn_varlen_func(
        q, k, v, 1, starts, longest, seqused_k=lens, softmax_scale=scale, causal=True,
        block_table=table,
    )  # fmt: skip


def _gems_prefill(
    q: Any, k: Any, v: Any, table: Any, cu_q: Any, lens: Any, scale: float, longest: int
) -> Any:
    import flag_gems

    return flag_gems.flash_attn_varlen_func(
        q, k, v, q.shape[0], cu_q, longest, seqused_k=lens, softmax_scale=scale, causal=True,
        block_table=table,
    )  # fmt: skip


def _with_longest(inputs: Inputs) -> Inputs:
    """The host's own number of tokens, which its interface asks for."""
    return *inputs, int(inputs[-2].max())


def _gems_product(
    x: torch.Tensor, norm: Any, residual: Any, weight: torch.Tensor, *, swiglu: bool
) -> Any:
    import flag_gems

    if norm is not None:
        x = flag_gems.rms_norm(x, [x.shape[1]], norm, 1e-6)
    return _gems_ended(flag_gems.mm(x, weight.T), residual, swiglu=swiglu)


def _gems_fp8(
    x: Any, x_scales: Any, w: Any, w_scales: Any, residual: Any, to: Any, *, swiglu: bool
) -> Any:
    import flag_gems

    out = torch.empty(x.shape[0], w.shape[0], dtype=to, device=x.device)
    flag_gems.cutlass_scaled_mm(out, x, w.T, x_scales[:, None], w_scales[None, :])
    return _gems_ended(out, residual, swiglu=swiglu)


def _gems_ended(y: torch.Tensor, residual: Any, *, swiglu: bool) -> Any:
    import flag_gems

    if swiglu:
        y = flag_gems.silu_and_mul(*y.chunk(2, -1))
    return y if residual is None else flag_gems.add(residual, y)


def _gems_argmax(logits: torch.Tensor) -> Any:
    import flag_gems

    return flag_gems.argmax(logits, dim=-1)


def _product(call: Call) -> Callable[[Case], Peer]:
    """The call with the ending of the case's product."""

    def of(case: Case) -> Peer:
        return lambda *inputs: call(*inputs, swiglu=case.swiglu)

    return of


def _plain(call: Call) -> Callable[[Case], Peer]:
    return lambda _: call


def _prepared(prepare: Callable[[Inputs], Inputs], call: Call) -> Callable[[Case], Peer]:
    return lambda _: PreparedPeer(prepare, call)


_PEERS: Mapping[str, Mapping[str, Mapping[str, Callable[[Case], Peer]]]] = {
    "liger": {
        "swiglu": {"liger": _plain(_liger_swiglu)},
        "rmsnorm": {"liger": _plain(_liger_norm)},
        "embedding_rmsnorm": {"liger": _plain(_liger_embedding)},
        "qknorm_rope_kvwrite": {"liger + torch": _prepared(prepare_rope, _liger_rope)},
    },
    "flag_gems": {
        "swiglu": {
            "flag_gems": _plain(_gems_swiglu),
            "flag_gems packed": _plain(_gems_packed_swiglu),
        },
        "rmsnorm": {"flag_gems": _prepared(clones, _gems_norm)},
        "embedding_rmsnorm": {"flag_gems": _plain(_gems_embedding)},
        "qknorm_rope_kvwrite": {"flag_gems": _plain(_gems_rope)},
        "decode_attention": {"flag_gems": _prepared(_with_longest, _gems_decode)},
        "prefill_attention": {"flag_gems": _prepared(_with_longest, _gems_prefill)},
        "skinny_gemm": {"flag_gems": _product(_gems_product)},
        "dense_gemm_hopper": {"flag_gems": _product(_gems_product)},
        "fp8_gemm": {"flag_gems": _product(_gems_fp8)},
        "sample": {"flag_gems": _plain(_gems_argmax)},
    },
}


def optional_peers(case: Case) -> dict[str, Peer]:
    """Calls of the installed libraries with the inputs of the case."""
    if case.kernel == "sample" and not case.name.endswith("greedy"):
        return {}  # their draws have noise of their own
    found: dict[str, Peer] = {}
    for library in installed():
        for name, make in _PEERS[library].get(case.kernel, {}).items():
            found[name] = make(case)
    return found
