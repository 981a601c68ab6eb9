"""The chips of this machine, and the chip behind a backend's name."""

from __future__ import annotations

import glob
import shutil
from dataclasses import dataclass
from pathlib import Path

from chipmark.chips.catalogue import VendorEntry, catalogue
from chipmark.chips.contract import ChipIdentity
from chipmark.errors import MissingBackendError, UsageError
from chipmark.registry import load_plugin, plugins, split_backend


@dataclass(frozen=True, slots=True)
class VendorTrace:
    """What of a vendor's hardware and software was found here; counts of devices by route."""

    vendor: str
    pci_devices: int
    dev_nodes: int
    tool: str | None
    evidence: tuple[str, ...]


def chip_of(backend: str, loaded_device: str = "", root: Path = Path("/")) -> ChipIdentity:
    """The chip that a backend `KIND:DEVICE` runs on.

    `loaded_device` is what the backend called it; it is used only where nothing else is known, and
    the identity then says so. A simulated device is a chip of its own. Raises MissingBackendError
    where "cuda" is asked for and neither NVML answers nor the PCI bus shows a lookalike.
    """
    kind, device = split_backend(backend)
    if kind == "sim":
        return ChipIdentity(
            name=f"sim-{device}",
            vendor="simulated",
            device_name=loaded_device or f"sim:{device}",
            unit="card",
            used=1,
            of=1,
            evidence=("a simulated device with closed-form time and power",),
        )
    vendors = [
        entry
        for entry in catalogue().vendors.values()
        if entry.name != "NVIDIA" and device.partition(":")[0] in entry.devices
    ]
    for name in plugins("chipmark.chips"):
        try:
            found = load_plugin("chipmark.chips", name)(device)
        except MissingBackendError:
            # No NVIDIA driver behind "cuda": it may be one of the vendors that look like it.
            alike = [entry for entry in vendors if vendor_trace(entry, root).pci_devices]
            if not alike:
                raise
            return identify_vendor(alike[0], loaded_device, root)
        if isinstance(found, ChipIdentity):
            return found
    if vendors:
        return identify_vendor(vendors[0], loaded_device, root)
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
        evidence=trace.evidence or ("nothing but the backend's word",),
        verified=False,
    )


def vendor_trace(entry: VendorEntry, root: Path = Path("/")) -> VendorTrace:
    """Look for a vendor's devices: PCI class 03/0b/12 with its id, device nodes, its tool."""
    pci = 0
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except OSError:
            continue
        # 03 display, 0b processor, 12 accelerator: a vendor also makes bridges and NICs.
        if vendor == f"0x{entry.pci_vendor}" and kind[2:4] in ("03", "0b", "12"):
            pci += 1
    nodes = sum(len(glob.glob(str(root / pattern.lstrip("/")))) for pattern in entry.dev)
    files = [p for p in entry.proc if (root / p.lstrip("/")).exists()]
    tool = shutil.which(entry.tool)
    evidence = []
    if pci:
        evidence.append(f"{pci} PCI devices of vendor {entry.pci_vendor}")
    if nodes:
        evidence.append(f"{nodes} device nodes like {entry.dev[0]}")
    evidence += files
    if tool:
        evidence.append(f"tool {tool}")
    return VendorTrace(entry.name, pci, nodes, tool, tuple(evidence))


def chips_here() -> tuple[list[ChipIdentity], list[str]]:
    """Every chip found on this machine, and why a route found nothing (for `doctor`)."""
    found: list[ChipIdentity] = []
    missing: list[str] = []
    for backend in ("torch:cpu", "torch:cuda"):
        try:
            found.append(chip_of(backend))
        except (MissingBackendError, UsageError) as error:
            missing.append(f"{backend.partition(':')[2]}: {error.message}")
    for entry in catalogue().vendors.values():
        if entry.name in ("NVIDIA", "Intel"):
            continue
        trace = vendor_trace(entry)
        # AMD's and Hygon's drivers share a device node, so a node alone names nobody.
        if trace.pci_devices or trace.tool:
            found.append(identify_vendor(entry, ""))
    return found, missing
