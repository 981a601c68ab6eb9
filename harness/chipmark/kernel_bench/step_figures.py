"""What follows from the times of whole steps by arithmetic alone, and the sentence on each target.

No torch, so that a file can be shown anywhere. A measured part is a mapping with `part`, `model`,
`precision`, `rows`, `context` (prefill: `new` too), `card` and, by contestant, `parity` and `time`.
"""

from __future__ import annotations

import math
import statistics
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from chipmark.chips.catalogue import catalogue
from chipmark_models import costs
from chipmark_models.config import ModelConfig
from chipmark_models.precision import precision_named

TABLE = Path(__file__).with_name("step_targets.toml")
CACHES = 4
"""Bytes of a step must be this many times the device's cache for a share of bandwidth."""

GPT_FAST = "gpt-fast"
_UNITS = {
    "mbu_nameplate": "of nameplate bandwidth",
    "tok_s": "tok/s",
    "tflops": "TFLOP/s",
    "over_gpt_fast": "x gpt-fast",
    "over_bf16": "x bf16",
}
State = Literal["met", "missed", "not measured"]
Measured = Mapping[str, Any]


def step_bytes(config: ModelConfig, precision: str, rows: int, context: int) -> float:
    """Bytes that a decode step must move: weights once, of every row context - 1 cached tokens
    read and one written (DEFINITIONS of `mbu`, no prefix shared)."""
    kv = precision_named(precision).kv
    weights = costs.weight_bytes_per_launch(config, precision, rows)
    return weights + costs.kv_bytes_per_token(config, kv) * rows * context


def card_facts(device_name: str, l2_bytes: int | None) -> dict[str, Any]:
    """The card and the catalogue's GB/s and dense 16-bit TFLOP/s of it; None where unknown."""
    entry = catalogue().chip_named("NVIDIA", device_name)
    return {
        "device": device_name,
        "bandwidth_gb_s": None if entry is None else entry.bandwidth.value,
        "rate_tflops": None if entry is None else entry.rate_16bit.value,
        "l2_bytes": l2_bytes,
    }


def decode_figures(
    samples_s: Sequence[float],
    n_bytes: float,
    rows: int,
    card: Measured,
    read_bytes_s: float | None,
) -> dict[str, Any]:
    """Median, tokens a second and shares of bandwidth of a step's samples. `mbu` is of the read
    rate measured in the same run; shares are None, with `mbu_reason`, where they mean nothing."""
    median = statistics.median(samples_s)
    rate = n_bytes / median
    l2, nameplate = card.get("l2_bytes"), card.get("bandwidth_gb_s")
    cold = l2 is not None and n_bytes >= CACHES * l2
    reason = ""
    if l2 is None:
        reason = "the device tells no cache size"
    elif not cold:
        reason = f"the step's {n_bytes / 1e6:.0f} MB are under {CACHES} x its cache"
    return {
        "median_s": median,
        "samples_s": list(samples_s),
        "tok_s": rows / median,
        "bytes": n_bytes,
        "bytes_s": rate,
        "mbu_nameplate": rate / (nameplate * 1e9) if cold and nameplate else None,
        "mbu": rate / read_bytes_s if cold and read_bytes_s else None,
        "mbu_reason": reason,
    }


def prefill_figures(
    samples_s: Sequence[float], flops: int, new: int, card: Measured, matrix_flops: float | None
) -> dict[str, Any]:
    """Median, rate and share of the dense rate (nameplate, and measured in the same run)."""
    median = statistics.median(samples_s)
    nameplate = card.get("rate_tflops")
    return {
        "median_s": median,
        "samples_s": list(samples_s),
        "tok_s": new / median,
        "flops": flops,
        "tflops": flops / median / 1e12,
        "mfu_nameplate": flops / median / (nameplate * 1e12) if nameplate else None,
        "mfu": flops / median / matrix_flops if matrix_flops else None,
    }


def paired_ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Their time over ours, round by round: over 1 we are faster. The median of the ratios, and
    the smallest and largest."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


@dataclass(frozen=True, slots=True)
class StepTarget:
    """One rule of step_targets.toml, whose head explains the fields."""

    name: str
    model: str
    metric: str
    limit: float
    part: str = "decode"
    precision: str = "bf16"
    rows: int = 1
    context: int = 1_024
    new: int = 1
    nameplate: Mapping[str, float] | None = None

    def limit_on(self, card: Measured) -> float | None:
        """The limit scaled to a card; None where the catalogue does not know its nameplate."""
        limit = self.limit
        for key, value in (self.nameplate or {}).items():
            if not card.get(key):
                return None
            limit *= card[key] / value
        return limit

    def speaks_of(self, part: Measured) -> bool:
        """Whether a measured part is of this target's point."""
        return all(
            part.get(key) == getattr(self, key)
            for key in ("part", "model", "precision", "rows", "context", "new")
        )


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """A target and what was measured of it. value: of the fastest contestant that is right, whose
    name is `by`."""

    target: StepTarget
    state: State
    value: float | None
    limit: float
    by: str
    reason: str

    @property
    def sentence(self) -> str:
        """As people read it."""
        unit = _UNITS[self.target.metric]
        share = self.target.metric == "mbu_nameplate"
        limit = f"{self.limit:.0%}" if share else f"{self.limit:,.4g}"
        if self.value is None:
            return f"{self.target.name}: at least {limit} {unit}: not measured ({self.reason})"
        value = f"{self.value:.1%}" if share else f"{self.value:,.4g}"
        return f"{self.target.name}: {value} {unit} by {self.by}, at least {limit}: {self.state}"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "target": self.target.name, "metric": self.target.metric, "state": self.state,
            "value": self.value, "limit": self.limit, "by": self.by, "reason": self.reason,
            "sentence": self.sentence,
        }  # fmt: skip


@cache
def read_step_targets(path: Path = TABLE) -> tuple[StepTarget, ...]:
    """The table, in its order."""
    rules = tomllib.loads(path.read_text(encoding="utf-8"))["target"]
    return tuple(StepTarget(**rule | {"limit": float(rule["limit"])}) for rule in rules)


def judge_steps(
    parts: Iterable[Measured], targets: Sequence[StepTarget] | None = None
) -> list[StepVerdict]:
    """A verdict a target, by all measured parts: met, missed, or not measured and why."""
    found = list(parts)
    return [_judged(t, found) for t in (read_step_targets() if targets is None else targets)]


def _judged(target: StepTarget, parts: Sequence[Measured]) -> StepVerdict:
    limit, best, by, reason = target.limit, -math.inf, "", "no such step was run"
    for part in parts:
        if not target.speaks_of(part):
            continue
        scaled = target.limit_on(part["card"])
        if scaled is None:
            reason = f"the catalogue does not know {part['card']['device']}"
            continue
        limit = scaled
        for name, time in part["time"].items():
            value, why = _value(target.metric, part, name, time, parts)
            if value is None:
                reason = why or reason
            elif value > best:
                best, by = value, name
    if not by:
        return StepVerdict(target, "not measured", None, limit, "", reason)
    return StepVerdict(target, "met" if best >= limit else "missed", best, limit, by, "")


def _value(
    metric: str, part: Measured, name: str, time: Measured, parts: Sequence[Measured]
) -> tuple[float | None, str]:
    """A contestant's figure, and why it has none. Peers and plain torch are not ours."""
    if "error" in time:
        return None, f"{name}: {time['error']}"
    if name not in part["ours"]:
        return None, ""
    if metric == "over_gpt_fast":
        ratio = part.get("ratios", {}).get(f"{GPT_FAST}/{name}")
        return (
            (None, f"{GPT_FAST} was not timed in the same run")
            if ratio is None
            else (ratio["median"], "")
        )
    if metric == "over_bf16":
        plain = [
            t["tok_s"]
            for other in parts
            if other["precision"] == "bf16"
            and all(
                other.get(k) == part.get(k) for k in ("part", "model", "rows", "context", "new")
            )
            for n, t in other["time"].items()
            if n in other["ours"] and "tok_s" in t
        ]
        return (time["tok_s"] / max(plain), "") if plain else (None, "bf16 was not timed")
    value = time.get(metric)
    return value, "" if value is not None else str(time.get("mbu_reason") or "no nameplate")
