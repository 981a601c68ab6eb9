"""Whether weights and slots fit, counted before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from chipmark.errors import DoesNotFitError

_WORK_BYTES = 300_000_000
"""Activations, logits, tables and the copy of one tensor while it is stored anew."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a cell wants. weight_bytes and bytes_per_token over all layers."""

    weight_bytes: int
    bytes_per_token: int
    n_slots: int
    reserved: int
    max_context: int
    model_context: int

    @property
    def kv_bytes(self) -> int:
        """Bytes of all slots."""
        return self.n_slots * self.max_context * self.bytes_per_token


def check_fit(need: Need, free: int | None, device: str) -> None:
    """Raise DoesNotFitError that says what would fit; `free` None means nobody knows."""
    if need.max_context > need.model_context:
        raise DoesNotFitError(
            f"a context of {need.max_context} tokens is beyond the model's {need.model_context}",
            f"choose a smaller scale, or a profile of at most {need.model_context} tokens",
        )
    if free is None or need.weight_bytes + need.kv_bytes + _WORK_BYTES <= free:
        return
    message = (
        f"{device}: weights of {_gb(need.weight_bytes)}, KV of {_gb(need.kv_bytes)} "
        f"({need.n_slots} slots of {need.max_context} tokens) and {_gb(_WORK_BYTES)} of working "
        f"memory do not fit into {_gb(free)}"
    )
    room = free - need.weight_bytes - _WORK_BYTES
    tokens = max(0, room) // need.bytes_per_token
    slots = tokens // need.max_context
    context = tokens // need.n_slots
    if context < 1:
        raise DoesNotFitError(message, "the weights alone leave no room; choose a smaller model")
    fits = [f"a context of {context} tokens at {need.n_slots - need.reserved} sequences"]
    if slots > need.reserved:
        fits.append(f"{slots - need.reserved} sequences at {need.max_context} tokens")
    raise DoesNotFitError(message, "would fit: " + ", or ".join(fits))


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
