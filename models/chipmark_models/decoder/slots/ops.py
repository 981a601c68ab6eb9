"""The operations of the decoder over slots."""

from __future__ import annotations

from dataclasses import dataclass

from chipmark_models.decoder.op_table import Implementation, OpTable


@dataclass(frozen=True, slots=True)
class SlotOps:
    """One implementation of each operation; signatures as in `torch_ops`."""

    embed: Implementation
    rms_norm: Implementation
    qkv: Implementation
    qk_norm_rope: Implementation
    kv_write: Implementation
    prefill_attention: Implementation
    decode_attention: Implementation
    out_add: Implementation
    gate_up_swiglu: Implementation
    down_add: Implementation
    head: Implementation
    greedy: Implementation


TABLE = OpTable(SlotOps, {"torch": "chipmark_models.decoder.slots.torch_ops"})
"""What computes each operation."""
