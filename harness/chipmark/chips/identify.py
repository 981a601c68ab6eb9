"""Which chip a backend's device is, by evidence: /proc and NVML, never the device's own claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chipmark.chips import nvml as nv
from chipmark.chips.catalogue import CpuEntry, catalogue
from chipmark.chips.contract import ChipIdentity, DeviceKey
from chipmark.chips.cpu import CpuFacts, read_cpu
from chipmark.chips.cpu_makers import slug

CPU_DEVICES = ("cpu", "openvino", "ggml", "dnnl", "xnnpack", "acl")
"""Devices (after the colon of a backend's name) that compute on the host's processor."""


def identify_cpu(
    device: str, root: Path = Path("/"), *, key: DeviceKey | None = None
) -> ChipIdentity | None:
    """The host's CPU for a device in CPU_DEVICES; None for another device.

    `key` is not looked at: a machine has one kind of CPU. The unit is `cpu-share` (this many vCPUs
    of a socket) in a virtual machine, under a quota or an affinity, else `package`. Used equals of
    for a share: the share itself is the unit.
    """
    if device.partition(":")[0] not in CPU_DEVICES:
        return None
    facts = read_cpu(root)
    entry = cpu_entry(facts)
    whole = not facts.virtual_by and facts.vcpus >= facts.online
    evidence = [f"/proc/cpuinfo: {facts.model_name}, {facts.vendor_id or 'no vendor'}"]
    if facts.family >= 0:
        evidence.append(f"family {facts.family} model {facts.model} stepping {facts.stepping}")
    if len(facts.cores_found) > 1:
        evidence.append(f"kinds of core: {', '.join(facts.cores_found)}")
    if facts.virtual_by:
        evidence.append(f"{facts.virtual_by}: a virtual machine")
    if facts.quota_cpus is not None:
        evidence.append(f"cgroup quota: {facts.quota_cpus:g} CPUs")
    if entry is not None and entry.assumed:
        evidence.append(f"the product is hidden; family and model stand for {entry.name}")
    units = facts.sockets if whole else facts.vcpus
    return ChipIdentity(
        name=entry.name if entry else slug(facts.maker, facts.model_name),
        vendor=entry.vendor if entry else facts.maker or "unknown",
        device_name=facts.model_name,
        unit="package" if whole else "cpu-share",
        used=units,
        of=units,
        identity={
            "model_name": facts.model_name,
            "vendor_id": facts.vendor_id,
            "core_kinds": list(facts.cores_found),
            "family": facts.family,
            "model": facts.model,
            "sockets": facts.sockets,
            "vcpus": facts.vcpus,
            "quota_cpus": facts.quota_cpus,
            "isa": list(facts.isa),
            "virtual": bool(facts.virtual_by),
        },
        context=dict(facts.context) | {"llc_bytes": facts.llc_bytes, "online": facts.online},
        evidence=tuple(evidence),
    )


def cpu_entry(facts: CpuFacts) -> CpuEntry | None:
    """The catalogue's entry of a CPU; an `assumed` one where only the family is known."""
    return catalogue().cpu_for(
        facts.maker, facts.vendor_id, facts.family, facts.model, facts.model_name
    )


def identify_nvidia(device: str, *, key: DeviceKey | None = None) -> ChipIdentity | None:
    """An NVIDIA card by NVML for `cuda[:N]`; None for another device.

    key: the card that the computing process reported. Before it has, a card that CUDA's order
    leaves open is named by what all cards in question have in common, and carries no UUID.
    Raises MissingBackendError where NVML is not installed, UsageError where the card is not there.
    Written from NVML's documents: `verified` stays False until a run on a card confirmed it.
    """
    if device.partition(":")[0] not in catalogue().vendors["NVIDIA"].devices:
        return None
    nvml = nv.open_nvml()
    try:
        return nvidia_identity(nv.find_card(nvml, device, key))
    except nv.AmbiguousCardError as error:
        return _unsettled(nv.candidates(nvml, device), error)


def nvidia_identity(card: nv.Card) -> ChipIdentity:
    """The identity of a card, or of a MIG slice, which is a partly used card."""
    part = card.mig_slice()
    whole = card if part is None else part.parent
    title = card.name or whole.name
    entry = catalogue().chip_named("NVIDIA", whole.name)
    limit, default = whole.power_limits_w()
    dies = entry.dies if entry else 1
    marks = [] if part is None else [f"MIG {part.profile}".strip()]
    if nv.limited(limit, default):
        marks.append(f"{limit:g} W of {default:g} W")
    name = entry.name if entry else whole.name.lower().replace(" ", "-") or "nvidia-unknown"
    evidence = ["NVML: name, memory, power limit"]
    if entry and entry.origin:
        evidence.append(f"catalogue entry of {entry.origin}")
    if part is not None:
        evidence.append(f"MIG: {part.used} of {part.of} parts by {part.counted_by}")
    return ChipIdentity(
        name=f"{name} ({', '.join(marks)})" if marks else name,
        vendor="NVIDIA",
        device_name=title,
        unit="card",
        used=dies if part is None else part.used,
        of=dies if part is None else part.of,
        identity={
            "memory_bytes": card.memory_bytes,
            "power_limit_w": limit,
            "power_limit_default_w": default,
            "mig": part is not None,
            "mig_profile": "" if part is None else part.profile,
            "ecc": bool((whole.ask("nvmlDeviceGetEccMode") or (0, 0))[0]),
        },
        context={
            "driver": _driver(card),
            "vbios": nv.text(whole.ask("nvmlDeviceGetVbiosVersion") or ""),
            "uuid": card.uuid,
            "pci": whole.pci,
        },
        evidence=tuple(evidence),
        verified=False,
    )


def _unsettled(found: list[nv.Card], error: nv.AmbiguousCardError) -> ChipIdentity:
    """What several cards have in common, until the loaded process has reported its own."""
    each = [nvidia_identity(card) for card in found]
    first = each[0]
    alike = all((c.name, c.identity) == (first.name, first.identity) for c in each)
    return ChipIdentity(
        name=first.name if alike else "nvidia-unsettled",
        vendor="NVIDIA",
        device_name=first.device_name if alike else "",
        unit="card",
        used=first.used,
        of=first.of,
        identity=dict(first.identity) if alike else {"one_of": [c.device_name for c in each]},
        context={"driver": first.context["driver"]},
        evidence=(error.message,),
        verified=False,
    )


def _driver(card: nv.Card) -> str:
    """The driver's version, "" where it does not say."""
    nvml: Any = card.nvml
    try:
        return nv.text(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return ""
