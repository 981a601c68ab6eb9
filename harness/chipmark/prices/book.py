"""A price book: dated, sourced money for one currency and one VAT basis, read from TOML.

Every number is `{value, low, high, unit, source, date, confidence}`; low and high are P5 and
P95. Nothing is filled in silently: what a book does not say is null in the table, with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chipmark.chips.catalogue import catalogue_name
from chipmark.errors import BadInputError, nearest_names
from chipmark.foreign_model import first_fault
from chipmark.metrics.cost import Site, UnitPrice
from chipmark_models.foreign_file import read_toml

SCHEMA = "chipmark.prices/1"
EXAMPLE = Path(__file__).with_name("example-2026.toml")

Confidence = Literal["H", "M", "L", "K", "A"]
"""H vendor document or real quote; M several secondary sources agree; L one secondary source;
K general knowledge; A an assumption of this book."""


_MONEY = re.compile(r"([A-Z]{3})(?:/|$)")
"""A unit of money: a currency's code first, as USD/kWh."""


_MOST = 1e15
"""Largest number of a book, far above any price: products of several stay finite."""


class _BookPart(BaseModel):
    """Frozen; an unknown field is an error, so that a misspelt one is not lost."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PriceQuantity(_BookPart):
    """A number with its range and its provenance."""

    value: float
    low: float | None = None
    high: float | None = None
    unit: str
    source: str = Field(min_length=1)
    date: str = Field(pattern=r"^\d{4}(-\d{2}){0,2}$")
    confidence: Confidence

    @model_validator(mode="after")
    def _ordered(self) -> PriceQuantity:
        numbers = [n for n in (self.low, self.value, self.high) if n is not None]
        if not all(0 <= n <= _MOST for n in numbers):
            raise ValueError(f"must be finite, not negative and at most {_MOST:g}")
        if any(0 < n < 1 / _MOST for n in numbers):
            raise ValueError(f"must be 0 or at least {1 / _MOST:g}")
        if numbers != sorted(numbers):
            raise ValueError("low, value and high must ascend")
        return self


class SiteBook(_BookPart):
    """The site's factors; see `chipmark.metrics.cost.Site`."""

    tariff_per_kwh: PriceQuantity
    pue: PriceQuantity
    psu_efficiency: PriceQuantity
    availability: PriceQuantity
    life_years: PriceQuantity
    discount_rate: PriceQuantity
    residual: PriceQuantity
    maintenance: PriceQuantity
    on_share: PriceQuantity | None = None
    tax: PriceQuantity | None = None
    duty: PriceQuantity | None = None
    hosting_per_kw_month: PriceQuantity | None = None
    power_in_hosting: bool = False

    @model_validator(mode="after")
    def _possible(self) -> SiteBook:
        for name in ("psu_efficiency", "availability", "on_share"):
            quantity: PriceQuantity | None = getattr(self, name)
            if quantity is not None and not 0 < quantity.value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1")
        for name in ("discount_rate", "residual", "maintenance", "tax"):
            share: PriceQuantity | None = getattr(self, name)
            if share is not None and share.value > 1:
                raise ValueError(f"{name} must be at most 1: 0.08 is 8 %")
        if self.pue.value < 1:
            raise ValueError("pue must be at least 1")
        if self.life_years.value <= 0:
            raise ValueError("life_years must be above 0")
        return self


class Demand(_BookPart):
    """What is asked of the units: their load, and what daily active agents are made from. A
    missing one makes its columns null.

    The load is given in one of two ways. utilisation: offered over capacity sessions, so that each
    chip has as many units (not whole ones) as one load needs at this utilisation.
    offered_sessions_per_hour: the load itself, served by whole units of each chip.
    """

    utilisation: PriceQuantity | None = None
    offered_sessions_per_hour: PriceQuantity | None = None
    sessions_per_agent_day: PriceQuantity | None = None
    headroom: PriceQuantity | None = None
    peak_share: PriceQuantity | None = None

    @model_validator(mode="after")
    def _shares(self) -> Demand:
        for name in ("utilisation", "headroom", "peak_share"):
            quantity: PriceQuantity | None = getattr(self, name)
            if quantity is not None and not 0 < quantity.value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1")
        load = self.offered_sessions_per_hour
        if load is not None and load.value <= 0:
            raise ValueError("offered_sessions_per_hour must be above 0")
        if load is not None and self.utilisation is not None:
            raise ValueError("give utilisation or offered_sessions_per_hour, not both")
        return self


class UnitEntry(_BookPart):
    """The price of a unit: bought (`purchase`, with `host_share`) or rented (`rent_per_hour`).

    chips: names of the catalogue, or `*` for any chip in this unit. per: `unit`, or `device` for
    a price of each device of the unit (a vCPU of a cpu-share). host_w: power of the rest of the
    host that belongs to it, for meters that see the board, package, die or CPU share only.
    """

    name: str
    chips: tuple[str, ...] = Field(min_length=1)
    unit: str
    per: Literal["unit", "device"] = "unit"
    purchase: PriceQuantity | None = None
    host_share: PriceQuantity | None = None
    rent_per_hour: PriceQuantity | None = None
    rented_share: PriceQuantity | None = None
    host_w: PriceQuantity | None = None
    provisioned_kw: PriceQuantity | None = None
    software_year: PriceQuantity | None = None
    staff_year: PriceQuantity | None = None

    @model_validator(mode="after")
    def _one_way(self) -> UnitEntry:
        if self.purchase is not None and self.rent_per_hour is not None:
            raise ValueError("give purchase or rent_per_hour, not both")
        if self.rented_share is not None and not 0 < self.rented_share.value <= 1:
            raise ValueError("rented_share must be above 0 and at most 1")
        return self

    def price(self, devices: int) -> UnitPrice:
        """Money for one unit of `devices` devices."""
        n = devices if self.per == "device" else 1
        return UnitPrice(
            chip=None if self.purchase is None else self.purchase.value * n,
            host_share=_value(self.host_share) * n,
            rent_per_hour=None if self.rent_per_hour is None else self.rent_per_hour.value * n,
            rented_share=_value(self.rented_share, 1.0),
            provisioned_kw=_value(self.provisioned_kw) * n,
            software_year=_value(self.software_year) * n,
            staff_year=_value(self.staff_year) * n,
        )

    def host_power_w(self, devices: int) -> float | None:
        """Watts of the host's rest for one unit; None where the book does not say."""
        if self.host_w is None:
            return None
        return self.host_w.value * (devices if self.per == "device" else 1)


class PriceBook(_BookPart):
    """A whole book. `vat`: whether prices hold VAT."""

    schema_: Literal["chipmark.prices/1"] = Field(alias="schema")
    name: str
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    vat: Literal["included", "excluded"]
    note: str = ""
    site: SiteBook
    demand: Demand = Demand()
    units: tuple[UnitEntry, ...] = Field(default=(), alias="unit")

    def match(self, chip: str, unit: str) -> UnitEntry | None:
        """The entry of a chip in a unit; one for `*` only where none names the chip.

        What is in brackets after a chip's name (a power limit) does not change its price.
        """
        plain = catalogue_name(chip)
        same = [entry for entry in self.units if entry.unit == unit]
        named = [entry for entry in same if plain in entry.chips]
        return next(iter(named or [entry for entry in same if "*" in entry.chips]), None)

    def site_factors(self) -> Site:
        """The site as the formulas take it."""
        s = self.site
        return Site(
            tariff=s.tariff_per_kwh.value,
            pue=s.pue.value,
            psu_efficiency=s.psu_efficiency.value,
            on_share=_value(s.on_share, 1.0),
            availability=s.availability.value,
            discount_rate=s.discount_rate.value,
            life_years=s.life_years.value,
            residual=s.residual.value,
            maintenance=s.maintenance.value,
            tax=_value(s.tax),
            duty=_value(s.duty),
            hosting_per_kw_month=_value(s.hosting_per_kw_month),
            power_in_hosting=s.power_in_hosting,
        )


def load_book(path: Path) -> PriceBook:
    """Read a price book. BadInputError names the file and the field, with the nearest name for
    one that does not exist."""
    document = read_toml(path)
    try:
        book = PriceBook.model_validate(document)
    except ValidationError as error:
        raise _bad_field(path, error) from error
    for field, quantity in _quantities(book):
        money = _MONEY.match(quantity.unit)
        if money is not None and money[1] != book.currency:
            raise BadInputError(
                path,
                f"is in {money[1]}, the book's currency is {book.currency}",
                field=f"{field}.unit",
                hint="a book is of one currency: convert the value, and give the rate in `source`",
            )
    seen: set[tuple[str, str]] = set()
    for entry in book.units:
        for chip in entry.chips:
            if (chip, entry.unit) in seen:
                raise BadInputError(
                    path, f"{chip!r} in unit {entry.unit!r} is priced twice", field=entry.name
                )
            seen.add((chip, entry.unit))
    return book


def _bad_field(path: Path, error: ValidationError) -> BadInputError:
    field, problem = first_fault(error)
    hint = ""
    if error.errors(include_input=False, include_context=False)[0]["type"] == "extra_forbidden":
        known = {
            n
            for m in (PriceBook, SiteBook, Demand, UnitEntry, PriceQuantity)
            for n in m.model_fields
        }
        near = nearest_names(field.rpartition(".")[2], known)
        hint = f"did you mean {' or '.join(near)}?" if near else ""
    return BadInputError(path, problem, field=field, hint=hint)


def _quantities(book: PriceBook) -> Iterator[tuple[str, PriceQuantity]]:
    """Every number of a book, with the field that it is in."""
    parts: list[tuple[str, _BookPart]] = [("site", book.site), ("demand", book.demand)]
    parts += [(f"unit.{entry.name}", entry) for entry in book.units]
    for where, part in parts:
        for name in type(part).model_fields:
            value = getattr(part, name)
            if isinstance(value, PriceQuantity):
                yield f"{where}.{name}", value


def _value(quantity: PriceQuantity | None, default: float = 0.0) -> float:
    return default if quantity is None else quantity.value
