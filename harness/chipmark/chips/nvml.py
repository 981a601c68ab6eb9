"""NVIDIA's management library: which card computes, and what it says of itself.

The library is opened once in a process and never shut down, since a meter may hold a handle. A
card is found by the UUID or the PCI address that the process which computes on it reports. NVML
numbers cards by PCI bus, CUDA by speed (unless CUDA_DEVICE_ORDER=PCI_BUS_ID), so an index of one
must not be used as an index of the other. Written from NVML's documents; unverified on hardware.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from chipmark.chips.contract import DeviceKey
from chipmark.errors import MissingBackendError, UsageError

POWER_AVERAGE_S = 1.0
"""What nvmlDeviceGetPowerUsage is a mean over, on Ampere and newer except GA100."""

POWER_FIELDS = ("NVML_FI_DEV_POWER_INSTANT", "NVML_FI_DEV_POWER_AVERAGE")
"""Fields of a card's power, the better one first."""

_MOST_W = 20_000.0
"""No card draws more; a driver's all-ones for "unknown" is four megawatts."""

THERMAL = ("sw_thermal_slowdown", "hw_thermal_slowdown")
HARDWARE = ("hw_slowdown", "hw_power_brake_slowdown")
"""Clock event reasons that slow a card down against its settings. A software power cap is not
one: its limit is part of the chip's identity."""

_REASONS: Mapping[str, int] = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clock_setting": 0x100,
}
"""Bits of nvmlClocksEventReasons (nvml.h)."""

SLOWDOWN = sum(_REASONS[name] for name in (*THERMAL, *HARDWARE))
"""Bits of the reasons that are a slowdown."""

_MIG_SLICES = 7
"""Compute slices of a card that can be split (A100, H100, H200, B200); four on A30."""


class AmbiguousCardError(UsageError):
    """Several cards could be the one that computes, and only the loaded process can tell."""


@dataclass(frozen=True, slots=True)
class MigSlice:
    """A part of a card: `used` of `of` parts, and by what they are counted. parent: the card."""

    parent: Any
    profile: str
    used: int
    of: int
    counted_by: str


class Card:
    """One card, or one MIG slice of a card, by NVML's handle."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle

    def ask(self, function: str, *arguments: Any) -> Any:
        """A property, None where the card, the driver or the bindings do not have it."""
        call: Callable[..., Any] | None = getattr(self.nvml, function, None)
        if call is None:
            return None
        try:
            return call(self.handle, *arguments)
        except self.nvml.NVMLError:
            return None

    @property
    def name(self) -> str:
        """What the device calls itself."""
        return text(self.ask("nvmlDeviceGetName") or "")

    @property
    def uuid(self) -> str:
        """`GPU-…` or `MIG-…`, "" where it does not say."""
        return text(self.ask("nvmlDeviceGetUUID") or "")

    @property
    def pci(self) -> str:
        """Domain, bus, device and function, "" where it does not say."""
        info = self.ask("nvmlDeviceGetPciInfo")
        return "" if info is None else text(info.busId)

    @property
    def memory_bytes(self) -> int | None:
        """Memory of the card or the slice."""
        info = self.ask("nvmlDeviceGetMemoryInfo")
        return None if info is None else int(info.total)

    def mig_slice(self) -> MigSlice | None:
        """What part of a card this is; None for a whole card.

        Parts are counted by compute slices where the card tells them, else by memory. Of a card
        that is split while no slice is named, CUDA takes the first slice.
        """
        if not self.ask("nvmlDeviceIsMigDeviceHandle"):
            mode = self.ask("nvmlDeviceGetMigMode")
            if not mode or not mode[0]:
                return None
            parts = slices_of(self)
            first = parts[0].mig_slice() if parts else None
            return first or MigSlice(self, "", 1, _MIG_SLICES, "one slice of unknown size")
        handle = self.ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle")
        parent = Card(self.nvml, self.handle if handle is None else handle)
        profile = self.name.rpartition(" MIG ")[2] if " MIG " in self.name else ""
        attributes = self.ask("nvmlDeviceGetAttributes")
        slices = int(getattr(attributes, "gpuInstanceSliceCount", 0) or 0)
        if slices:
            of = 4 if "A30" in parent.name else _MIG_SLICES
            # All slices in one instance are still not the card: it runs in another mode.
            return MigSlice(parent, profile, slices, max(of, slices + 1), "compute slices")
        own, whole = self.memory_bytes, parent.memory_bytes
        of = max(2, round(whole / own)) if own and whole else 2
        counted = "memory" if own and whole else "nothing that the driver tells; at least halves"
        return MigSlice(parent, profile, 1, of, counted)

    def field_w(self, name: str, scope: str = "") -> float | None:
        """Watts by a power field, `NVML_FI_DEV_POWER_…`, of a scope `NVML_POWER_SCOPE_…` where one
        is named; None where the bindings, the driver or the card do not have it."""
        field = getattr(self.nvml, name, None)
        which = getattr(self.nvml, scope, None) if scope else None
        if field is None or (scope and which is None):
            return None
        values = self.ask("nvmlDeviceGetFieldValues", [(field, which) if scope else field])
        return watts(values[0].value.uiVal) if values and values[0].nvmlReturn == 0 else None

    def usage_w(self) -> float | None:
        """Watts by nvmlDeviceGetPowerUsage; None where the card refuses it."""
        return watts(self.ask("nvmlDeviceGetPowerUsage"))

    def power_w(self) -> float | None:
        """Watts now: by the instantaneous field, else by that of the average, else by the older
        call (both over POWER_AVERAGE_S); None where it has none.

        A driver may refuse the query of fields altogether while the older call works.
        """
        for name in POWER_FIELDS:
            if (found := self.field_w(name)) is not None:
                return found
        return self.usage_w()

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded (Volta and newer)."""
        millijoules = self.ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else float(millijoules) / 1000

    def power_limits_w(self) -> tuple[float | None, float | None]:
        """(enforced, default) power limit."""
        limits = (
            self.ask("nvmlDeviceGetEnforcedPowerLimit"),
            self.ask("nvmlDeviceGetPowerManagementDefaultLimit"),
        )
        enforced, default = (None if limit is None else limit / 1000 for limit in limits)
        return enforced, default

    def clock_mhz(self) -> int | None:
        """Clock of the streaming multiprocessors now."""
        return self._number("nvmlDeviceGetClockInfo", "NVML_CLOCK_SM")

    def memory_clock_mhz(self) -> int | None:
        """Clock of the memory now."""
        return self._number("nvmlDeviceGetClockInfo", "NVML_CLOCK_MEM")

    def temperature_c(self) -> int | None:
        """Temperature of the chip now, degrees Celsius."""
        return self._number("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU")

    def _number(self, function: str, constant: str) -> int | None:
        which = getattr(self.nvml, constant, None)
        value = None if which is None else self.ask(function, which)
        return None if value is None else int(value)

    def reason_mask(self) -> int | None:
        """NVML's clock event reasons now, as bits; None where the card does not say."""
        mask = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if mask is None:
            mask = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if mask is None else int(mask)

    def reasons(self) -> tuple[str, ...] | None:
        """The same by name; bits that are not known here as `reason_0x…`."""
        mask = self.reason_mask()
        return None if mask is None else reason_names(mask)


def reason_names(mask: int) -> tuple[str, ...]:
    """Names of clock event reasons by their bits; bits that are not known as `reason_0x…`."""
    known = [name for name, bit in _REASONS.items() if mask & bit]
    rest = mask & ~sum(_REASONS.values())
    return (*known, *((f"reason_{rest:#x}",) if rest else ()))


_opened: list[Any] = []


def open_nvml() -> Any:
    """The bindings, initialised once.

    Raises MissingBackendError where they are not installed or no driver answers.
    """
    try:
        import pynvml
    except ModuleNotFoundError as error:
        raise MissingBackendError(
            "an NVIDIA card is identified by NVML, whose bindings are not installed",
            "pip install 'chipmark[cuda]' (nvidia-ml-py)",
        ) from error
    return initialised(pynvml)


def initialised(nvml: ModuleType | Any) -> Any:
    """The same bindings after nvmlInit; MissingBackendError where no driver answers."""
    if not any(nvml is known for known in _opened):
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise MissingBackendError(
                f"no NVIDIA driver answers ({error})", "check that nvidia-smi works here"
            ) from error
        _opened.append(nvml)
    return nvml


def cards(nvml: Any) -> list[Card]:
    """Every card that NVML shows, by PCI bus."""
    try:
        return [
            Card(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            for index in range(int(nvml.nvmlDeviceGetCount()))
        ]
    except nvml.NVMLError:
        return []


def find_card(
    nvml: Any, device: str, key: DeviceKey | None, environ: Mapping[str, str] | None = None
) -> Card:
    """The card behind `cuda[:N]`.

    By the key where the loaded process gave one: UUID, else PCI address, else a name that only one
    visible card has. Without a key by CUDA_VISIBLE_DEVICES. Raises UsageError where there is no
    such card, AmbiguousCardError where unlike or like cards remain and only CUDA knows the order.
    """
    environ = os.environ if environ is None else environ
    if key is not None and key.uuid:
        return by_uuid(nvml, key.uuid)
    if key is not None and key.pci:
        return by_pci(nvml, key.pci)
    found = _visible(nvml, _index(device), environ)
    if len(found) > 1 and key is not None and key.name:
        found = [card for card in found if card.name == key.name] or found
    if len(found) > 1:
        names = ", ".join(card.name for card in found)
        raise AmbiguousCardError(
            f"{device} may be any of {len(found)} cards ({names}): CUDA orders them by speed, "
            "NVML by PCI bus",
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or CUDA_VISIBLE_DEVICES to the card's UUID",
        )
    return found[0]


def candidates(nvml: Any, device: str, environ: Mapping[str, str] | None = None) -> list[Card]:
    """The cards that `cuda[:N]` may be before the computing process has reported which."""
    return _visible(nvml, _index(device), os.environ if environ is None else environ)


def by_uuid(nvml: Any, uuid: str) -> Card:
    """A card or MIG slice by its UUID, with or without `GPU-`/`MIG-`, or the beginning of one."""
    try:
        return Card(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
    except nvml.NVMLError:
        wanted = _plain(uuid)
    everything = [part for card in cards(nvml) for part in (card, *slices_of(card))]
    kind = uuid[:4].upper() if uuid[:4].upper() in ("GPU-", "MIG-") else ""
    found = [
        part
        for part in everything
        if _plain(part.uuid).startswith(wanted) and part.uuid.upper().startswith(kind)
    ]
    if len({part.uuid for part in found}) != 1 or not wanted:
        raise UsageError(
            f"{uuid!r} is the beginning of {len(found)} UUIDs that NVML knows",
            "nvidia-smi -L lists the cards and their MIG slices",
        )
    return found[0]


def by_pci(nvml: Any, address: str) -> Card:
    """A card by its PCI address, with a domain of 4 or 8 digits or none, function left aside."""
    wanted = _pci(address)
    for card in cards(nvml):
        if wanted is not None and _pci(card.pci) == wanted:
            return card
    raise UsageError(
        f"NVML knows no card at PCI address {address!r}", "nvidia-smi -L -i lists the cards"
    )


def same_uuid(one: str, other: str) -> bool:
    """Whether two UUIDs are one, whatever prefix they are written with."""
    return bool(one) and _plain(one) == _plain(other)


def same_pci(one: str, other: str) -> bool:
    """Whether two PCI addresses are one."""
    return _pci(one) is not None and _pci(one) == _pci(other)


def _visible(nvml: Any, index: int, environ: Mapping[str, str]) -> list[Card]:
    """The cards that CUDA device `index` may be: one where that is certain, else all in question.

    CUDA_VISIBLE_DEVICES holds indices in CUDA's order, UUIDs or their beginnings; CUDA stops at
    the first entry that is not a device.
    """
    everything = cards(nvml)
    by_bus = environ.get("CUDA_DEVICE_ORDER", "").strip() == "PCI_BUS_ID"
    named = environ.get("CUDA_VISIBLE_DEVICES")
    hint = f"CUDA_VISIBLE_DEVICES is {named!r}; nvidia-smi -L lists the cards"
    number = index
    if named is not None:
        entries = [entry.strip() for entry in named.split(",")]
        if index >= len(entries) or entries[index] in ("", "-1"):
            raise UsageError(f"cuda:{index} is not a visible device", hint)
        entry = entries[index]
        if not entry.isdigit():
            return [by_uuid(nvml, entry)]
        number = int(entry)
    if number >= len(everything):
        raise UsageError(f"cuda:{index} is not a device that NVML knows", hint)
    if by_bus or len(everything) == 1:
        return [everything[number]]
    return everything


def slices_of(card: Card) -> list[Card]:
    """The MIG slices of a card."""
    count = card.ask("nvmlDeviceGetMaxMigDeviceCount") or 0
    found = (card.ask("nvmlDeviceGetMigDeviceHandleByIndex", number) for number in range(count))
    return [Card(card.nvml, handle) for handle in found if handle is not None]


def _index(device: str) -> int:
    text_of = device.partition(":")[2] or "0"
    if not text_of.isdigit():
        raise UsageError(f"{device!r} does not name a card by its number", "for example cuda:0")
    return int(text_of)


def _plain(uuid: str) -> str:
    return uuid.strip().lower().removeprefix("gpu-").removeprefix("mig-").replace("-", "")


def _pci(address: str) -> tuple[int, ...] | None:
    """(domain, bus, device) of an address."""
    parts = address.strip().partition(".")[0].split(":")
    try:
        numbers = [int(part, 16) for part in parts]
    except ValueError:
        return None
    padded = [0] * (3 - len(numbers)) + numbers
    return tuple(padded) if len(padded) == 3 and len(numbers) >= 2 else None


def watts(milliwatts: float | None) -> float | None:
    """Watts of NVML's milliwatts; None for what no card that answers draws: nothing at all, or
    over 20 kW."""
    found = None if milliwatts is None else float(milliwatts) / 1000
    return found if found is not None and 0 < found <= _MOST_W else None


def text(value: str | bytes) -> str:
    """Older bindings answer bytes."""
    return value.decode() if isinstance(value, bytes) else value


def limited(enforced_w: float | None, default_w: float | None) -> bool:
    """Whether the power limit is set below the card's default."""
    if enforced_w is None or default_w is None:
        return False
    return enforced_w < default_w and not math.isclose(enforced_w, default_w, abs_tol=0.5)
