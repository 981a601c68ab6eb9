"""Which backends this machine can be measured with, without importing what they need."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from glob import glob
from typing import Any

from chipmark.cell.environment import run_module
from chipmark.chips.catalogue import catalogue
from chipmark.chips.detect import vendor_trace
from chipmark.chips.nvml import candidates as cards_of
from chipmark.chips.nvml import initialised, open_nvml
from chipmark.engine.machine import Candidate, Machine
from chipmark.engine.plugins import backend_factory
from chipmark.errors import ChipmarkError
from chipmark.registry import is_built_in, plugins


@dataclass(frozen=True, slots=True)
class Offer:
    """A backend that a suite without names would use."""

    backend: str
    """`KIND:DEVICE`; KIND alone where its plug-in could not be asked."""
    missing: str = ""
    """Why it is left out, "" where nothing is missing."""
    remedy: str = ""


class ThisMachine:
    """The machine that the process runs on, as plug-ins may ask about it."""

    def has_module(self, name: str) -> bool:
        """Whether a module is installed."""
        return importlib.util.find_spec(name) is not None

    def has_device(self, kind: str) -> bool:
        """By the PCI ids of the catalogue's vendors, and by the node of NVIDIA's driver, which
        containers show without the bus."""
        if kind == "cuda" and glob("/dev/nvidia[0-9]*"):
            return True
        entries = (e for e in catalogue().vendors.values() if kind in e.devices)
        return any(vendor_trace(entry).pci_devices for entry in entries)

    def cuda_capability(self) -> tuple[int, int] | None:
        """By NVIDIA's library, where it is installed."""
        return capability_of(None) if self.has_module("pynvml") else None

    def run_module(
        self, module: str, *arguments: str, limit_s: float
    ) -> subprocess.CompletedProcess[str]:
        """In the environment of a child."""
        return run_module(module, *arguments, limit_s=limit_s)


def candidates(machine: Machine | None = None) -> list[Offer]:
    """Every backend that a suite looks for, of all installed plug-ins, in the order of measurement.

    A plug-in of another distribution that cannot be asked is an offer of its own, with what is
    wrong with it.
    """
    return offers_of(plugins("chipmark.backends"), machine or ThisMachine())


def offers_of(kinds: Iterable[str], asked: Machine) -> list[Offer]:
    """`candidates` of these kinds of backend."""
    found: list[tuple[int, Offer]] = []
    for name in kinds:
        try:
            told = [_checked(candidate) for candidate in backend_factory(name).candidates(asked)]
        except Exception as error:  # whatever a stranger's code raises costs only its own line
            if is_built_in("chipmark.backends", name):
                raise
            found.append((_LAST, _broken(name, error)))
            continue
        for c in told:
            found.append((c.order, Offer(f"{name}:{c.device}", c.missing, c.remedy)))
    return [offer for _, offer in sorted(found, key=lambda pair: pair[0])]


def capability_of(nvml: Any) -> tuple[int, int] | None:
    """Compute capability of the card that CUDA puts first; None where it is not known. `nvml`:
    bindings of one's own, None for the library's."""
    try:
        bindings = open_nvml() if nvml is None else initialised(nvml)
        cards = cards_of(bindings, "cuda")
    except ChipmarkError:
        return None
    # Where CUDA's order is open, its first card is the fastest.
    known = [card.ask("nvmlDeviceGetCudaComputeCapability") for card in cards]
    return max(((int(a), int(b)) for a, b in filter(None, known)), default=None)


_LAST = 1_000


def _checked(candidate: Candidate) -> Candidate:
    if not isinstance(candidate, Candidate):
        raise TypeError(f"candidates() gives {type(candidate).__name__}, not Candidate")
    return candidate


def _broken(name: str, error: Exception) -> Offer:
    owner = plugins("chipmark.backends")[name].dist
    said = error.message if isinstance(error, ChipmarkError) else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, ChipmarkError) else ""
    remedy = hint or f"repair or uninstall {owner.name if owner is not None else 'its package'}"
    return Offer(name, f"its plug-in cannot be asked: {said}", remedy)
