"""The meters of this machine, each once, and the backend whose work moves its power."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import get_args

from chipmark.cell.available import candidates
from chipmark.cell.device_state import state_source
from chipmark.cell.prepare import meter_request
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.detect import chip_of, chips_here
from chipmark.engine.clock import VirtualClock
from chipmark.errors import (
    ChipmarkError,
    NothingToJudgeError,
    UnknownNameError,
)
from chipmark.meters.choice import MeterChoice
from chipmark.meters.contract import Meter, Scope
from chipmark.meters.pick import FAULTS, Answer, answer_of, meter_answers
from chipmark.meters.plugins import meter_factory
from chipmark.meters.request import Metered, MeterRequest
from chipmark.meters.simulated_sensor import SENSORS, SimulatedSensor, simulated_sensor
from chipmark.meters.watch import Temperature
from chipmark.registry import plugins, split_backend

SIM = "sim"
HOST = "torch:cpu"
"""A backend on the host: its chip is this machine's processors."""

_METERED: tuple[Metered, ...] = get_args(Metered)
_HOST_SCOPES: tuple[Scope, ...] = ("package", "memory", "cpu-share", "node_dc", "wall")
_HINT = (
    "a card needs its vendor's driver and library or tool, and -b KIND:DEVICE where its chip is "
    "not among those asked for; processors need /sys/class/powercap, which virtual machines hide; "
    "`chipmark doctor` says what is here; "
    f"--meter sim:{next(iter(SENSORS))} is a simulated one"
)


@dataclass(frozen=True, slots=True)
class MeterHere:
    """A meter. vendor: of what it meters, "" of a simulated one. backend: whose work moves its
    power, None where no backend here computes on it. temperature: of its device, None where
    it is not known."""

    meter: Meter
    vendor: str
    backend: str | None
    temperature: Temperature | None = None

    @property
    def simulated(self) -> SimulatedSensor | None:
        """The sensor where it is a simulated one."""
        return self.meter if isinstance(self.meter, SimulatedSensor) else None


def meters_here(choices: Sequence[MeterChoice], backend: str) -> list[MeterHere]:
    """Every meter that answers: those named, or all of the chips that are here.

    backend: the chip whose meters are asked, "" for all. Raises UnknownNameError for a name that
    no meter has, and NothingToJudgeError with what would help where none answers.
    """
    found = [_simulated(choice) for choice in choices if choice.name == SIM]
    real = [choice for choice in choices if choice.name != SIM]
    for choice in real:
        _check_name(choice.name)
    if choices and not real:
        return found
    refused: dict[str, None] = {}
    taken: set[tuple[str, str]] = set()
    chips = _chips(backend)
    for chip, device in chips:
        request = replace(meter_request(chip, device, None), choices=tuple(real))
        temperature = _temperature(chip, backend, tuple(real))
        for answer in _answers(request, real):
            if answer.meter is None:
                refused.setdefault(f"{answer.name}: {answer.refusal}")
                continue
            info = answer.meter.info
            if (info.name, info.covers) not in taken and info.update_period_s:
                taken.add((info.name, info.covers))
                mover = _mover(chip, info.scope, backend)
                # A node has many temperatures, and none of them is a chip's.
                warmth = None if answer.metered == "node" else temperature
                found.append(MeterHere(answer.meter, chip.vendor, mover, warmth))
    if not found:
        asked = ", ".join(choice.name for choice in choices)
        what = f"no meter answers here by the name {asked}" if asked else "no power meter is here"
        if asked_for := ", ".join(f"{chip.name} ({chip.vendor})" for chip, _ in chips):
            what += f"; asked for {asked_for}"
        raise NothingToJudgeError("; ".join([what, *refused]), _HINT)
    return found


def on_virtual_clock(here: Sequence[MeterHere]) -> list[MeterHere]:
    """Simulated meters on a clock that moves without time passing."""
    return [
        replace(one, meter=one.simulated.on(VirtualClock())) if one.simulated else one
        for one in here
    ]


def _check_name(name: str) -> None:
    known = [*plugins("chipmark.meters"), SIM]
    if name not in known:
        raise UnknownNameError("meter", name, known)
    meter_factory(name)


def _simulated(choice: MeterChoice) -> MeterHere:
    return MeterHere(simulated_sensor(choice.target, choice.options), "", None)


def _chips(backend: str) -> list[tuple[ChipIdentity, str]]:
    if backend:
        return [(chip_of(backend), split_backend(backend)[1])]
    return [(chip, "") for chip in chips_here()[0]]


def _answers(request: MeterRequest, named: Sequence[MeterChoice]) -> Iterator[Answer]:
    """What every meter says to a request, or those that are named. A fault in what was named (its
    target, an option) is raised."""
    if not named:
        yield from meter_answers(request)
        return
    for choice, metered in product(named, _METERED):
        answer = answer_of(choice.name, replace(request, metered=metered, choices=(choice,)))
        if isinstance(answer.error, FAULTS):
            raise answer.error
        if answer.meter is not None or answer.error is not None:
            yield answer


def _temperature(
    chip: ChipIdentity, backend: str, choices: tuple[MeterChoice, ...]
) -> Temperature | None:
    source = state_source(chip, backend, choices=choices)
    return None if source is None else lambda: source.sample().temperature_c


def _mover(chip: ChipIdentity, scope: Scope, backend: str) -> str | None:
    """The backend whose work moves a meter of this scope, next to this chip."""
    if backend or chip.on_host or scope in _HOST_SCOPES:
        return backend or HOST
    for offer in candidates():
        if offer.missing or ":" not in offer.backend:
            continue
        try:
            if chip_of(offer.backend).vendor == chip.vendor:
                return offer.backend
        except ChipmarkError:
            continue
    return None
