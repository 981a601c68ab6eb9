"""Whether as many bytes of weights are stored as the precision needs."""

from __future__ import annotations

from chipmark_models.config import ModelConfig
from chipmark_models.costs import weight_bytes_stored

SLACK = 0.01
"""Share of the bytes that may be missing: vectors that a provider keeps in another type."""


def too_few_weight_bytes(
    config: ModelConfig, precision: str, told: int, peak_bytes: int | None = None
) -> str:
    """A sentence where weights of `precision` do not fit into the bytes that were found, else "".

    told: what the backend says that it stores. peak_bytes: the largest memory of the process,
    where weights lie in it; None where they lie on a device.
    """
    need = weight_bytes_stored(config, precision) * (1 - SLACK)
    if told < need:
        return f"{told} bytes of weights are stored; {precision} of this model needs {need:.0f}"
    if peak_bytes is not None and peak_bytes < need:
        return f"the process never held the {need:.0f} bytes that {precision} weights need"
    return ""
