"""Bytes that a cell moves beyond what its model reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Bytes moved since it was last taken: to the device, from it, and of KV inside one memory."""

    h2d_bytes: int = 0
    d2h_bytes: int = 0
    kv_copied_bytes: int = 0
