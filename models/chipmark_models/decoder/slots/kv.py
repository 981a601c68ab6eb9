"""Keys and values of cached tokens, in slots: a sequence has one slot of a fixed length.

Slots and not pages, because a CPU and plain torch read a slot where it lies, while pages would
have to be gathered, which copies the cache every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Span:
    """One row of a launch: tokens at positions start..end of a slot."""

    slot: int
    """The slot of its sequence."""

    start: int
    """Position of its first token."""

    length: int
    """Its tokens."""

    first: int
    """Its first token among the launch's tokens."""

    @property
    def end(self) -> int:
        """Tokens in the slot after this launch."""
        return self.start + self.length


def slot_bytes(
    n_layers: int, n_kv_heads: int, head_dim: int, max_context: int, item_bytes: int
) -> int:
    """Bytes of one slot over all layers."""
    return 2 * n_layers * n_kv_heads * head_dim * max_context * item_bytes


class SlotKv:
    """`layers[i]`: (n_slots, 2 n_kv_heads, max_context, head_dim), heads of keys, then of values.

    One tensor holds both, so that one copy writes them: at one row, a call on a few hundred numbers
    costs more than its work. Allocated once. On a CPU the memory becomes resident only where tokens
    are written; rows that were never written are never read. On other devices it is set to zero.
    """

    def __init__(
        self,
        n_layers: int,
        n_slots: int,
        n_kv_heads: int,
        max_context: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (n_slots, 2 * n_kv_heads, max_context, head_dim)
        make = torch.empty if device.type == "cpu" else torch.zeros
        self.layers = [make(shape, dtype=dtype, device=device) for _ in range(n_layers)]
        self.bytes_per_token = 2 * n_layers * n_kv_heads * head_dim * dtype.itemsize

    @property
    def n_bytes(self) -> int:
        """Bytes allocated."""
        return sum(t.numel() * t.element_size() for t in self.layers)

    @torch.inference_mode()
    def copy(self, src: int, dst: int, length: int) -> int:
        """Copy the first `length` tokens of a slot to another; bytes copied."""
        for cache in self.layers:
            cache[dst, :, :length].copy_(cache[src, :, :length])
        return length * self.bytes_per_token
