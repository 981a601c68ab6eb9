"""What a vendor's tool says of every device that it lists: one answer made of several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chipmark.chips.nvml import same_pci
from chipmark.errors import ChipmarkError, MissingBackendError
from chipmark.meters.tools.ask import LIMIT_S, Answer, ask, find_programs
from chipmark.meters.tools.reading import QUANTITIES, DieReading, merged, without_suspects
from chipmark_models.plain_text import one_line

_WORDS = 200

Place = tuple[int, int]
"""Numbers of a card and a die, as the tool has them."""

if TYPE_CHECKING:
    from chipmark.meters.tools.tool import Query, Tool


@dataclass(frozen=True, slots=True)
class Asked:
    """What one query gave."""

    readings: tuple[DieReading, ...]
    problem: str = ""
    """Why there are none, a sentence; "" where there are."""
    seconds: float = 0.0
    """How long its calls took together."""


@dataclass(frozen=True, slots=True)
class ToolHere:
    """A tool whose program was found here and answers as the vendor's own."""

    tool: Tool
    program: str
    """Its path."""

    def ask(self, query: Query, cards: Iterable[int] = (), limit_s: float = LIMIT_S) -> Asked:
        """The answer to one query, of `cards` (by the tool's own numbers) where it is asked once a
        card. Never raises for what the tool does; a card that is not answered for is left out, and
        the first such is the problem where none is."""
        if not query.per_card:
            return _asked(self.program, query, query.arguments, limit_s)
        answers = [
            self._of_card(_asked(self.program, query, query.arguments_for(card), limit_s), card)
            for card in cards
        ]
        readings = tuple(reading for answer in answers for reading in answer.readings)
        problem = next((answer.problem for answer in answers if answer.problem), "")
        seconds = sum(answer.seconds for answer in answers)
        return Asked(readings, "" if readings else problem, seconds)

    def _of_card(self, asked: Asked, card: int) -> Asked:
        """The answer with the number of the card that was asked about; one about another is
        left out."""
        if all(reading.card in (card, 0) for reading in asked.readings):
            readings = tuple(replace(reading, card=card) for reading in asked.readings)
            return replace(asked, readings=readings)
        name = Path(self.program).name
        return Asked((), f"{name} was asked about card {card} and told of another", asked.seconds)

    def devices(
        self,
        wanted: Iterable[str] = QUANTITIES,
        limit_s: float = LIMIT_S,
        cards: Iterable[int] | None = None,
    ) -> tuple[DieReading, ...]:
        """Every die that the tool lists, by card and die: the overview, and of the details in
        their order as many as it takes until all dies have the `wanted` fields.

        limit_s: of each call. cards: the tool's numbers of those that are wanted, None for all. A
        reading that contradicts itself has no watts. Raises ChipmarkError where the overview cannot
        be read; details that cannot be read are left out.
        """
        overview = self.ask(self.tool.overview, limit_s=limit_s)
        if not overview.readings:
            raise ChipmarkError(overview.problem, _hint(self.program, self.tool.overview))
        numbers = None if cards is None else set(cards)
        listed = [r for r in overview.readings if numbers is None or r.card in numbers]
        return self.completed(listed, wanted, limit_s)

    def completed(
        self,
        readings: Iterable[DieReading],
        wanted: Iterable[str] = QUANTITIES,
        limit_s: float = LIMIT_S,
    ) -> tuple[DieReading, ...]:
        """As `devices`, of an overview that was already read."""
        dies = {(reading.card, reading.die): reading for reading in readings}
        names = tuple(wanted)
        for query in self.tool.details:
            lacking = sorted(
                {
                    die.card
                    for die in dies.values()
                    if any(getattr(die, name) in (None, "") for name in names)
                }
            )
            if not lacking:
                break
            for found in self.ask(query, lacking, limit_s).readings:
                place = _place(found, dies)
                if place is not None:
                    dies[place] = merged(dies[place], found)
        return tuple(without_suspects(dies[place]) for place in sorted(dies))


def find_tool(tool: Tool, limit_s: float = LIMIT_S) -> tuple[ToolHere, tuple[DieReading, ...]]:
    """The tool's program, told from its namesakes, and its overview.

    Raises MissingBackendError where none of its programs is on the PATH, ChipmarkError where none
    of them answers as this vendor's.
    """
    programs = find_programs(tool.programs)
    if not programs:
        names = " or ".join(tool.programs)
        raise MissingBackendError(f"{names} is not on the PATH", f"{tool.vendor}'s driver has it")
    problems = []
    for program in programs:
        answer = ask(program, tool.overview.arguments, limit_s)
        if answer.problem:
            problems.append(answer.problem)
        elif not tool.is_own(answer.text):
            problems.append(f"{program} is another vendor's program, or prints another language")
        else:
            asked = _read(program, tool.overview, tool.overview.arguments, answer)
            if asked.readings:
                return ToolHere(tool, program), asked.readings
            problems.append(asked.problem)
    raise ChipmarkError("; ".join(problems), _hint(programs[0], tool.overview))


def _asked(program: str, query: Query, arguments: tuple[str, ...], limit_s: float) -> Asked:
    return _read(program, query, arguments, ask(program, arguments, limit_s))


def _read(program: str, query: Query, arguments: tuple[str, ...], answer: Answer) -> Asked:
    if answer.problem:
        return Asked((), answer.problem, answer.seconds)
    try:
        readings = query.parse(answer.text)
    except Exception as error:  # a reader's fault costs its reading, never the run
        problem = f"{_call(program, arguments)} cannot be read: {one_line(repr(error), _WORDS)}"
        return Asked((), problem, answer.seconds)
    return Asked(readings, "" if readings else _unread(program, arguments), answer.seconds)


def _place(found: DieReading, dies: dict[Place, DieReading]) -> Place | None:
    """Where a detail belongs: to the die at its PCI address where both have one, else to its
    numbers, and a sensor of the board to the card's first die; None where that is not listed."""
    if found.whole_card:
        return min((known for known in dies if known[0] == found.card), default=None)
    if found.pci:
        at = [place for place, die in dies.items() if die.pci]
        same = [place for place in at if same_pci(dies[place].pci, found.pci)]
        # Two dies may share an address (310P Duo): then their numbers tell.
        if len(same) == 1 or (at and not same):
            return same[0] if same else None
    place = found.card, found.die
    return place if place in dies else None


def _call(program: str, arguments: tuple[str, ...]) -> str:
    return f"`{' '.join((Path(program).name, *arguments))}`"


def _unread(program: str, arguments: tuple[str, ...]) -> str:
    return f"{_call(program, arguments)} printed nothing that chipmark can read"


def _hint(program: str, query: Query) -> str:
    return f"run `{' '.join((program, *query.arguments))}` and see what it prints"
