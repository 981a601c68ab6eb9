"""A vendor's tool as data: its programs, what it is asked, and who reads the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chipmark.meters.contract import Scope
from chipmark.meters.tools.reading import DieReading


@dataclass(frozen=True, slots=True)
class Query:
    """One way to ask a tool. `{card}` in an argument is the number of the card; a query that has
    it is asked once a card."""

    arguments: tuple[str, ...]
    parse: Callable[[str], tuple[DieReading, ...]]
    """Reads what was printed; () where it is nothing that it knows. Never raises, whatever the
    text. Of a query with `{card}` the readings have the card that the text names, else 0."""

    @property
    def per_card(self) -> bool:
        """Whether it is asked once a card."""
        return any("{card}" in argument for argument in self.arguments)


@dataclass(frozen=True, slots=True)
class Tool:
    """A command-line tool that a vendor's driver installs."""

    name: str
    """Also the meter's."""
    vendor: str
    """As in the catalogue."""
    programs: tuple[str, ...]
    """Names of the program, the first that is on the PATH is asked."""
    scope: Scope
    overview: Query
    """Lists every device."""
    details: tuple[Query, ...] = ()
    """Asked for what the overview lacks (power above all), in this order."""
    is_own: Callable[[str], bool] = lambda text: True
    """Whether a text is this vendor's: programs have namesakes."""
    averaging_s: float | None = None
    """The window that its watts are an average over, None if unknown."""
    period_s: float = 1.0
    """How often the sensor is said to change; nothing here has measured it."""
    error_rel: float | None = 0.05
    """Bound of the sensor class."""
    verified: bool = False
    """Whether it was run on that hardware."""
