"""What was found of a meter's sensor on this machine, kept a file a machine, and used by runs.

A calibration is used by the meter of the same name over the same units, for 30 days and while the
driver is the same; any other is named and left out.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from chipmark.backends.pci import pci_devices
from chipmark.chips.catalogue import catalogue
from chipmark.chips.detect import accelerators_of
from chipmark.errors import ChipmarkError
from chipmark.foreign_model import parse_model
from chipmark.meters.contract import Meter, MeterInfo
from chipmark.meters.plugins import meter_factory
from chipmark.meters.request import MeterRequest
from chipmark_models.cache import cache_folder, cache_path
from chipmark_models.files import whole_file
from chipmark_models.foreign_file import SETTINGS_BYTES, read_text

LONGEST_S = 30 * 86_400.0
"""How long a calibration is used."""

SCHEMA = "chipmark.meters/1"
_USED, _NOT_USED = "calibrated on", "calibration not used"
_AHEAD_S = 86_400.0
_FOLDER = "meters"

_HINT = "delete it, or run `chipmark power calibrate --forget`"


class Figure(BaseModel):
    """A quantity in the unit of its name, or null and why. scatter: how far it may be off, in the
    same unit, null if unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    value: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    scatter: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    reason: str = ""


class Calibration(BaseModel):
    """What was found of one meter. Field names end in their units."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    meter: str
    covers: str
    scope: str
    source: str
    driver: str
    made_unix_s: float = Field(ge=0, allow_inf_nan=False)
    load: str
    """What made the steps of load, "" where there was none."""
    idle_w: Figure
    load_w: Figure
    """Watts that the load added to those of idle."""
    update_period_s: Figure
    averaging_s: Figure
    lag_s: Figure
    """From the beginning of work to the beginning of the sensor's answer."""
    resolution_w: Figure
    resolution_factor: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """The true resolution may be smaller or larger by this."""
    readings: int = Field(default=0, ge=0)
    reading_period_s: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @property
    def day(self) -> str:
        """The UTC date."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.made_unix_s))

    def is_of(self, info: MeterInfo) -> bool:
        """Whether it was made of this meter."""
        return (self.meter, self.covers) == (info.name, info.covers)


class Stored(BaseModel):
    """The file of a machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    schema_: str = Field(alias="schema", pattern=rf"^{SCHEMA}$")
    calibrations: list[Calibration] = []


def calibrated(info: MeterInfo, found: Calibration) -> MeterInfo:
    """What a meter is with what its calibration found; what it could not see stays as it was."""
    period, averaging = found.update_period_s.value, found.averaging_s.value
    resolution = found.resolution_w.value
    seen = [
        f"{word} {value:.3g} {unit}"
        for word, value, unit in (
            ("period", period, "s"),
            ("averaging", averaging, "s"),
            ("resolution", resolution, "W"),
        )
        if value is not None
    ]
    note = f"{_USED} {found.day}: {', '.join(seen) or 'nothing could be seen'}"
    return replace(
        info,
        update_period_s=info.update_period_s if period is None else period,
        period_known=info.period_known or period is not None,
        averaging_s=info.averaging_s if averaging is None else averaging,
        resolution_w=info.resolution_w if resolution is None else resolution,
        notes=(*info.notes, note),
    )


def why_not(found: Calibration, driver: str, now_s: float) -> str:
    """Why a calibration is not used now; "" where it is."""
    age_s = now_s - found.made_unix_s
    why = ""
    if not -_AHEAD_S < age_s < LONGEST_S:
        why = f"it is {age_s / 86_400:.0f} days old"
    elif found.driver != driver:
        why = f"it was made with {found.driver}, and here is {driver}"
    if not why:
        return ""
    return f"{_NOT_USED}, of {found.day}: {why}; `chipmark power calibrate` makes another"


def calibrated_meter(name: str, request: MeterRequest) -> Meter | None:
    """The meter that a factory gives for a request, with what its calibration on this machine
    found. Raises what the factory raises; a calibration that is not used is a note of the meter.
    """
    meter = meter_factory(name).for_request(request)
    if meter is not None and meter.info.update_period_s:
        info = informed(meter.info, driver_of(request.vendor), time.time())
        if info is not meter.info:
            meter.info = info
    return meter


def informed(info: MeterInfo, driver: str, now_s: float) -> MeterInfo:
    """A meter with its stored calibration, or with a note why that is not used; as it is where
    there is none. A file that is broken costs the calibration and not the run."""
    try:
        found = next((c for c in load_calibrations() if c.is_of(info)), None)
    except ChipmarkError as error:
        refused = f"{_NOT_USED}: {error.sentences}"
    else:
        if found is None:
            return info
        refused = why_not(found, driver, now_s)
        if not refused:
            return calibrated(info, found)
    return replace(info, notes=(*info.notes, refused))


def calibration_note(info: MeterInfo) -> str:
    """What a meter's notes say of its calibration; "" where it has none."""
    own = (text for text in info.notes if text.startswith((_USED, _NOT_USED)))
    return next(own, "")


def calibration_path() -> Path:
    """The file of this machine, in the cache, whose folder is made."""
    return cache_path(_FOLDER, f"{machine_id()}.json")


def load_calibrations() -> list[Calibration]:
    """Those of this machine, [] where there are none. BadInputError for a broken file."""
    path = _stored_path()
    if path is None:
        return []
    text = read_text(path, SETTINGS_BYTES, hint=_HINT)
    return parse_model(Stored, text, path, hint=_HINT).calibrations


def _stored_path() -> Path | None:
    """The file where it is there. To look for it makes no folder: a run that ends before it has
    begun leaves nothing."""
    folder = cache_folder()
    if not folder.is_dir():
        nearest = next((parent for parent in folder.parents if parent.exists()), Path("/"))
        if os.access(nearest, os.W_OK):
            return None  # what could have been made there was not
    path = calibration_path()
    return path if os.path.lexists(path) else None


def store_calibrations(new: Collection[Calibration]) -> Path:
    """Keep these in place of earlier ones of the same meters; returns the file."""
    keys = {(c.meter, c.covers) for c in new}
    kept = [c for c in load_calibrations() if (c.meter, c.covers) not in keys]
    return _write([*kept, *new])


def forget_calibrations(names: Collection[str] = ()) -> int:
    """Remove those of meters of these names, of all where there are none; returns how many.

    A broken file goes whole where no name is given.
    """
    path = _stored_path()
    if path is None:
        return 0
    if not names:
        try:
            number = len(load_calibrations())
        except ChipmarkError:
            number = 1
        path.unlink()
        return number
    before = load_calibrations()
    kept = [c for c in before if c.meter not in names]
    _write(kept)
    return len(before) - len(kept)


def _write(calibrations: list[Calibration]) -> Path:
    path = calibration_path()
    text = (
        Stored(schema=SCHEMA, calibrations=calibrations).model_dump_json(by_alias=True, indent=1)
        + "\n"
    )
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def machine_id(root: Path = Path("/")) -> str:
    """Sixteen hex digits of this machine: of the system's id, else of its name. Homes are shared
    by machines, and what was found of one says nothing of another."""
    try:
        text = (root / "etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        text = ""
    return hashlib.sha256(f"chipmark {text or platform.node()}".encode()).hexdigest()[:16]


def driver_of(vendor: str, root: Path = Path("/")) -> str:
    """The kernel's drivers of a vendor's devices on the PCI bus with their versions; the kernel's
    release where there are none, as for a processor."""
    entry = catalogue().vendors.get(vendor)
    devices = accelerators_of(entry, pci_devices(root)) if entry is not None else []
    found = set()
    for device in devices:
        driver = root / "sys/bus/pci/devices" / device.address / "driver"
        if driver.exists():
            found.add(f"{driver.resolve().name} {_version(driver / 'module')}".strip())
    return ", ".join(sorted(found)) or f"kernel {platform.release()}"


def _version(module: Path) -> str:
    for name in ("version", "srcversion"):
        try:
            return (module / name).read_text(encoding="utf-8", errors="replace").strip()[:80]
        except OSError:
            continue
    return platform.release()
