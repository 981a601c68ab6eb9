"""The column `power_beside`: what the meters next to a row's own read, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from chipmark.results.record import Record

_WORDS = {
    "package": "host package",
    "memory": "host memory",
    "node_dc": "node (DC side)",
}
"""Scopes whose bare name does not tell whose they are; the others stand as they are."""

_MARKS = {"assumed": "~", "declared": "≤"}
"""Before watts that no meter read: an assumption, and the most that a unit draws."""


def power_beside(record: Record) -> str | None:
    """`host package 41.2 W; wall 310 W`: each meter next to the row's by what it covers, with its
    name where two cover the same (the row's own is one), and the code of the null where it has no
    watts. None where there is none."""
    entries = record.metrics.energy.get("beside") or []
    if not entries:
        return None
    scopes = Counter(entry["scope"] for entry in entries)
    if (own := record.manifest.meter) is not None:
        scopes[own.scope] += 1
    return "; ".join(_text(entry, alone=scopes[entry["scope"]] == 1) for entry in entries)


def _text(entry: Mapping[str, Any], *, alone: bool) -> str:
    scope = entry["scope"]
    label = _WORDS.get(scope, scope) if alone else f"{_WORDS.get(scope, scope)} {entry['name']}"
    watts = entry.get("power_w")
    if watts is None:
        return f"{label}: {entry.get('null_reason') or 'unknown'}"
    return f"{label} {_MARKS.get(entry['source'], '')}{_watts(watts)} W"


def _watts(value: float) -> str:
    """Tenths from ten watts on, three digits below: no power is written as a zero."""
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"
