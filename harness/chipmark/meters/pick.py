"""Which meters a cell is read by: the row's, those next to it, and what could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chipmark.errors import BadInputError, ChipmarkError, UnknownNameError, UsageError
from chipmark.log import logger_of
from chipmark.meters.calibration import calibrated_meter
from chipmark.meters.choice import MeterChoice
from chipmark.meters.contract import Meter, MeterInfo, file_slug
from chipmark.meters.declared import AssumedMeter, DeclaredMeter
from chipmark.meters.plugins import meter_factory
from chipmark.meters.request import Metered, MeterRequest
from chipmark.registry import SIMULATED, plugins

_LOG = logger_of(__name__)
_DECLARED = "declared"
_AROUND: tuple[Metered, ...] = ("host", "node")
FAULTS = (UsageError, UnknownNameError, BadInputError)
"""Errors of what the user gave, a target or an option, and not of the meter."""

_DOCTOR = "`chipmark doctor` lists the meters that answer here"


@dataclass(frozen=True, slots=True)
class Picked:
    """The meters of a cell, each of another sensor."""

    meter: Meter | None = None
    """The row's, whose joules its columns are made from; None where there is none."""
    beside: tuple[Meter, ...] = ()
    """Those whose readings are kept next to it: of the host, of the node, or named by the user."""
    remarks: tuple[str, ...] = ()
    """What of them could not be read and why, for the row."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a meter says to a request: at most one of the two is there, none where it does not
    meter such a thing."""

    name: str
    metered: Metered
    meter: Meter | None = None
    error: ChipmarkError | None = None
    """Why it cannot be read."""

    @property
    def refusal(self) -> str:
        """The same in a line; "" where there is none."""
        return "" if self.error is None else self.error.sentences


def pick_meters(request: MeterRequest) -> Picked:
    """The meters of a unit.

    Named (`request.choices`): exactly those, and the first is the row's. Raises UnknownNameError
    for a name that no meter has, and UsageError, with what helps, for one that cannot be read.

    Not named: the row's is what the user declared (who knows that the sensor here is wrong or does
    not see a part), else the first that meters the unit, else what the nameplate lets assume.
    Next to it is every one that meters the host or the node without being named. One that
    cannot be read is a remark.
    """
    return _named(request) if request.choices else _unnamed(request)


def row_meter(request: MeterRequest) -> Meter | None:
    """The meter of the unit alone, where none was named; None where there is none."""
    return _of_unit(request, [])


def meter_answers(request: MeterRequest) -> tuple[Answer, ...]:
    """What every meter but the user's own figure says of the unit, its host and its node, in the
    order in which they are asked; without those that do not meter such a thing."""
    answers = [
        answer
        for metered in ("unit", *_AROUND)
        for answer in _asked(replace(request, metered=metered), first=False)
    ]
    return tuple(answer for answer in answers if answer.meter is not None or answer.refusal)


def check_names(choices: Sequence[MeterChoice], declared_w: float | None) -> None:
    """Raise UnknownNameError for a name that no meter has, UsageError for one that is given twice
    and for a declared power that has no place among them."""
    names = [choice.name for choice in choices]
    for name in names:
        if name == SIMULATED:
            raise UsageError(
                "--meter sim:SENSOR is for `chipmark power watch` and `calibrate`, not for a run",
                "simulated devices bring meters of their own: -b sim:pulsed",
            )
        meter_factory(name)
        if names.count(name) > 1:
            raise UsageError(f"--meter names {name} twice", "a sensor is read once")
    if choices and declared_w is not None and _DECLARED not in names:
        raise UsageError(
            "--power-w and --meter are given, and not which of them is the row's",
            f"name it as well, first where it is the row's: --meter {_DECLARED}",
        )


def _unnamed(request: MeterRequest) -> Picked:
    remarks: list[str] = []
    own = _of_unit(request, remarks)
    taken = [] if own is None else [own]
    for metered in _AROUND:
        for answer in _asked(replace(request, metered=metered), first=False):
            if answer.refusal:
                remarks.append(f"{answer.name}: {answer.refusal}")
            elif answer.meter is not None and not _is_taken(answer.meter.info, taken):
                taken.append(answer.meter)
    beside = taken if own is None else taken[1:]
    return Picked(own, tuple(beside), tuple(dict.fromkeys(remarks)))


def _of_unit(request: MeterRequest, remarks: list[str]) -> Meter | None:
    declared = DeclaredMeter.for_request(request)
    if declared is not None:
        if declared.info.source != "declared":
            remarks.append(f"--power-w: {declared.info.method}")
        return declared
    for answer in _asked(replace(request, metered="unit"), first=True):
        if answer.meter is not None:
            return answer.meter
        if answer.refusal:
            remarks.append(f"{answer.name}: {answer.refusal}")
    if request.assumed is not None:
        return AssumedMeter(request.assumed)
    remarks.append("power is not measured here; declare it with --power-w W")
    return None


def _asked(request: MeterRequest, *, first: bool) -> list[Answer]:
    """What every meter says to a request, up to the `first` that meters it. A declared power is
    not asked for: it is of the unit, and goes before all."""
    answers = []
    for name in plugins("chipmark.meters"):
        if name == _DECLARED:
            continue
        answers.append(answer_of(name, request))
        if first and answers[-1].meter is not None:
            break
    return answers


def answer_of(name: str, request: MeterRequest) -> Answer:
    """What the meter of that name says to a request."""
    try:
        meter = calibrated_meter(name, request)
    except ChipmarkError as error:
        _LOG.info("meter %s cannot be read: %s", name, error.message)
        return Answer(name, request.metered, error=error)
    if meter is None:
        metered, unit, vendor = request.metered, request.unit, request.vendor
        _LOG.debug("meter %s does not meter the %s, %s of %s", name, metered, unit, vendor)
    else:
        _LOG.info("meter %s: %s, %s", name, meter.info.source, meter.info.method)
    return Answer(name, request.metered, meter)


def _is_taken(info: MeterInfo, taken: Sequence[Meter]) -> bool:
    """Whether a sensor is read already: by name, or by everything that a meter says of it."""
    return any(
        file_slug(info.name) == file_slug(meter.info.name)
        or (info.scope, info.covers, info.method)
        == (meter.info.scope, meter.info.covers, meter.info.method)
        for meter in taken
    )


def _named(request: MeterRequest) -> Picked:
    check_names(request.choices, request.declared_w)
    meters: list[Meter] = []
    for choice in request.choices:
        # A meter that covers the host alone tells nothing of the unit, so it cannot be the row's.
        kinds: tuple[Metered, ...] = ("unit", *_AROUND) if meters else ("unit", "node")
        meter = _named_meter(choice, request, kinds, is_row=not meters)
        if _is_taken(meter.info, meters):
            raise UsageError(
                f"--meter {choice.name} reads a sensor that another one named reads already",
                "leave one of them out",
            )
        meters.append(meter)
    return Picked(meters[0], tuple(meters[1:]))


def _named_meter(
    choice: MeterChoice, request: MeterRequest, kinds: Sequence[Metered], *, is_row: bool
) -> Meter:
    """The meter that the user named, of the first of these that it meters. A refusal to meter the
    unit is final for the row's: what covers more than a share of a machine does not meter it."""
    refusals: list[ChipmarkError] = []
    for metered in kinds:
        answer = answer_of(choice.name, replace(request, metered=metered, choices=(choice,)))
        if answer.meter is not None:
            return answer.meter
        if answer.error is not None:
            refusals.append(answer.error)
            if is_row:
                break
    if not refusals:
        if choice.name == _DECLARED:
            raise UsageError("--meter declared needs the power to declare", "add --power-w WATTS")
        unit = f"the {request.unit} of {request.vendor or 'this chip'}"
        around = "" if is_row else ", its host or its node"
        hint = _DOCTOR
        if is_row:
            hint = f"the first that is named is the row's, so it must meter it; {hint}"
        raise UsageError(f"--meter {choice.name} does not meter {unit}{around}", hint)
    first = refusals[0]
    if isinstance(first, FAULTS):
        raise first
    raise UsageError(f"--meter {choice.name}: {first.message}", first.hint) from first
