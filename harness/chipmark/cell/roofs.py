"""The probes of the machine's roofs that bracket each repeat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chipmark.cell.parent import ChildProcess
from chipmark.results.manifest import Probes

PROBE_LIMIT_S = 180.0


def working_set_bytes(weight_bytes: int, kv_bytes: int, kv_tokens: int, live_tokens: int) -> int:
    """Bytes that a decode launch reads: the weights, and KV of the tokens that are live."""
    if kv_tokens <= 0:
        return weight_bytes
    return weight_bytes + kv_bytes * min(live_tokens, kv_tokens) // kv_tokens


def probe(child: ChildProcess, read_bytes: int, precision: str) -> dict[str, Any]:
    """Read bandwidth (`read`, bytes/s) and matrix rate (`matmul`, FLOP/s) now."""
    return child.ask("probe", PROBE_LIMIT_S, read_bytes=read_bytes, precision=precision)


def bracket(
    read_bytes: int, before: Mapping[str, Any], after: Mapping[str, Any], llc_bytes: int | None
) -> Probes:
    """The two probes around a repeat."""
    return Probes(
        read_bytes=read_bytes,
        read_before=before["read"],
        read_after=after["read"],
        matmul_before=before["matmul"],
        matmul_after=after["matmul"],
        llc_bytes=llc_bytes,
        start_s=before["start_s"],
        end_s=after["end_s"],
    )
