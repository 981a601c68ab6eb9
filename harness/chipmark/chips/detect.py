"""The chips of this machine, and the chip behind a backend's name."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chipmark.backends.pci import PciDevice, pci_devices, same_address
from chipmark.chips.catalogue import VendorEntry, catalogue
from chipmark.chips.contract import ChipIdentity, DeviceKey
from chipmark.chips.identify import nvidia_identity
from chipmark.chips.nvml import cards, open_nvml
from chipmark.chips.plugins import chip_identifier
from chipmark.chips.siblings import sibling_devices
from chipmark.engine.plugins import simulated_factory
from chipmark.errors import MissingBackendError, UsageError
from chipmark.log import logger_of
from chipmark.registry import is_simulated, plugins, split_backend

_LOG = logger_of(__name__)
_NVIDIA = "NVIDIA"


@dataclass(frozen=True, slots=True)
class VendorTrace:
    """What of a vendor's hardware and software was found here; counts of devices by route."""

    vendor: str
    pci_devices: int
    dev_nodes: int
    tool: str | None
    evidence: tuple[str, ...]


def chip_of(
    backend: str,
    loaded_device: str = "",
    root: Path = Path("/"),
    key: DeviceKey | None = None,
) -> ChipIdentity:
    """The chip that a backend `KIND:DEVICE` runs on.

    `loaded_device` is what the backend called it; it is used only where nothing else is known, and
    the identity is then unverified. `key` is what the loaded process says of its very card. A
    simulated device is a chip of its own. Raises MissingBackendError where "cuda" is asked for and
    neither NVML answers nor the PCI bus shows a lookalike.
    """
    device = split_backend(backend)[1]
    if is_simulated(backend):
        return _simulated_chip(device, loaded_device or backend)
    vendors = [
        entry
        for entry in catalogue().vendors.values()
        if entry.name != _NVIDIA and device.partition(":")[0] in entry.devices
    ]
    key = key or DeviceKey(name=loaded_device)
    if device.partition(":")[0] in catalogue().vendors[_NVIDIA].devices:
        posing = poser(device, key, root)
        if posing is not None:
            _LOG.info("%s poses as %s: it is a chip of %s", backend, device, posing.name)
            return _with_key(identify_vendor(posing, loaded_device or key.name, root), key)
    for name in plugins("chipmark.chips"):
        try:
            found = chip_identifier(name)(device, key=key)
        except MissingBackendError as error:
            _LOG.info("chip plug-in %s: %s", name, error.message)
            # No NVIDIA driver behind "cuda": it may be one of the vendors that look like it.
            alike = [entry for entry in vendors if vendor_trace(entry, root).pci_devices]
            if not alike:
                raise
            return _with_key(_of_vendor(backend, alike[0], loaded_device, root), key)
        if isinstance(found, ChipIdentity):
            _LOG.info("%s runs on %s: %s", backend, found.name, "; ".join(found.evidence))
            return found
    if vendors:
        return _with_key(_of_vendor(backend, vendors[0], loaded_device, root), key)
    return ChipIdentity(
        name="unknown",
        vendor="unknown",
        device_name=loaded_device or device,
        unit="unknown",
        used=1,
        of=1,
        evidence=(f"no chip plug-in knows the device {device!r}",),
        verified=False,
    )


def _of_vendor(backend: str, entry: VendorEntry, loaded_device: str, root: Path) -> ChipIdentity:
    """With the devices of its unit, as the vendor's runtime numbers them."""
    chip = identify_vendor(entry, loaded_device, root)
    visible = os.environ.get(entry.visible, "") if entry.visible else ""
    return replace(chip, devices=sibling_devices(backend, chip.of, visible))


def _with_key(chip: ChipIdentity, key: DeviceKey) -> ChipIdentity:
    """With what tells this very card from others, where the loaded process reported it: by it a
    vendor's library or tool finds the card to meter."""
    told = {name: value for name, value in (("uuid", key.uuid), ("pci", key.pci)) if value}
    return replace(chip, context={**chip.context, **told})


def _simulated_chip(device: str, device_name: str) -> ChipIdentity:
    dies = simulated_factory().dies(device)
    return ChipIdentity(
        name=f"sim-{device.partition(':')[0]}",
        vendor="simulated",
        device_name=device_name,
        unit="card",
        used=1,
        of=dies,
        devices=sibling_devices(f"sim:{device}", dies),
        evidence=("a simulated device with closed-form time and power",),
    )


def identify_vendor(entry: VendorEntry, loaded_device: str, root: Path = Path("/")) -> ChipIdentity:
    """A chip of a vendor whose own library we do not read: by PCI, device nodes and tool.

    The product's name comes from the backend (unverified); unit and dies from the catalogue.
    """
    trace = vendor_trace(entry, root)
    known = catalogue().chip_named(entry.name, loaded_device)
    return ChipIdentity(
        name=known.name if known else f"{entry.name.lower().replace(' ', '-')}-unknown",
        vendor=entry.name,
        device_name=loaded_device,
        unit=known.unit if known else "card",
        used=1,
        of=known.dies if known else 1,
        identity={"device_name": loaded_device},
        context={"pci_devices": trace.pci_devices, "dev_nodes": trace.dev_nodes},
        evidence=(trace.evidence or ("nothing but the backend's word",))
        + ((f"catalogue entry of {known.origin}",) if known and known.origin else ()),
        verified=False,
    )


def vendor_trace(entry: VendorEntry, root: Path = Path("/")) -> VendorTrace:
    """Look for a vendor's devices: PCI devices of its id and of a class that its accelerators have,
    device nodes, its tool. Only the first proves a chip: nodes and tools have namesakes."""
    found = accelerators_of(entry, pci_devices(root))
    pci = len(found)
    nodes = sum(len(glob.glob(str(root / pattern.lstrip("/")))) for pattern in entry.dev)
    files = [p for p in entry.proc if (root / p.lstrip("/")).exists()]
    tool = shutil.which(entry.tool)
    evidence = []
    if pci:
        ids = ", ".join(sorted({f"{device.vendor}:{device.device}" for device in found}))
        evidence.append(f"{pci} PCI devices of vendor {entry.name} ({ids})")
    if nodes:
        evidence.append(f"{nodes} device nodes like {entry.dev[0]}")
    evidence += files
    if tool:
        evidence.append(f"tool {tool}")
    return VendorTrace(entry.name, pci, nodes, tool, tuple(evidence))


def accelerators_of(entry: VendorEntry, devices: Sequence[PciDevice]) -> list[PciDevice]:
    """Those that are a vendor's accelerators: it also makes bridges, network cards and a server's
    management controller."""
    return [
        device
        for device in devices
        if device.vendor in entry.pci_vendors
        and device.kind.startswith(entry.pci_classes)
        and device.device not in entry.pci_other
    ]


def poser(device: str, key: DeviceKey, root: Path = Path("/")) -> VendorEntry | None:
    """The vendor behind a device called `cuda` that is not NVIDIA's; None where
    nothing tells.

    The PCI address that the process reports decides. Without one: the only vendor of such devices
    on the bus, and among several the one whose chip the reported name is, or whose own name (that
    of its devices: "kunlun") it is.
    """
    kind = device.partition(":")[0]
    entries = [entry for entry in catalogue().vendors.values() if kind in entry.devices]
    bus = pci_devices(root)
    here = {entry.name: found for entry in entries if (found := accelerators_of(entry, bus))}
    by_name = {entry.name: entry for entry in entries}
    if key.pci:
        for name, found in here.items():
            if any(same_address(one.address, key.pci) for one in found):
                return None if name == _NVIDIA else by_name[name]
    if len(here) == 1:
        name = next(iter(here))
        return None if name == _NVIDIA else by_name[name]
    for name in here:
        called = key.name.lower() in by_name[name].devices and key.name.lower() != kind
        if name != _NVIDIA and (called or catalogue().chip_named(name, key.name)):
            return by_name[name]
    return None


def chips_here() -> tuple[list[ChipIdentity], list[str]]:
    """Every chip found on this machine, and why a route found nothing (for `doctor`)."""
    found: list[ChipIdentity] = []
    missing: list[str] = []
    try:
        found.append(chip_of("torch:cpu"))
    except (MissingBackendError, UsageError, OSError) as error:
        missing.append(f"cpu: {error}")
    try:
        shown = [nvidia_identity(card) for card in cards(open_nvml())]
        found += shown
        if not shown:
            missing.append("cuda: the NVIDIA driver answers and shows no card")
    except MissingBackendError as error:
        missing.append(f"cuda: {error.message}")
    for entry in catalogue().vendors.values():
        if entry.name in ("NVIDIA", "Intel"):
            continue
        trace = vendor_trace(entry)
        if trace.pci_devices:
            found.append(identify_vendor(entry, ""))
        elif trace.tool:
            # Kunlunxin's and Intel's tools have one name, AMD's and Hygon's one device node.
            missing.append(
                f"{entry.name}: {trace.tool} is on the PATH, and no PCI device of vendor "
                f"{' or '.join(entry.pci_vendors)} is here"
            )
    return found, missing
