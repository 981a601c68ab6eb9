"""Cards made of the dies that a tool lists, the one that computes, and how its watts are found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from chipmark.chips.catalogue import catalogue
from chipmark.chips.nvml import same_pci, same_uuid
from chipmark.errors import ChipmarkError, UsageError
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.devices import Place
from chipmark.meters.tools.reading import DieReading

if TYPE_CHECKING:
    from chipmark.meters.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class Card:
    """A card with its dies in the tool's order."""

    dies: tuple[DieReading, ...]
    whole: bool = True
    """Whether all of its dies are listed."""

    @property
    def places(self) -> tuple[Place, ...]:
        """Of its dies."""
        return tuple((die.card, die.die) for die in self.dies)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The tool's numbers of it: several where the tool lists each die as a card."""
        return tuple(dict.fromkeys(die.card for die in self.dies))

    def elsewhere(self, readings: Sequence[DieReading]) -> str:
        """How readings under the numbers of this card are of another one, "" where they are not: a
        driver that is loaded anew, or a card that is lost, may change the numbers."""
        known = {(die.card, die.die): die for die in self.dies}
        for now in readings:
            was = known.get((now.card, now.die))
            if was is None:
                continue
            for old, new, same in (
                (was.pci, now.pci, same_pci), (was.uuid, now.uuid, same_uuid)
            ):  # fmt: skip
                if old and new and not same(old, new):
                    return f"number {now.card} is now the card {new}, and was {old}"
        return ""

    @property
    def text(self) -> str:
        """For people."""
        first = self.dies[0]
        known = ", ".join(text for text in (first.name, first.pci) if text)
        label = "card" if len(self.numbers) == 1 else "cards"
        return f"{label} {', '.join(map(str, self.numbers))}" + (f" ({known})" if known else "")


def cards_of(tool: Tool, readings: Sequence[DieReading]) -> tuple[Card, ...]:
    """The cards of everything that a tool lists.

    A tool that numbers the dies of a card is believed. Of others every row is a card, or one die of
    a card of which the catalogue knows that it has several: then rows of one name follow another.
    """
    rows = sorted(readings, key=lambda reading: (reading.card, reading.die))
    if tool.numbers_dies:
        numbers = dict.fromkeys(reading.card for reading in rows)
        return tuple(Card(tuple(r for r in rows if r.card == number)) for number in numbers)
    cards: list[Card] = []
    while rows:
        entry = catalogue().chip_named(tool.vendor, rows[0].name)
        count = entry.dies if entry is not None else 1
        same = 1
        while same < min(count, len(rows)) and rows[same].name == rows[0].name:
            same += 1
        cards.append(Card(tuple(rows[:same]), whole=same == count))
        rows = rows[same:]
    return tuple(cards)


def card_of(
    tool: Tool,
    cards: Sequence[Card],
    request: MeterRequest,
    environ: Mapping[str, str] | None = None,
) -> Card:
    """The card that `request` is about.

    As `card_that_computes`; raises ChipmarkError for a part of a card, too, and for a card of which
    not all dies are listed.
    """
    card = card_that_computes(tool, cards, request, environ)
    parts = [die.shared for die in card.dies if die.shared]
    if parts:
        raise ChipmarkError(
            f"{tool.name} shows {card.text} as a part of a card ({parts[0]}), and its sensor "
            "counts the whole",
            "measure energy on a card that is not split",
        )
    if not card.whole:
        raise ChipmarkError(
            f"{tool.name} lists one die of {card.text}, and its power is the whole card's",
            "let this process see all dies of the card",
        )
    return card


def card_that_computes(
    tool: Tool,
    cards: Sequence[Card],
    request: MeterRequest,
    environ: Mapping[str, str] | None = None,
) -> Card:
    """The card that `request` is about, whole or a part of one.

    By the user's `--meter TOOL:NUMBER`, by PCI address or UUID where both tell, by being the only
    one, else by the device's number through the vendor's variable of visible devices. Raises
    ChipmarkError that says what to set where none of these decides.
    """
    how = f"name it by the number that {tool.name} gives it: --meter {tool.name}:NUMBER"
    choice = request.choice(tool.name)
    if choice is not None:
        choice.check_options(())
    if choice is not None and choice.target:
        found = [card for card in cards if choice.target in map(str, card.numbers)]
        if not found:
            listed = ", ".join(str(number) for card in cards for number in card.numbers)
            raise UsageError(
                f"--meter {tool.name}:{choice.target}: the tool lists no such card",
                f"it lists {listed}",
            )
        return found[0]
    for value, name, same in (
        (request.key.pci, "pci", same_pci),
        (request.key.uuid, "uuid", same_uuid),
    ):
        told = [(card, getattr(die, name)) for card in cards for die in card.dies]
        if value and all(text for _, text in told):
            found = [card for card, text in told if same(text, value)]
            if not found:
                raise ChipmarkError(f"{tool.name} lists no card at {value}, which computes", how)
            return found[0]
    if len(cards) == 1:
        return cards[0]
    return _numbered(tool, cards, request.device, os.environ if environ is None else environ, how)


def _numbered(
    tool: Tool, cards: Sequence[Card], device: str, environ: Mapping[str, str], how: str
) -> Card:
    """By the device's number: the runtime numbers the dies that a process sees in the order in
    which the tool lists them, and its variable picks among these numbers."""
    dies = [card for card in cards for _ in card.dies]
    listed = f"{tool.name} lists {len(cards)} cards, and nothing tells which of them {device} is"
    entry = catalogue().vendors.get(tool.vendor)
    variable = entry.visible if entry is not None else ""
    text = device.partition(":")[2] or "0"
    if not text.isdecimal():
        raise ChipmarkError(listed, how)
    number = int(text)
    setting, _, value = tool.listed_by.partition("=")
    if setting and environ.get(setting, "").strip() != value:
        raise ChipmarkError(
            f"{listed}: the runtime may number them in another order",
            f"set {tool.listed_by}, or {how}",
        )
    if not variable:
        # Which of them this runtime obeys is not known.
        hiding = sorted(name for name in environ if name.endswith("VISIBLE_DEVICES"))
        if hiding:
            raise ChipmarkError(f"{listed}: {hiding[0]} is set", f"unset it, or {how}")
    elif visible := environ.get(variable, "").strip():
        entries = [part.strip() for part in visible.split(",")]
        if number >= len(entries) or not entries[number].isdecimal():
            raise ChipmarkError(f"{listed}: {variable} is {visible!r}", how)
        number = int(entries[number])
    if number >= len(dies):
        raise ChipmarkError(f"{device} is device {number}, and {tool.name} lists {len(dies)}", how)
    return dies[number]


class Holder(StrEnum):
    """Whose watts are the card's."""

    OWN = "of its one die"
    SUM = "summed over its dies, each with a sensor of its own"
    SHARED = "of the one die that prints the card's sensor"
    REPEATED = "the mean of its dies' rows, each of which repeats the card's sensor"
    BOARD = "of the board's own sensor"


_SAME = 0.1
"""Rows that repeat one sensor differ by what it moved between them."""


@dataclass(frozen=True, slots=True)
class Watts:
    """How a card's watts follow from the readings of its dies."""

    holder: Holder
    places: tuple[Place, ...]
    """The dies, or the sensor of the board, that have watts: all of them, and no others."""
    dies: int

    def of(self, readings: Sequence[DieReading], card: Card) -> float | None:
        """The card's watts, None unless exactly the places of old have some: half of a card's
        watts are none of it."""
        found = _held(readings, card)
        if tuple(found) != self.places:
            return None
        watts = list(found.values())
        return sum(watts) / len(watts) if self.holder is Holder.REPEATED else sum(watts)

    @property
    def text(self) -> str:
        """For people."""
        which = ", ".join(f"{card}/{die}" for card, die in self.places)
        return f"watts {self.holder.value}" + (
            f" (card/die {which})" if self.dies > 1 and self.holder is not Holder.OWN else ""
        )


def watts_of(tool: Tool, readings: Sequence[DieReading], card: Card) -> Watts | None:
    """How to take the card's watts from one answer of the tool; None where it holds none.

    Several dies with watts are summed, unless the limit that each prints is already that of the
    whole card in the catalogue (MLU370-X8: both rows are one sensor's). Raises ChipmarkError where
    some dies have watts and others have not, or rows of one sensor differ.
    """
    found = _held(readings, card)
    if not found:
        return None
    places, count = tuple(found), len(card.dies)
    if any(place not in card.places for place in places):
        return Watts(Holder.BOARD, places, count)
    if len(places) == 1:
        return Watts(Holder.OWN if count == 1 else Holder.SHARED, places, count)
    if len(places) != count:
        raise ChipmarkError(
            f"{tool.name} prints watts of {len(places)} of the {count} dies of {card.text}, "
            "and does not tell of what they are",
            "declare the card's power with --power-w, or go without energy",
        )
    if not _limit_is_the_cards(tool, readings, card):
        return Watts(Holder.SUM, places, count)
    low, high = min(found.values()), max(found.values())
    if high - low > _SAME * high:
        raise ChipmarkError(
            f"{tool.name} prints the whole card's limit for each die of {card.text}, and watts "
            f"that differ ({low:g} and {high:g} W): it is not clear whether they add up",
            "declare the card's power with --power-w, or go without energy",
        )
    return Watts(Holder.REPEATED, places, count)


def limit_of(watts: Watts, limits: Sequence[float | None]) -> float | None:
    """The card's power limit from those of its dies: of all together where each has its own."""
    known = [limit for limit in limits if limit is not None]
    if not known:
        return None
    if watts.holder is not Holder.SUM:
        return max(known)
    return sum(known) if len(known) == len(limits) else None


def _held(readings: Sequence[DieReading], card: Card) -> dict[Place, float]:
    """Watts by place: of the card's dies, else of its board's sensor."""
    dies, board = {}, {}
    for reading in readings:
        place = reading.card, reading.die
        if reading.power_w is None or reading.card not in card.numbers:
            continue
        if place in card.places and not reading.whole_card:
            dies[place] = reading.power_w
        elif reading.whole_card:
            board[place] = reading.power_w
    return dict(sorted((dies or board).items()))


def _limit_is_the_cards(tool: Tool, readings: Sequence[DieReading], card: Card) -> bool:
    entry = catalogue().chip_named(tool.vendor, card.dies[0].name)
    figures = [] if entry is None else [entry.tdp.value, entry.cap.value]
    known = [figure for figure in figures if figure is not None]
    limits = [
        reading.cap_w
        for reading in (*card.dies, *readings)
        if (reading.card, reading.die) in card.places and reading.cap_w is not None
    ]
    return bool(known and limits) and min(limits) >= min(known) * 0.99
