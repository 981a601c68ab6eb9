"""`metrics.details` of a stored record: what is computed with is checked, the rest is kept."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from chipmark.foreign_model import first_fault
from chipmark.results.numbers import Amount, Count, Number


class _Part(BaseModel):
    """Fields of other versions are kept unread."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


_Bounds = tuple[Number, Number]


class _Reached(_Part):
    median: Amount
    largest: Amount


class _Beside(_Part):
    name: str
    source: str
    scope: str
    covers: str = ""
    power_w: Amount | None = None
    energy_j: Amount | None = None
    error_rel: Amount | None = None
    null_reason: str | None = None
    tok_per_joule: Amount | None = None
    reading_period_s: _Reached | None = None
    verified: bool = True


class _Energy(_Part):
    energy_j: float | None = None
    error_rel: Amount | None = None
    idle_w: _Bounds | None = None
    net_energy_j: _Bounds | None = None
    tok_per_joule_net: _Bounds | None = None
    out_tok_per_joule: float | None = None
    reading_period_s: _Reached | None = None
    beside: tuple[_Beside, ...] = ()


class _Details(_Part):
    """See `chipmark.metrics.details`."""

    window_s: Amount | None = None
    tool_time_share: float | None = None
    n_new: Count | None = None
    n_out: Count | None = None
    n_decoded: Count | None = None
    work_tokens_per_session: Amount | None = None
    seconds_by_phase: dict[str, Amount] | None = None
    distinct_samples: dict[str, Count] | None = None
    work_intervals: dict[str, _Bounds] | None = None
    nameplate_bytes_s: Amount | None = None
    energy: _Energy | None = None


_CHECK = TypeAdapter(_Details)


def check_details(details: dict[str, Any]) -> dict[str, Any]:
    """The same details. ValueError names the first field that cannot be computed with."""
    try:
        _CHECK.validate_python(details)
    except ValidationError as error:
        field, problem = first_fault(error)
        raise ValueError(f"{field}: {problem}") from error
    return details
