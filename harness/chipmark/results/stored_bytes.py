"""Whether as many bytes of weights and KV are stored as their precision needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chipmark_models.config import ModelConfig
from chipmark_models.costs import KV_BYTES, kv_bytes_per_token, weight_bytes_stored

SLACK = 0.01
"""Share of the bytes that may be missing: vectors that a provider keeps in another type."""


def too_few_weight_bytes(
    config: ModelConfig, precision: str, reported: int, peak_bytes: int | None = None
) -> str:
    """A sentence where weights of `precision` do not fit into the bytes that were found, else "".

    reported: what the backend reports as stored. peak_bytes: the largest memory of the process,
    where weights lie in it; None where they lie on a device.
    """
    need = weight_bytes_stored(config, precision) * (1 - SLACK)
    if reported < need:
        return f"{reported} bytes of weights are stored; {precision} of this model needs {need:.0f}"
    if peak_bytes is not None and peak_bytes < need:
        return f"the process never held the {need:.0f} bytes that {precision} weights need"
    return ""


def too_few_kv_bytes(config: ModelConfig, kv: str, reported: int, caps: Mapping[str, Any]) -> str:
    """A sentence where the tokens that a backend offers to hold do not fit into its KV, else "".

    caps: `engine.contract.Caps` as a dictionary; "" where it does not tell the tokens, or the type
    has no known size.
    """
    tokens = caps.get("n_pages", 0) * caps.get("page_tokens", 0)
    if caps.get("kv") == "slots":
        tokens = caps.get("n_slots", 0) * caps.get("max_context", 0)
    if kv not in KV_BYTES:
        return ""
    need = tokens * kv_bytes_per_token(config, kv) * (1 - SLACK)
    if reported < need:
        return f"{reported} bytes of KV are kept; {tokens} tokens in {kv} need {need:.0f}"
    return ""
