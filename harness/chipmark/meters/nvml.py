"""NVIDIA cards: the energy counter where there is one, else polled power.

Counter: nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded (Volta and
newer). Counter and power come from one sensor of the board, so that their agreement shows
consistency and not accuracy; on A100 and H100 that sensor looks at about a quarter of the time
(arXiv 2312.02741). `nvml-power` is the power of a card whose counter is the first source, and
`nvml-module` that of the superchip which the card is a part of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from chipmark.chips.nvml import Card, find_card, open_nvml
from chipmark.errors import ChipmarkError, MissingBackendError
from chipmark.meters.contract import MeterInfo, PowerSamples, Scope
from chipmark.meters.nvml_power import (
    FALLBACK_PERIOD_S,
    LEAST_READING_S,
    MODULE,
    InferPeriod,
    PowerWay,
    in_module,
    module_way,
    power_call,
    power_way,
)
from chipmark.meters.poll import MakeSampler, Reading, Sampler, infer_period
from chipmark.meters.request import MeterRequest

_ERROR_REL = 0.05
_STEP_W = 0.001  # NVML counts in milliwatts and millijoules
_UNVERIFIED = "unverified on hardware: written from NVML's documents and tested by replay"
_TAKEN = f"the update period was not seen at idle and is taken as {FALLBACK_PERIOD_S:g} s"
_PART_TIME = ("A100", "H100")
_UNSEEN = (
    "its sensor looks at about 25 ms of each 100 ms (arXiv 2312.02741): what a load in step with "
    "it hides is not in the error bound"
)
_VGPU = 2  # NVML_GPU_VIRTUALIZATION_MODE_VGPU: this is a guest with a share of a card


MeterT = TypeVar("MeterT")


class _CardMeter:
    """What the three have in common: a sampler over one card."""

    info: MeterInfo
    _sampler: Sampler

    def start(self) -> None:
        """Begin sampling."""
        self._sampler.start()

    def stop(self) -> PowerSamples:
        """End sampling; energy in joules since the driver was loaded, power in watts."""
        return self._sampler.stop()


class NvmlMeter(_CardMeter):
    """One whole card. Sampled four times an update, at most every 10 ms."""

    def __init__(
        self, card: Card, infer: InferPeriod = infer_period, sampler: MakeSampler = Sampler
    ) -> None:
        """Raises ChipmarkError for a MIG slice, a vGPU and a card without any sensor."""
        refuse_part(card)
        self._card = card
        if card.energy_j() is None:
            way = power_way(card, infer)
            if way is None:
                raise ChipmarkError(
                    "this card gives neither energy nor power by NVML",
                    "give the board's power with --power-w, or go without energy",
                )
            self.info = _by_power(card, "nvml", "board", way)
            self._sampler = sampler(way.read, way.asked_s)
            return
        self._power = power_call(card)
        # Of the value that is integrated: power moves at a rate of its own.
        found = infer(card.energy_j)
        period = found or FALLBACK_PERIOD_S
        reading = max(LEAST_READING_S, period / 4)
        self.info = MeterInfo(
            name="nvml",
            source="counter",
            scope="board",
            method="nvmlDeviceGetTotalEnergyConsumption",
            update_period_s=period,
            error_rel=_ERROR_REL,
            covers=_covers(card),
            verified=False,
            notes=(_UNVERIFIED, *_unseen(card), *(() if found is not None else (_TAKEN,))),
            period_known=found is not None,
            reading_period_s=reading,
            cap_w=card.power_limits_w()[0],
            resolution_w=_STEP_W,
            jittered=True,
        )
        self._sampler = sampler(self._read, reading)

    @classmethod
    def for_request(cls, request: MeterRequest) -> NvmlMeter | None:
        """The meter of an NVIDIA card; None for other chips and where NVML is not here.

        Raises ChipmarkError where the card that computes is not known, is split, or has no sensor.
        """
        card = _asked_for(request)
        return None if card is None else cls(card)

    def _read(self) -> Reading | None:
        energy = self._card.energy_j()
        power = None if self._power is None else self._power[1]()
        if energy is None and power is None:
            return None
        return (
            math.nan if energy is None else energy,
            math.nan if power is None else power,
        )


class NvmlPowerMeter(_CardMeter):
    """A card's power as a second source next to its counter; both come from one sensor."""

    def __init__(self, card: Card, infer: InferPeriod = infer_period) -> None:
        """Raises ChipmarkError for a MIG slice, a vGPU and a card without power."""
        refuse_part(card)
        way = power_way(card, infer)
        if way is None:
            raise ChipmarkError("this card gives no power by NVML", "leave out --meter nvml-power")
        note = "the second source of the card that nvml counts: it shows consistency, not accuracy"
        self.info = _by_power(card, "nvml-power", "board", way, note)
        self._sampler = Sampler(way.read, way.asked_s)

    @classmethod
    def for_request(cls, request: MeterRequest) -> NvmlPowerMeter | None:
        """A second source where `nvml` counts energy, else None. A card that cannot be metered
        is reported by `nvml`, and by this meter only if the user named it."""
        return _beside(request, "nvml-power", cls, lambda card: card.energy_j() is not None)


class NvmlModuleMeter(_CardMeter):
    """The power of the module that a card is a part of: a superchip's GPU, CPU and memory."""

    def __init__(self, card: Card, infer: InferPeriod = infer_period) -> None:
        """Raises ChipmarkError for a MIG slice, a vGPU and a card without a module."""
        refuse_part(card)
        way = module_way(card, infer)
        if way is None:
            raise ChipmarkError(
                "NVML gives no power of a module here: the card is not on a superchip, or the "
                "driver does not report it",
                "leave out --meter nvml-module",
            )
        note = "covers the GPU, the CPU and the memory of its package, whoever used them"
        self.info = _by_power(card, "nvml-module", "module", way, note)
        self._sampler = Sampler(way.read, way.asked_s)

    @classmethod
    def for_request(cls, request: MeterRequest) -> NvmlModuleMeter | None:
        """On a superchip it answers for the host, whose processor is on the module; for the unit
        only if the user named it."""
        if request.metered == "host":
            return _beside(replace(request, metered="unit"), "nvml-module", cls, in_module)
        return _beside(request, "nvml-module", cls, lambda card: False)


def _unseen(card: Card) -> tuple[str, ...]:
    return (_UNSEEN,) if any(name in card.name for name in _PART_TIME) else ()


def refuse_part(card: Card) -> None:
    """Raise ChipmarkError for a MIG slice and for a vGPU: the sensors are the whole card's."""
    part = card.mig_slice()
    if part is not None:
        raise ChipmarkError(
            f"the sensors count the whole card, and a MIG slice is {part.used} of {part.of} "
            "parts of it",
            "measure energy on a card that is not split",
        )
    if card.ask("nvmlDeviceGetVirtualizationMode") == _VGPU:
        raise ChipmarkError(
            "the sensors count the whole card, and a vGPU is a part of it that others share",
            "measure energy on a card that is not split",
        )


def _asked_for(request: MeterRequest) -> Card | None:
    """The card of a request; None where it asks for no NVIDIA card, or NVML is not here."""
    if request.vendor != "NVIDIA" or request.metered != "unit":
        return None
    try:
        nvml = open_nvml()
    except MissingBackendError:
        return None
    return find_card(nvml, request.device, request.key)


def _beside(
    request: MeterRequest,
    name: str,
    make: Callable[[Card], MeterT],
    useful: Callable[[Card], bool],
) -> MeterT | None:
    """A second meter of the card, where it is useful or the user named it. Errors are raised only
    if it was named: `nvml` reports the same ones."""
    named = request.choice(name) is not None
    try:
        card = _asked_for(request)
        if card is None or not (named or useful(card)):
            return None
        return make(card)
    except ChipmarkError:
        if named:
            raise
        return None


def _covers(card: Card) -> str:
    return f"one card, {card.uuid or card.pci or card.name}"


def _by_power(card: Card, name: str, scope: Scope, way: PowerWay, *notes: str) -> MeterInfo:
    """What a meter of watts says of itself."""
    module = scope == "module"
    limit = "NVML_FI_DEV_POWER_CURRENT_LIMIT"
    return MeterInfo(
        name=name,
        source="polled",
        scope=scope,
        method=way.method,
        update_period_s=way.period_s,
        averaging_s=way.averaging_s,
        error_rel=_ERROR_REL,
        covers=f"the module of {_covers(card)}" if module else _covers(card),
        verified=False,
        notes=(_UNVERIFIED, *notes, *_unseen(card), *(() if way.period_known else (_TAKEN,))),
        period_known=way.period_known,
        reading_period_s=way.reading_s,
        cap_w=card.field_w(limit, MODULE) if module else card.power_limits_w()[0],
        resolution_w=_STEP_W,
        jittered=not way.dated,
    )
