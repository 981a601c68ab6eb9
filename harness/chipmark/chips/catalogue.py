"""The chips, CPUs and vendors of `chips.toml`, read and checked; numbers keep their provenance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from chipmark.errors import BadInputError, UnknownNameError
from chipmark.user_files import CHIPS, parsed, user_bytes
from chipmark_models.foreign_file import read_toml

CATALOGUE_FILE = Path(__file__).with_name("chips.toml")
CONFIDENCES = ("H", "M", "L", "K", "?")
_QUANTITY_FIELDS = ("value", "unit", "source", "date", "confidence")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its provenance; `value` is None where it is unknown."""

    value: float | None
    unit: str
    source: str = ""
    date: str = ""
    confidence: str = "?"

    def __str__(self) -> str:
        return "unknown" if self.value is None else f"{self.value:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class ChipEntry:
    """An accelerator. `tdp` is the vendor's figure, `cap` a ceiling that a tool shows."""

    name: str
    title: str
    vendor: str
    unit: str
    dies: int
    match: tuple[str, ...]
    memory: Quantity
    bandwidth: Quantity
    rate_16bit: Quantity
    rate_int8: Quantity
    tdp: Quantity
    cap: Quantity
    origin: str = ""
    """The user's file that it comes from, "" for the built-in catalogue."""


@dataclass(frozen=True, slots=True)
class CpuEntry:
    """One socket. `cpuid` is (vendor, family, first model, last model) of /proc/cpuinfo;
    `assumed` says that the entry stands for a family whose members a virtual machine hides."""

    name: str
    title: str
    vendor: str
    match: tuple[str, ...]
    threads: Quantity
    tdp: Quantity
    cpuid: tuple[str, int, int, int] | None = None
    assumed: bool = False


@dataclass(frozen=True, slots=True)
class VendorEntry:
    """How a vendor's devices are found: device part of a backend's name, PCI ids, files, tool.

    pci_classes: beginnings of the PCI class of its accelerators. pci_other: its devices of such a
    class that are none (a server's management controller shows a display adapter).
    """

    name: str
    devices: tuple[str, ...]
    pci_vendor: str
    pci_classes: tuple[str, ...]
    pci_other: tuple[str, ...]
    dev: tuple[str, ...]
    proc: tuple[str, ...]
    tool: str
    visible: str = ""
    """Environment variable in which the vendor's runtime takes the numbers of the devices that a
    process sees, in their order; "" where none is known."""
    pci_also: tuple[str, ...] = ()
    """Other PCI vendor ids that its accelerators have."""

    @property
    def pci_vendors(self) -> tuple[str, ...]:
        """Every PCI vendor id of its accelerators."""
        return (self.pci_vendor, *self.pci_also)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All entries, by name."""

    chips: Mapping[str, ChipEntry]
    cpus: Mapping[str, CpuEntry]
    vendors: Mapping[str, VendorEntry]

    def entry(self, name: str) -> ChipEntry | CpuEntry:
        """A chip or a CPU by name, a power limit behind it left aside; UnknownNameError with the
        nearest names."""
        plain = catalogue_name(name)
        found = self.chips.get(plain) or self.cpus.get(plain)
        if found is None:
            raise UnknownNameError("chip", name, [*self.chips, *self.cpus])
        return found

    def chip_named(self, vendor: str, device_name: str) -> ChipEntry | None:
        """The chip whose pattern matches what a device calls itself."""
        for entry in self.chips.values():
            if entry.vendor == vendor and any(re.search(p, device_name) for p in entry.match):
                return entry
        return None

    def cpu_for(
        self, maker: str, vendor_id: str, family: int, model: int, model_name: str
    ) -> CpuEntry | None:
        """The CPU of these lines of /proc/cpuinfo: by maker and product name, else by family and
        model. A product's name alone is not enough: two makers may use one number."""
        for entry in self.cpus.values():
            if entry.vendor == maker and any(re.search(p, model_name) for p in entry.match):
                return entry
        for entry in self.cpus.values():
            if entry.cpuid and entry.cpuid[:2] == (vendor_id, family):
                first, last = entry.cpuid[2:]
                if first <= model <= last:
                    return entry
        return None


def catalogue_name(chip_name: str) -> str:
    """The catalogue's part of a chip's name: `nvidia-h200-sxm (400 W of 700 W)` without the power
    limit, by which the catalogue and a price book know it."""
    return chip_name.partition(" (")[0]


def catalogue(path: Path = CATALOGUE_FILE) -> Catalogue:
    """The built-in catalogue with the user's `chips.toml` added, both checked.

    Raises BadInputError with the file, the entry and the field.
    """
    return _catalogue(path, user_bytes(CHIPS))


@lru_cache(maxsize=2)
def _catalogue(path: Path, users: tuple[Path, bytes] | None) -> Catalogue:
    data = read_toml(path)
    known = _entries(path, data)
    if users is None:
        return known
    own = parsed(*users)
    added = _entries(own.path, own.data, own.label)
    named = {**known.chips, **known.cpus}
    for names, reserved in (
        (added.chips, named),
        (added.cpus, named),
        (added.vendors, known.vendors),
    ):
        own.refuse_reserved(names, reserved)
    return Catalogue(
        {**known.chips, **added.chips},
        {**known.cpus, **added.cpus},
        {**known.vendors, **added.vendors},
    )


_TEXTS = {"name", "title", "vendor", "unit", "tool", "pci_vendor", "visible"}
_LISTS = {"match", "devices", "pci_classes", "pci_other", "pci_also", "dev", "proc"}


def _entries(path: Path, data: dict[str, Any], origin: str = "") -> Catalogue:
    for key in data:
        if key not in ("schema", "chip", "cpu", "vendor"):
            error = UnknownNameError("table", key, ("chip", "cpu", "vendor"))
            raise BadInputError(path, error.message)
        if key != "schema" and not _is_tables(data[key]):
            raise BadInputError(path, f"must be tables, each begun by [[{key}]]", field=key)
    chips = [_chip(path, item, origin) for item in data.get("chip", [])]
    cpus = [_cpu(path, item) for item in data.get("cpu", [])]
    vendors = [_vendor(path, item) for item in data.get("vendor", [])]
    return Catalogue(
        {c.name: c for c in chips}, {c.name: c for c in cpus}, {v.name: v for v in vendors}
    )


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_cpuid(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    return isinstance(value[0], str) and all(type(number) is int for number in value[1:])


def _check_match(path: Path, item: dict[str, Any]) -> None:
    """BadInputError where `match` is not a list of regular expressions."""
    where = f"{item['name']}.match"
    if not isinstance(item["match"], list):
        raise BadInputError(path, "must be a list of regular expressions", field=where)
    for pattern in item["match"]:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            text = f"{pattern!r} is not a regular expression: {error}"
            raise BadInputError(path, text, field=where) from error


def _chip(path: Path, item: dict[str, Any], origin: str) -> ChipEntry:
    numbers = {
        "memory": "GB",
        "bandwidth": "GB/s",
        "rate_16bit": "TFLOP/s",
        "rate_int8": "TOP/s",
        "tdp": "W",
        "cap": "W",
    }
    _fields(path, item, {"name", "title", "vendor", "unit", "dies", "match"}, set(numbers))
    _check_match(path, item)
    dies = item["dies"]
    if isinstance(dies, bool) or not isinstance(dies, int) or dies < 1:
        raise BadInputError(path, f"{dies!r} is not a count", field=f"{item['name']}.dies")
    return ChipEntry(
        name=item["name"],
        title=item["title"],
        vendor=item["vendor"],
        unit=item["unit"],
        dies=dies,
        match=tuple(item["match"]),
        origin=origin,
        **{key: _quantity(path, item, key, unit) for key, unit in numbers.items()},
    )


def _cpu(path: Path, item: dict[str, Any]) -> CpuEntry:
    required = {"name", "title", "vendor", "match"}
    _fields(path, item, required, {"threads", "tdp", "cpuid", "assumed"})
    cpuid = item.get("cpuid")
    if cpuid is not None and not _is_cpuid(cpuid):
        text = "must be [vendor id, family, first model, last model]"
        raise BadInputError(path, text, field=f"{item['name']}.cpuid")
    _check_match(path, item)
    return CpuEntry(
        name=item["name"],
        title=item["title"],
        vendor=item["vendor"],
        match=tuple(item["match"]),
        threads=_quantity(path, item, "threads", "1"),
        tdp=_quantity(path, item, "tdp", "W"),
        cpuid=None if cpuid is None else (cpuid[0], int(cpuid[1]), int(cpuid[2]), int(cpuid[3])),
        assumed=bool(item.get("assumed", False)),
    )


def _vendor(path: Path, item: dict[str, Any]) -> VendorEntry:
    lists_of = ("devices", "pci_classes", "pci_other", "dev", "proc")
    _fields(path, item, {"name", "pci_vendor", "tool", *lists_of}, {"visible", "pci_also"})
    lists = {key: tuple(item.get(key, ())) for key in (*lists_of, "pci_also")}
    return VendorEntry(
        item["name"],
        pci_vendor=item["pci_vendor"],
        tool=item["tool"],
        visible=item.get("visible", ""),
        **lists,
    )


def _fields(path: Path, item: dict[str, Any], required: set[str], optional: set[str]) -> None:
    label = str(item.get("name", "an entry without a name"))
    for key in item:
        if key not in required | optional:
            error = UnknownNameError(f"field of {label}", key, required | optional)
            raise BadInputError(path, error.message)
    for key in required:
        if key not in item:
            raise BadInputError(path, "is missing", field=f"{label}.{key}")
    for key in _TEXTS & item.keys():
        if not isinstance(item[key], str) or not item[key].isprintable():
            raise BadInputError(path, f"{item[key]!r} is not a text", field=f"{label}.{key}")
    for key in _LISTS & item.keys():
        values = item[key]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise BadInputError(path, "must be a list of texts", field=f"{label}.{key}")


def _quantity(path: Path, item: dict[str, Any], key: str, unit: str) -> Quantity:
    data = item.get(key, "unknown")
    where = f"{item['name']}.{key}"
    if data == "unknown":
        return Quantity(None, unit)
    if not isinstance(data, dict) or set(data) != set(_QUANTITY_FIELDS):
        raise BadInputError(path, f"must have exactly {', '.join(_QUANTITY_FIELDS)}", field=where)
    texts = ("unit", "source", "date", "confidence")
    if not all(isinstance(data[name], str) for name in texts):
        raise BadInputError(path, f"{', '.join(texts)} must be texts", field=where)
    if data["unit"] != unit:
        raise BadInputError(path, f"is in {data['unit']!r}, not {unit!r}", field=where)
    if data["confidence"] not in CONFIDENCES:
        raise BadInputError(path, f"confidence is not one of {CONFIDENCES}", field=where)
    value = data["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e18:
        raise BadInputError(path, f"{value!r} is not a positive number", field=where)
    if not data["source"] or not data["date"]:
        raise BadInputError(path, "a number needs its source and date", field=where)
    return Quantity(float(value), unit, data["source"], data["date"], data["confidence"])
