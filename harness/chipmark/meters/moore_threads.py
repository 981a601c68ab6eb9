"""Moore Threads' cards by their library: pymtml, of the package mthreads-ml-py.

Its power is an integer without a unit in the code; the package's description says milliwatts
(2.4.3), and its imitation of NVML hands the same number on as NVML's milliwatts. A missing driver
is an OSError of the first call and none of the library's own errors. The library is opened once in
a process and never shut down: after a shutdown it cannot be opened again. Written from the
package's source; unverified on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

from chipmark.errors import ChipmarkError, MissingBackendError
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.poll import Reading, Sampler, infer_period
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.cards import card_of, cards_of
from chipmark.meters.tools.mthreads_gmi import MTHREADS_GMI
from chipmark.meters.tools.printed import reading_of
from chipmark.meters.tools.reading import DieReading
from chipmark_models.plain_text import one_line

NAME = "mtml"
_TAKEN_PERIOD_S = 1.0
_LEAST_READING_S, _MOST_READING_S = 0.05, 0.25
_ERROR_REL = 0.05
_LEAST_W, _MOST_W = 1.0, 20_000.0
_GUEST, _INSTANCE = 2, 2  # MTML_VIRT_ROLE_GUEST_VIRTDEVICE, MTML_MPC_TYPE_INSTANCE
_UNVERIFIED = (
    "unverified on hardware: written from the package's source, its power taken as milliwatts"
)
_CARDS = replace(MTHREADS_GMI, name=NAME)
"""The vendor's cards as its tool numbers them, under this meter's name in messages."""

_opened: list[Any] = []


class MtmlMeter:
    """One whole card, whose power is polled."""

    def __init__(
        self,
        mtml: ModuleType | Any,
        reading: DieReading,
        infer: Callable[[Callable[[], float | None]], float | None] | None = None,
    ) -> None:
        """reading: the card by its number in the library. Raises ChipmarkError where it gives no
        power, or a power that cannot be milliwatts."""
        self._mtml = mtml
        self._device = mtml.mtmlLibraryInitDeviceByIndex(reading.card)
        self._checked()
        found = (infer or infer_period)(self._watts_or_none)
        period = found or _TAKEN_PERIOD_S
        reading_s = min(max(period / 4, _LEAST_READING_S), _MOST_READING_S)
        taken = f"the update period was not seen at idle and is taken as {_TAKEN_PERIOD_S:g} s"
        known = ", ".join(text for text in (reading.name, reading.uuid or reading.pci) if text)
        self.info = MeterInfo(
            name=NAME,
            source="polled",
            scope="board",
            method="mtmlDeviceGetPowerUsage",
            update_period_s=period,
            error_rel=_ERROR_REL,
            covers=f"one card, {known or reading.card}",
            verified=False,
            notes=(_UNVERIFIED,) if found is not None else (_UNVERIFIED, taken),
            period_known=found is not None,
            reading_period_s=reading_s,
            resolution_w=0.001,
            jittered=True,
        )
        self._sampler = Sampler(self._read, reading_s)

    @classmethod
    def for_request(cls, request: MeterRequest) -> MtmlMeter | None:
        """The meter of a Moore Threads card; None for other chips and where the package or the
        driver is not here.

        Raises ChipmarkError where the card that computes is not known, is a part of one, or gives
        no power.
        """
        if request.metered != "unit" or request.vendor != _CARDS.vendor or request.unit != "card":
            return None
        try:
            mtml = open_mtml()
        except MissingBackendError:
            return None
        card = card_of(_CARDS, cards_of(_CARDS, devices(mtml)), request)
        return cls(mtml, card.dies[0])

    def start(self) -> None:
        """Begin sampling."""
        self._sampler.start()

    def stop(self) -> PowerSamples:
        """End sampling; power in watts, and no counter."""
        return self._sampler.stop()

    def _read(self) -> Reading:
        return math.nan, self._checked()

    def _checked(self) -> float:
        watts = self._watts_or_none()
        if watts is None:
            raise ChipmarkError(
                "Moore Threads' library gives no power of this card",
                "try its tool with --meter mthreads-gmi, or declare the power with --power-w",
            )
        if not _LEAST_W <= watts <= _MOST_W:
            raise ChipmarkError(
                f"its library gives {watts:g} W (taken as milliwatts), which no card draws",
                "its unit may have changed: use --meter mthreads-gmi, whose watts have a unit",
            )
        return watts

    def _watts_or_none(self) -> float | None:
        milliwatts = _ask(self._mtml, "mtmlDeviceGetPowerUsage", self._device)
        return None if milliwatts is None else float(milliwatts) / 1000


def open_mtml() -> Any:
    """The bindings, initialised once.

    Raises MissingBackendError where they are not installed or no driver answers.
    """
    try:
        import pymtml
    except ModuleNotFoundError as error:
        raise MissingBackendError(
            "Moore Threads' library needs its bindings, which are not installed",
            "pip install mthreads-ml-py",
        ) from error
    if not any(pymtml is known for known in _opened):
        try:
            pymtml.mtmlLibraryInit()
        except (OSError, pymtml.MTMLError) as error:
            raise MissingBackendError(
                f"no Moore Threads driver answers ({one_line(str(error), 120)})",
                "check that mthreads-gmi works here",
            ) from error
        _opened.append(pymtml)
    return pymtml


def devices(mtml: ModuleType | Any) -> tuple[DieReading, ...]:
    """Every card that the library lists, by its number there; () where it lists none."""
    count = _ask(mtml, "mtmlLibraryCountDevice") or 0
    found = []
    for number in range(int(count)):
        device = _ask(mtml, "mtmlLibraryInitDeviceByIndex", number)
        if device is None:
            continue
        info = _ask(mtml, "mtmlDeviceGetPciInfo", device)
        texts = {
            "name": _text(_ask(mtml, "mtmlDeviceGetName", device)),
            "uuid": _text(_ask(mtml, "mtmlDeviceGetUUID", device)),
            "pci": _text(getattr(info, "sbdf", "")),
        }
        found.append(reading_of(number, texts, shared=_part(mtml, device)))
    return tuple(found)


def _part(mtml: ModuleType | Any, device: Any) -> str:
    """How a device is a part of a card, "" for a whole one."""
    properties = _ask(mtml, "mtmlDeviceGetProperty", device)
    if getattr(properties, "virtRole", 0) == _GUEST:
        return "vGPU"
    return "MPC instance" if getattr(properties, "mpcType", 0) == _INSTANCE else ""


def _ask(mtml: ModuleType | Any, function: str, *arguments: Any) -> Any:
    """An answer of the library; None where the card, the driver or the bindings do not have it."""
    call: Callable[..., Any] | None = getattr(mtml, function, None)
    if call is None:
        return None
    try:
        return call(*arguments)
    except mtml.MTMLError:
        return None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
