"""Who tells the state of a cell's device, and the watch over a repeat."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from chipmark.chips import nvml as nv
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.state import StateSource
from chipmark.chips.state_card import CardSource
from chipmark.chips.state_cpu import CpuSource
from chipmark.chips.state_notes import BUSY_SHARE
from chipmark.chips.state_simulated import SimulatedSource
from chipmark.errors import ChipmarkError
from chipmark.log import logger_of
from chipmark.meters.choice import MeterChoice
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.state import tool_source
from chipmark.registry import is_simulated, split_backend

_LOG = logger_of(__name__)

_SETTLE_S = 3.0
"""A gauge of use is a mean over up to a second, of what this run itself did just before."""

_ASK_S = 0.25


def state_source(
    chip: ChipIdentity,
    backend: str = "",
    root: Path = Path("/"),
    mask: Iterable[int] | None = None,
    choices: tuple[MeterChoice, ...] = (),
) -> StateSource | None:
    """What tells the state of a chip; None where nothing here can.

    backend: what runs on it; "" for a chip that is there. mask: the CPUs that a host's threads run
    on; None for this process's own. choices: the meters that the user named, which may say which
    card of a tool it is.
    """
    if is_simulated(backend):
        return SimulatedSource(split_backend(backend)[1])
    if chip.on_host:
        if mask is None:
            mask = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
        return CpuSource(mask, root)
    device = backend.partition(":")[2]
    request = MeterRequest(chip.vendor, chip.unit, device, key=chip.key, choices=choices)
    for find in (_card_source, tool_source):
        try:
            found: StateSource | None = find(request)
        except ChipmarkError as error:
            _LOG.info("the state of %s cannot be read: %s", chip.name, error.message)
            continue
        if found is not None:
            return found
    return None


def _card_source(request: MeterRequest) -> CardSource | None:
    """Of an NVIDIA card that is known; UsageError or MissingBackendError where NVML is not."""
    if request.vendor != "NVIDIA" or not (request.key.uuid or request.key.pci):
        return None
    return CardSource(nv.find_card(nv.open_nvml(), "cuda", request.key))


def busy_at_rest(
    source: StateSource,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float | None:
    """How busy a device stays while all processes of this run are stopped; None where it has no
    such gauge. Asked until it is at rest, for at most three seconds."""
    until = clock() + _SETTLE_S
    busy = source.read().busy
    while busy is not None and busy > BUSY_SHARE and clock() < until:
        sleep(_ASK_S)
        busy = source.read().busy
    return busy
