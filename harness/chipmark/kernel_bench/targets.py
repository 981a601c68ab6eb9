"""Which targets of targets.toml a row has, and whether it meets them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from chipmark.chips.nvml import HARDWARE, THERMAL
from chipmark.kernel_bench.document import Row, failed
from chipmark.kernel_bench.selection import Peers

TABLE = Path(__file__).with_suffix(".toml")
UNFIT = (*THERMAL, *HARDWARE)
"""Throttle reasons that spoil a time. A power cap is the card as it is sold: it is reported, not
refused."""

MOST_OF_ROOF = 1.05
"""A copy reads and writes, so what only reads may pass it a little; more is not believed."""

State = Literal["met", "missed", "not judged"]


@dataclass(frozen=True, slots=True)
class Target:
    """One rule of the table. at_least, at_most: what a row's sizes must be for it to hold."""

    name: str
    kernels: tuple[str, ...]
    metric: str
    limit: float
    at_least: Mapping[str, float]
    at_most: Mapping[str, float]

    def holds_for(self, row: Row) -> bool:
        """Whether the row is one that this target speaks of."""
        size = {**row["size"], "bytes": row["bytes"]}
        return (
            bool({"*", row["kernel"]} & set(self.kernels))
            and all(size.get(name, 0) >= least for name, least in self.at_least.items())
            and all(name in size and size[name] <= most for name, most in self.at_most.items())
        )

    def met_by(self, value: float) -> bool:
        """Times have a largest good value, fractions a smallest."""
        return value >= self.limit if self.metric == "fraction_of_roof" else value <= self.limit

    def text(self) -> str:
        """The limit as the verdict table shows it."""
        if self.metric == "time_s":
            return f"<= {self.limit * 1e6:g} us"
        if self.metric == "fraction_of_roof":
            return f">= {self.limit:.0%} of roof"
        return f"<= {self.limit:g} x peer"


@dataclass(frozen=True, slots=True)
class TargetJudgement:
    """A target and what a row makes of it; `reason` where it is not judged."""

    target: Target
    value: float | None
    state: State
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """For the row in the file."""
        target = {k: v for k, v in asdict(self.target).items() if k in ("name", "metric", "limit")}
        return target | {"value": self.value, "state": self.state, "reason": self.reason}


@cache
def read_targets(path: Path = TABLE) -> tuple[Target, ...]:
    """The table, in its order."""
    rules = tomllib.loads(path.read_text(encoding="utf-8"))["target"]
    return tuple(
        Target(
            rule["name"], tuple(rule["kernels"]), rule["metric"], float(rule["limit"]),
            rule.get("at_least", {}), rule.get("at_most", {}),
        )
        for rule in rules
    )  # fmt: skip


def judge(row: Row, targets: Sequence[Target]) -> list[TargetJudgement]:
    """Every target that holds for the row, met, missed or not judged and why."""
    found = []
    for target in targets:
        if target.holds_for(row):
            value, reason = _value(row, target.metric)
            if value is None or reason:
                found.append(TargetJudgement(target, value, "not judged", reason))
            else:
                state: State = "met" if target.met_by(value) else "missed"
                found.append(TargetJudgement(target, value, state))
    return found


def _value(row: Row, metric: str) -> tuple[float | None, str]:
    """The row's figure for a metric, and why it must not be judged, "" where it may."""
    time = row.get("time") or {}
    seconds = (time.get("ours") or {}).get("median_s")
    if failed(row):
        return None, "failed"
    if reason := row.get("parity", {}).get("left_out"):
        return None, str(reason)
    if seconds is None:
        return None, "not timed yet"
    value = seconds if metric == "time_s" else row.get(metric)
    if value is None:
        missing = {
            "fraction_of_roof": f"{row.get('roof') or 'no roof'} was not measured on this card",
            "time_of_best_peer": "not timed next to its peers yet"
            if time.get("done") == Peers.NONE
            else "no peer here computes the same",
        }
        return None, missing[metric]
    if unfit := [reason for reason in row.get("throttled", ()) if reason in UNFIT]:
        return value, f"throttled: {', '.join(unfit)}"
    if metric == "fraction_of_roof" and value > MOST_OF_ROOF:
        return value, "over the roof: one of the two is measured wrong"
    if metric == "fraction_of_roof" and row["bound"] == "memory" and not time.get("cold_l2"):
        return value, "inputs lie in the L2"
    return value, ""
