"""AMD's management library (amdsmi): which card computes, and what it says of its power.

Without ROCm the import of its bindings raises KeyError after it has printed why, so it is imported
only for a chip that is AMD's. It is opened once in a process and never shut down. Names of answers
differ by version: the accumulator is `power` until 6.0 and `energy_accumulator` since; power is
`average_socket_power` alone at first, `current_socket_power` is of MI300 and newer, and
`socket_power` of 7.0 and newer is the one of both that the card has. Written from AMD's documents
and from reports of its users; unverified on hardware.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from typing import Any

from chipmark.chips.contract import DeviceKey
from chipmark.chips.nvml import AmbiguousCardError, same_pci, text
from chipmark.errors import MissingBackendError, UsageError
from chipmark.log import logger_of
from chipmark_models.plain_text import one_line

_LOG = logger_of(__name__)

POWER_KEYS = ("current_socket_power", "socket_power", "average_socket_power")
"""Of an answer of amdsmi_get_power_info, the better one first."""

_ENERGY_KEYS = ("energy_accumulator", "power")
_MOST_W = 20_000.0
_MOST_COUNT = 2**64 - 1
_MICRO = 1e-6
_WHOLE = ("", "N/A", "SPX")
"""Compute partitions of a card that is not split."""

_MASKS = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
_OTHER_MASKS = ("ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
_HINT = "set HIP_VISIBLE_DEVICES to the number of one card, and no other mask"


class AmdCard:
    """One card by the library's handle: a package with its memory."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    def ask(self, function: str) -> Any:
        """An answer, None where the card, the driver or the bindings do not have it."""
        call: Callable[..., Any] | None = getattr(self._library, function, None)
        if call is None:
            return None
        try:
            return call(self._handle)
        except self._library.AmdSmiException:
            return None

    @property
    def pci(self) -> str:
        """Domain, bus, device and function, "" where it does not say."""
        return text(self.ask("amdsmi_get_gpu_device_bdf") or "")

    @property
    def uuids(self) -> tuple[str, ...]:
        """What its UUID is for the driver and for HIP, which need not agree."""
        found = (self.ask("amdsmi_get_gpu_device_uuid"), self._numbered().get("hip_uuid"))
        return tuple(text(uuid) for uuid in found if uuid)

    @property
    def hip_index(self) -> int | None:
        """HIP's number of it where no mask hides a card; None where it does not say."""
        found = self._numbered().get("hip_id")
        return found if isinstance(found, int) else None

    @property
    def partition(self) -> str:
        """How it is split for computing ("CPX"); "" for a whole card and where it does not say."""
        found = text(self.ask("amdsmi_get_gpu_compute_partition") or "").strip().upper()
        return "" if found in _WHOLE else found

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded, by the accumulator and the unit that it counts in."""
        found = _fields(self.ask("amdsmi_get_energy_count"))
        count = next((found[key] for key in _ENERGY_KEYS if key in found), None)
        unit = found.get("counter_resolution")
        if not isinstance(count, int) or not isinstance(unit, (int, float)):
            return None
        return count * unit * _MICRO if 0 <= count < _MOST_COUNT and unit > 0 else None

    def power_key(self) -> str | None:
        """Under which name this generation of cards gives its power; None where it gives none."""
        found = _fields(self.ask("amdsmi_get_power_info"))
        return next((key for key in POWER_KEYS if _watts(found.get(key)) is not None), None)

    def power_w(self, key: str) -> float | None:
        """Watts of the package under that name."""
        return _watts(_fields(self.ask("amdsmi_get_power_info")).get(key))

    def cap_w(self) -> float | None:
        """The power limit: microwatts on Linux, watts on a hypervisor's host. No limit is above
        20 kW or under 1 W, so the two cannot be confused."""
        found = _fields(self.ask("amdsmi_get_power_cap_info")).get("power_cap")
        if not isinstance(found, (int, float)):
            return None
        return _watts(found) if found <= _MOST_W else _watts(found * _MICRO)

    def _numbered(self) -> Mapping[str, Any]:
        return _fields(self.ask("amdsmi_get_gpu_enumeration_info"))


_opened: list[Any] = []


def open_amdsmi() -> Any:
    """The bindings, initialised once.

    Raises MissingBackendError where they are not installed, their library is missing, or no
    driver answers.
    """
    if not _opened:
        _opened.append(_initialised(_imported()))
    return _opened[0]


def _imported() -> Any:
    said = io.StringIO()
    try:
        # Its import prints what it cannot find, where a JSON document may be on the way.
        with contextlib.redirect_stdout(said):
            import amdsmi
    except ImportError as error:
        raise MissingBackendError(
            "an AMD card is read by amdsmi, whose bindings are not installed",
            "install ROCm, and its amdsmi (/opt/rocm/share/amd_smi) into this environment",
        ) from error
    except (LookupError, OSError, AttributeError) as error:
        why = one_line(said.getvalue().strip() or str(error), 200)
        _LOG.info("amdsmi cannot be imported: %s", why)
        raise MissingBackendError(
            f"amdsmi does not find its library ({why})", "install ROCm's amd-smi-lib"
        ) from error
    return amdsmi


def _initialised(library: Any) -> Any:
    try:
        library.amdsmi_init()
    except library.AmdSmiException as error:
        why = one_line(str(error), 200)
        _LOG.info("amdsmi does not begin: %s", why)
        raise MissingBackendError(
            f"no AMD driver answers ({why})", "check that amd-smi list works here"
        ) from error
    return library


def amd_cards(library: Any) -> list[AmdCard]:
    """Every card that the library shows."""
    try:
        return [AmdCard(library, handle) for handle in library.amdsmi_get_processor_handles()]
    except library.AmdSmiException:
        return []


def find_amd_card(
    library: Any, device: str, key: DeviceKey, environ: Mapping[str, str] | None = None
) -> AmdCard:
    """The card behind `cuda[:N]` or `rocm[:N]`.

    By the PCI address that the computing process reports, else its UUID, else the only card, else
    by HIP's number, through HIP_VISIBLE_DEVICES. Raises UsageError where there is no such card,
    AmbiguousCardError where several remain.
    """
    environ = os.environ if environ is None else environ
    found = amd_cards(library)
    if key.pci:
        return _only([card for card in found if same_pci(card.pci, key.pci)], f"at {key.pci}")
    if key.uuid:
        wanted = _plain(key.uuid)
        named = [card for card in found if wanted in map(_plain, card.uuids)]
        return _only(named, f"with UUID {key.uuid}")
    if len(found) == 1:
        return found[0]
    number = _hip_number(device, environ)
    numbered = [card for card in found if number is not None and card.hip_index == number]
    if found and len(numbered) != 1:
        raise AmbiguousCardError(f"{device} may be any of {len(found)} AMD cards", _HINT)
    return _only(numbered, "at all")


def _only(found: list[AmdCard], which: str) -> AmdCard:
    if len(found) != 1:
        raise UsageError(f"amdsmi shows {len(found)} cards {which}", "amd-smi list shows the cards")
    return found[0]


def _hip_number(device: str, environ: Mapping[str, str]) -> int | None:
    """HIP's number of a device before masks; None where a mask leaves it open."""
    name = device.partition(":")[2] or "0"
    masks = [environ[mask] for mask in _MASKS if mask in environ]
    if not name.isdigit() or len(masks) > 1 or any(mask in environ for mask in _OTHER_MASKS):
        return None
    if not masks:
        return int(name)
    entries = [entry.strip() for entry in masks[0].split(",")]
    entry = entries[int(name)] if int(name) < len(entries) else ""
    return int(entry) if entry.isdigit() else None


def _plain(uuid: str) -> str:
    return uuid.strip().lower().removeprefix("gpu-").replace("-", "")


def _fields(answer: Any) -> Mapping[str, Any]:
    return answer if isinstance(answer, Mapping) else {}


def _watts(value: Any) -> float | None:
    """Watts; None for "N/A", for all-ones and for what no card that answers draws."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 < value <= _MOST_W else None
