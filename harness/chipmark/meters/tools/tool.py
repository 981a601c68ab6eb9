"""A vendor's tool as data: its programs, what it is asked, and who reads the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chipmark.meters.contract import Scope
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.meter import ToolMeter, meter_of
from chipmark.meters.tools.reading import DieReading


@dataclass(frozen=True, slots=True)
class Query:
    """One way to ask a tool. `{card}` in an argument is the number of the card; a query that has
    it is asked once a card."""

    arguments: tuple[str, ...]
    parse: Callable[[str], tuple[DieReading, ...]]
    """Reads what was printed; () where it is nothing that it knows. Never raises, whatever the
    text. Of a query with `{card}` the readings have the card that the text names, else 0."""
    quick: bool = False
    """Of a detail: whether it is quicker than the overview; the meter then looks for watts there
    first."""

    averaging_s: Callable[[str], float | None] | None = None
    """The window that its watts of a card of this name are a mean over, None where they are of the
    moment; without it the tool's."""

    @property
    def per_card(self) -> bool:
        """Whether it is asked once a card."""
        return any("{card}" in argument for argument in self.arguments)

    def arguments_for(self, card: int) -> tuple[str, ...]:
        """The arguments with the number of a card."""
        return tuple(argument.replace("{card}", str(card)) for argument in self.arguments)


@dataclass(frozen=True, slots=True)
class Tool:
    """A command-line tool that a vendor's driver installs; also the factory of its meter, so that
    an entry point of `chipmark.meters` names it."""

    name: str
    """Also the meter's."""
    vendor: str
    """As in the catalogue."""
    programs: tuple[str, ...]
    """Names of the program; the first on the PATH whose answer `is_own` is asked."""
    scope: Scope
    overview: Query
    """Lists every device. Its `parse` is a function of the module that defines the tool: by it a
    record says which code read the watts."""
    details: tuple[Query, ...] = ()
    """Asked for what the overview lacks, in this order."""
    is_own: Callable[[str], bool] = lambda text: True
    """Whether an overview's text is this vendor's: programs have namesakes."""
    numbers_dies: bool = False
    """Whether it numbers the dies of a card; else every die looks like a card."""
    listed_by: str = ""
    """NAME=VALUE of the environment without which the vendor's runtime numbers devices in another
    order than the tool lists them; "" where it never does."""
    averaging_s: float | None = None
    """The window that its watts are an average over, None if unknown."""
    period_s: float = 1.0
    """How often the sensor changes by its documents; nothing here has measured it."""
    error_rel: float | None = 0.05
    """Bound of the sensor class."""
    verified: bool = False
    """Whether it was run on that hardware."""
    notes: tuple[str, ...] = ()
    """What else a row must say of its watts."""
    resolution_w: float | None = None
    """The least step between two watts that it prints, None if unknown."""

    @property
    def polled(self) -> tuple[Query, ...]:
        """Its queries in the order in which the meter looks for watts: what else an answer has
        (limit, load) is checked with them, so the overview goes before slow details."""
        quick = tuple(query for query in self.details if query.quick)
        return (*quick, self.overview, *(query for query in self.details if not query.quick))

    def for_request(self, request: MeterRequest) -> ToolMeter | None:
        """The meter of the card that computes; None for other vendors' units and where the tool is
        not here, unless the user named it (then MissingBackendError).

        Raises ChipmarkError with what to do where the card cannot be found or metered.
        """
        return meter_of(self, request)
