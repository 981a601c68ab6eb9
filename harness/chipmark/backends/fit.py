"""Whether weights and KV fit, counted before anything is allocated: one rule for every backend."""

from __future__ import annotations

from dataclasses import dataclass

from chipmark.errors import DoesNotFitError

WORK_BYTES = 300_000_000
"""Activations, logits, tables and the copy of one tensor while it is stored anew."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a cell wants.

    weight_bytes: as they lie on the device. bytes_per_token: of KV, over all layers. n_seqs:
    sequences that live at once, of at most max_context tokens. reserved: slots that hold prefixes
    in addition to theirs. kv_tokens: tokens of KV in all, 0 for a slot of max_context for each.
    model_context: the model's own limit.
    """

    weight_bytes: int
    bytes_per_token: int
    n_seqs: int
    max_context: int
    model_context: int
    reserved: int = 0
    kv_tokens: int = 0
    work_bytes: int = WORK_BYTES

    @property
    def kv_bytes(self) -> int:
        """Bytes of all KV."""
        tokens = self.kv_tokens or (self.n_seqs + self.reserved) * self.max_context
        return tokens * self.bytes_per_token


def check_fit(need: Need, free: int | None, device: str) -> None:
    """Raise DoesNotFitError that says what would fit; `free` None means unknown."""
    if need.max_context > need.model_context:
        raise DoesNotFitError(
            f"a context of {need.max_context} tokens is beyond the model's {need.model_context}",
            f"choose a smaller scale, or a profile of at most {need.model_context} tokens",
        )
    if free is None or need.weight_bytes + need.kv_bytes + need.work_bytes <= free:
        return
    held = (
        f"{need.kv_tokens} tokens in pages"
        if need.kv_tokens
        else f"{need.n_seqs + need.reserved} slots of {need.max_context} tokens"
    )
    message = (
        f"{device}: weights of {_gb(need.weight_bytes)}, KV of {_gb(need.kv_bytes)} "
        f"({held}) and {_gb(need.work_bytes)} of working memory do not fit into {_gb(free)}"
    )
    room = free - need.weight_bytes - need.work_bytes
    tokens = max(0, room) // need.bytes_per_token
    sequences = tokens // need.max_context - need.reserved
    context = tokens // (need.n_seqs + need.reserved)
    if context < 1:
        raise DoesNotFitError(message, "the weights alone leave no room; choose a smaller model")
    fits = [f"a context of {context} tokens at {need.n_seqs} sequences"]
    if sequences > 0:
        fits.append(f"{sequences} sequences at {need.max_context} tokens")
    raise DoesNotFitError(message, "would fit: " + ", or ".join(fits), sequences=max(0, sequences))


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
