"""What follows from a row's times by arithmetic alone; no torch, so that a file can be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def derive(row: dict[str, Any], roofs: Mapping[str, Any] | None) -> None:
    """Rates, the fraction of the roof and the best peer of a timed row, from what was measured.

    A peer counts whose results were checked and which was timed.
    """
    time = row.get("time") or {}
    seconds = (time.get("ours") or {}).get("median_s")
    if seconds is None:
        return
    row["bytes_per_s"], row["flops_per_s"] = row["bytes"] / seconds, row["flops"] / seconds
    roof, rate = None, None
    if row["bound"] == "memory":
        roof, rate = "copy_bytes_per_s", row["bytes_per_s"]
    elif row["bound"] == "matrix":
        roof, rate = f"{row['rate']}_flops", row["flops_per_s"]
    limit = (roofs or {}).get(roof) if roof else None
    row["roof"], row["fraction_of_roof"] = roof, rate / limit if rate and limit else None
    peers = {n: p["median_s"] for n, p in time.get("peers", {}).items() if "median_s" in p}
    row["best_peer"] = min(peers, key=lambda n: peers[n]) if peers else None
    row["time_of_best_peer"] = seconds / peers[row["best_peer"]] if peers else None
