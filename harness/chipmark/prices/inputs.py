"""Which numbers of a price book entered a result, each with its provenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from chipmark.prices.book import PriceBook, PriceQuantity, UnitEntry, _BookPart

ASSUMED = ("A", "K")
"""Confidences of inputs without a source: an assumption of the book, or general knowledge."""

DEFAULT_HEADROOM = PriceQuantity(
    value=0.7, unit="1", source="default of the definitions", date="2026", confidence="A"
)
DEFAULT_PEAK_SHARE = PriceQuantity(
    value=0.15, unit="1", source="default of the definitions", date="2026", confidence="A"
)

_CAPITAL = ("life_years", "discount_rate", "residual", "maintenance", "tax", "duty")
_BOUGHT = ("purchase", "host_share", "software_year", "staff_year")
_RENTED = ("rent_per_hour", "rented_share")
_BEHIND_SUPPLY = ("board", "die", "package", "cpu-share", "node_dc")
_WITHOUT_HOST = ("board", "die", "package", "cpu-share")


@dataclass(frozen=True, slots=True)
class Input:
    """A number of a book. field: where it stands, as `site.pue` or `ENTRY.host_w`."""

    field: str
    quantity: PriceQuantity

    @property
    def assumed(self) -> bool:
        """Whether it is an assumption or general knowledge, not sourced."""
        return self.quantity.confidence in ASSUMED

    def to_dict(self) -> dict[str, Any]:
        """For the row's details: the field and everything the book says of the number."""
        return {"field": self.field, **self.quantity.model_dump()}


def cost_inputs(
    book: PriceBook, entry: UnitEntry, *, capacity: bool, scope: str | None
) -> tuple[Input, ...]:
    """What a cost per session by `entry` is made of.

    capacity: the demand and the share of the year enter too. scope: of the meter whose power
    enters; None where no power does (rent, power in hosting).
    """
    rented = entry.rent_per_hour is not None
    site = ["availability", *(["on_share"] if capacity else [])]
    own = list(_RENTED if rented else _BOUGHT)
    if not rented:
        site += _CAPITAL
        if book.site.hosting_per_kw_month is not None and entry.provisioned_kw is not None:
            site.append("hosting_per_kw_month")
            own.append("provisioned_kw")
    if scope is not None:
        site.append("tariff_per_kwh")
        site += ["pue"] if scope != "facility" else []
        site += ["psu_efficiency"] if scope in _BEHIND_SUPPLY else []
        own += ["host_w"] if scope in _WITHOUT_HOST else []
    demand = ["utilisation", "offered_sessions_per_hour"] if capacity else []
    return (
        *_given(book.site, "site", site),
        *_given(book.demand, "demand", demand),
        *_given(entry, entry.name, own),
    )


def agent_inputs(book: PriceBook) -> tuple[Input, ...]:
    """What daily active agents are made of, defaults of the definitions included."""
    demand = book.demand
    return (
        *_given(demand, "demand", ("sessions_per_agent_day",)),
        Input("demand.headroom", demand.headroom or DEFAULT_HEADROOM),
        Input("demand.peak_share", demand.peak_share or DEFAULT_PEAK_SHARE),
    )


def _given(part: _BookPart, where: str, names: Sequence[str]) -> Iterator[Input]:
    for name in names:
        quantity = getattr(part, name)
        if isinstance(quantity, PriceQuantity):
            yield Input(f"{where}.{name}", quantity)
