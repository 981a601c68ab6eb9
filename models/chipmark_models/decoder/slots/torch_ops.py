"""Plain torch implementations of the decoder's operations, right on every torch device.

Shapes: T tokens of a launch (rows one after another), H hidden size, Hq query heads, Hk key-value
heads, G = Hq / Hk, D head size. Activations are float32 on a CPU (its weights are widened as they
are read) and the weights' type elsewhere; norms and softmax compute in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as functional

from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.slots.kv import Span
from chipmark_models.decoder.slots.linear import Linear

_ZERO = torch.zeros(1)


def embed(table: torch.Tensor, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows of `table` (vocab, H) as activations (T, H)."""
    return table.index_select(0, ids).to(dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; the mean in float32."""
    if x.dim() == 2 and x.shape[0] == 1 and x.dtype == torch.float32 and x.device.type == "cpu":
        # One row: three calls in place of seven. Between matrices that flush the caches, a call
        # of a few hundred numbers costs tens of microseconds.
        row = x.view(-1)
        scale = (torch.dot(row, row).item() / row.shape[0] + eps) ** -0.5
        return torch.addcmul(_ZERO, x, weight, value=scale)
    wide = x if x.dtype == torch.float32 else x.float()
    inverse: torch.Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
    inverse = inverse.div_(x.shape[-1]).add_(eps).rsqrt_()
    return (wide * inverse).to(x.dtype).mul_(weight)


def qkv(x: torch.Tensor, weight: Linear) -> torch.Tensor:
    """Queries, keys and values of all heads side by side, (T, (Hq + 2 Hk) D)."""
    return weight(x)


def qk_norm_rope(
    heads: torch.Tensor,
    n_query: int,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> None:
    """Norm (Qwen3) and rotate query and key heads (T, Hq + Hk, D) in place; halves are the pairs.

    cos, sin: (T, 1, D), the first half of sin with its sign turned.
    """
    n_tokens, n_heads, size = heads.shape
    if q_norm is not None and k_norm is not None:
        n_key = n_heads - n_query
        for first, count, norm in ((0, n_query, q_norm), (n_query, n_key, k_norm)):
            part = heads.narrow(1, first, count)
            part.copy_(rms_norm(part, norm, eps))
    turned = heads.view(n_tokens, n_heads, 2, size // 2).flip(2)
    heads.mul_(cos).addcmul_(turned.view(n_tokens, n_heads, size), sin)


def kv_write(kv_cache: torch.Tensor, kv: torch.Tensor, spans: Sequence[Span]) -> None:
    """Put kv (T, 2 Hk, D) at each row's positions of its slot (slots, 2 Hk, context, D)."""
    for span in spans:
        slot = kv_cache.select(0, span.slot)
        if span.length == 1:
            slot.select(1, span.start).copy_(kv.select(0, span.first))
        else:
            rows = kv.narrow(0, span.first, span.length).transpose(0, 1)
            slot.narrow(1, span.start, span.length).copy_(rows)


def prefill_attention(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    spans: Sequence[Span],
    masks: Sequence[torch.Tensor | None],
) -> torch.Tensor:
    """Causal attention of q (T, Hq, D) over each row's cached tokens, (T, Hq D).

    A key-value head is read as a batch of its own with G query heads, so nothing is repeated.
    `masks`: additive (length, end), None where a row starts at zero.
    """
    n_heads, size = q.shape[1:]
    n_kv = kv_cache.shape[1] // 2
    group = n_heads // n_kv
    outs = []
    for span, mask in zip(spans, masks, strict=True):
        rows = q[span.first : span.first + span.length]
        queries = rows.view(span.length, n_kv, group, size).permute(1, 2, 0, 3)
        k, v = kv_cache[span.slot, :, : span.end].to(q.dtype).chunk(2)
        out = functional.scaled_dot_product_attention(
            queries,
            k.unsqueeze(1).expand(n_kv, group, span.end, size),
            v.unsqueeze(1).expand(n_kv, group, span.end, size),
            attn_mask=mask,
            is_causal=mask is None and span.length > 1,
        )
        outs.append(out.permute(2, 0, 1, 3).reshape(span.length, n_heads * size))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def decode_attention(
    q: torch.Tensor, kv_cache: torch.Tensor, spans: Sequence[Span]
) -> torch.Tensor:
    """Attention of one new token a row, q (T, Hq, D), over its slot; (T, Hq D).

    The G query heads of a key-value head are the rows of one product, so each cached row is read
    once, in place. Tried on two cores of an AMD Zen 3 with SmolLM2's heads, caches cold, and left
    out, microseconds a layer at 512 and 1,500 keys: this in bf16 80-86 and 216, in float32 93-103
    and 255-278 (so 16-bit KV stays 16-bit); cut along the context into 2 or 4 parts that are
    merged by their log-sums, for cores without a head, 146 and 243; one product for all heads by a
    block-diagonal query 163 and 407; float16 KV 275 and 773; a query head at a time, the key-value
    head expanded, 385 and 1,150 (one row is a product that torch does not vectorise in bf16).
    """
    n_heads, size = q.shape[1:]
    n_kv = kv_cache.shape[1] // 2
    grouped = q.to(kv_cache.dtype).view(len(spans), 1, n_kv, n_heads // n_kv, size)
    outs = []
    for row, span in enumerate(spans):
        k, v = kv_cache.narrow(0, span.slot, 1).narrow(2, 0, span.end).chunk(2, 1)
        # As fast as two products and a softmax in fp32 (512 to 4,096 keys), and one call.
        out = functional.scaled_dot_product_attention(grouped[row], k, v)
        outs.append(out.reshape(1, n_heads * size))
    joined = outs[0] if len(outs) == 1 else torch.cat(outs)
    return joined.to(q.dtype)


def out_add(residual: torch.Tensor, x: torch.Tensor, weight: Linear) -> torch.Tensor:
    """Output projection added to the residual (T, H), in its memory."""
    return weight.add_to(residual, x)


def gate_up_swiglu(x: torch.Tensor, weight: Linear) -> torch.Tensor:
    """silu(gate) * up of one product that holds both, (T, intermediate)."""
    both = weight(x)
    width = both.shape[-1] // 2
    return functional.silu(both.narrow(1, 0, width)).mul_(both.narrow(1, width, width))


def down_add(residual: torch.Tensor, x: torch.Tensor, weight: Linear) -> torch.Tensor:
    """Down projection added to the residual (T, H), in its memory."""
    return weight.add_to(residual, x)


def head(x: torch.Tensor, weight: Linear) -> torch.Tensor:
    """Logits (rows, vocab) of final hidden states (rows, H)."""
    return weight(x)


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """Ids of the largest logits, int64 (rows,); the lowest id of equals on a CPU."""
    return torch.argmax(logits, dim=-1)


OPS: Mapping[str, Implementation] = {
    "embed": embed,
    "rms_norm": rms_norm,
    "qkv": qkv,
    "qk_norm_rope": qk_norm_rope,
    "kv_write": kv_write,
    "prefill_attention": prefill_attention,
    "decode_attention": decode_attention,
    "out_add": out_add,
    "gate_up_swiglu": gate_up_swiglu,
    "down_add": down_add,
    "head": head,
    "greedy": greedy,
}
"""The function of each operation, by its name."""
