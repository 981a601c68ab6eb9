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
    row["roof"], row["fraction_of_roof"] = _share(row, roofs or {})
    peers = {n: p["median_s"] for n, p in time.get("peers", {}).items() if "median_s" in p}
    row["best_peer"] = min(peers, key=lambda n: peers[n]) if peers else None
    row["time_of_best_peer"] = seconds / peers[row["best_peer"]] if peers else None


def _share(row: Mapping[str, Any], roofs: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """The roof that bounds a row, and how much of it was reached; None where it is not known.

    "roofline" (S. Williams et al. 2009): of the device's read bandwidth and matrix rate the one
    that takes longer for the row's bytes and FLOPs. Both must be known, for either may bound.
    """
    matrix = f"{row['rate']}_flops"
    if row["bound"] == "roofline":
        needed = {"read_bytes_per_s": row["bytes_per_s"], matrix: row["flops_per_s"]}
        if not all(roofs.get(name) for name in needed):
            return None, None
        shares = {name: rate / roofs[name] for name, rate in needed.items()}
        roof = max(shares, key=lambda name: shares[name])
        if roof == "read_bytes_per_s" and not (row.get("time") or {}).get("cold_l2"):
            return roof, None  # read from a cache, whose roof it is not
        return roof, shares[roof]
    bounds = {"memory": ("copy_bytes_per_s", "bytes_per_s"), "matrix": (matrix, "flops_per_s")}
    if row["bound"] not in bounds:
        return None, None
    roof, rate = bounds[row["bound"]]
    limit = roofs.get(roof)
    return roof, row[rate] / limit if row[rate] and limit else None
