"""What is kept in `extra_info["chipmark"]`, and the terminal's section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from chipmark.codes import NullReason

SCHEMA = "chipmark.pytest/1"


@dataclass(frozen=True, slots=True)
class Measured:
    """One benchmark. seconds: device seconds a call, of every timed round; `calls`: calls a round
    that one sample is the mean of. n_tokens: work tokens of a call. ttft_s, tpot_s: samples of
    turns. energy: joules of a call with where they come from."""

    fullname: str
    what: str
    clock: str
    seconds: tuple[float, ...]
    calls: int = 1
    n_tokens: int | None = None
    ttft_s: tuple[float, ...] = ()
    tpot_s: tuple[float, ...] = ()
    energy_j: float | None = None
    energy_reason: NullReason | None = NullReason.NOT_MEASURED
    energy_source: str | None = None
    power_scope: str | None = None
    price_per_hour: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def block(measured: Measured) -> dict[str, Any]:
    """The JSON-safe block: unknown is null, with a code in `null_reasons`."""
    nulls: dict[str, str] = {}
    mean_s = sum(measured.seconds) / len(measured.seconds)
    tokens = measured.n_tokens
    values: dict[str, float | None] = {}

    def put(name: str, value: float | None, reason: str) -> None:
        values[name] = value
        if value is None:
            nulls[name] = str(reason)

    p95, reason = _p95(measured.seconds, measured.calls)
    put("p50_s", _quantile(measured.seconds, 0.5), NullReason.NO_SAMPLES)
    put("p95_s", p95, reason)
    rate = tokens / mean_s if tokens and mean_s > 0 else None
    put("tok_s", rate, NullReason.ZERO_DENOMINATOR if tokens else NullReason.NO_TOKENS)
    for name, samples in (("ttft", measured.ttft_s), ("tpot", measured.tpot_s)):
        put(f"{name}_p50_s", _quantile(samples, 0.5), NullReason.NO_SAMPLES)
        p95, reason = _p95(samples, 1)
        put(f"{name}_p95_s", p95, reason)
    no_energy = measured.energy_reason or NullReason.NOT_MEASURED
    put("energy_j", measured.energy_j, no_energy)
    joules = measured.energy_j
    no_rate = NullReason.NO_TOKENS if joules else measured.energy_reason
    put("tok_per_joule", tokens / joules if tokens and joules else None,
        no_rate or NullReason.ZERO_DENOMINATOR)  # fmt: skip
    price = measured.price_per_hour
    cost = price / 3600 / rate * 1e6 if price is not None and rate else None
    put("cost_per_mtok", cost, NullReason.NO_PRICE if price is None else NullReason.NO_TOKENS)
    return {
        "schema": SCHEMA,
        "what": measured.what,
        "clock": measured.clock,
        "unit": "s",
        "direction": "lower",
        "n_samples": len(measured.seconds),
        "calls_per_sample": measured.calls,
        "n_tokens": tokens,
        "energy_source": measured.energy_source,
        "power_scope": measured.power_scope,
        "cost_basis": "rented by the hour, at this load all day" if cost is not None else None,
        **values,
        "null_reasons": nulls,
        "details": dict(measured.details),
    }


def section(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines for the terminal: a row a benchmark, `-` for what is not known."""
    columns = {
        "tok/s": "tok_s", "p50 s": "p50_s", "p95 s": "p95_s", "TTFT p50 s": "ttft_p50_s",
        "TPOT p50 s": "tpot_p50_s", "tok/J": "tok_per_joule", "cost/Mtok": "cost_per_mtok",
    }  # fmt: skip
    used = {t: k for t, k in columns.items() if any(b["block"][k] is not None for b in found)}
    rows = [["benchmark", *used, "clock"]]
    marks = {"declared": "≥", "assumed": "~"}
    for entry in found:
        values = entry["block"]
        row = [entry["fullname"]]
        for key in used.values():
            value = values[key]
            text = "-" if value is None else f"{value:.4g}"
            if key == "tok_per_joule" and value is not None:
                text = marks.get(values["energy_source"], "") + text
            row.append(f"~{text}" if key == "cost_per_mtok" and value is not None else text)
        rows.append([*row, values["clock"]])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def identity_of(chip: Any, backend: str) -> dict[str, Any]:
    """A `ChipIdentity` for `machine_info`."""
    return {"backend": backend, **asdict(chip), "evidence": list(chip.evidence)}


def _quantile(samples: Sequence[float], q: float) -> float | None:
    # NumPy is imported when a benchmark has run: a session that has none stays quick.
    import numpy as np

    from chipmark.metrics.intervals import percentile

    return percentile(np.asarray(samples, dtype=np.float64), q)


def _p95(samples: Sequence[float], calls: int) -> tuple[float | None, str]:
    from chipmark.metrics.intervals import P95_MIN_SAMPLES

    if not samples:
        return None, NullReason.NO_SAMPLES
    if calls != 1:
        return None, NullReason.MEAN_OF_CALLS
    if len(samples) < P95_MIN_SAMPLES:
        return None, NullReason.N_TOO_SMALL
    return _quantile(samples, 0.95), ""
