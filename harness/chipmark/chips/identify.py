"""Which chip a backend's device is, by evidence: /proc and NVML, never the device's own claim."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chipmark.chips.catalogue import CpuEntry, catalogue
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.cpu import CpuFacts, read_cpu
from chipmark.errors import MissingBackendError, UsageError

CPU_DEVICES = ("cpu", "openvino", "ggml", "dnnl", "xnnpack", "acl")
"""Devices (after the colon of a backend's name) that compute on the host's processor."""


def identify_cpu(device: str, root: Path = Path("/")) -> ChipIdentity | None:
    """The host's CPU for a device in CPU_DEVICES; None for another device.

    The unit is `cpu-share` (this many vCPUs of a socket) in a virtual machine, under a quota or
    an affinity, else `package`. Used equals of for a share: the share itself is the unit.
    """
    if device.partition(":")[0] not in CPU_DEVICES:
        return None
    facts = read_cpu(root)
    entry = cpu_entry(facts)
    whole = not facts.hypervisor and facts.vcpus >= facts.online
    evidence = [f"/proc/cpuinfo: {facts.model_name}, {facts.vendor_id}"]
    evidence.append(f"family {facts.family} model {facts.model} stepping {facts.stepping}")
    if facts.hypervisor:
        evidence.append("hypervisor flag: a virtual machine")
    if facts.quota_cpus is not None:
        evidence.append(f"cgroup quota: {facts.quota_cpus:g} CPUs")
    if entry is not None and entry.assumed:
        evidence.append(f"the product is hidden; family and model stand for {entry.name}")
    units = facts.sockets if whole else facts.vcpus
    return ChipIdentity(
        name=entry.name if entry else "cpu-unknown",
        vendor=entry.vendor if entry else facts.vendor_id,
        device_name=facts.model_name,
        unit="package" if whole else "cpu-share",
        used=units,
        of=units,
        identity={
            "model_name": facts.model_name,
            "family": facts.family,
            "model": facts.model,
            "vcpus": facts.vcpus,
            "isa": list(facts.isa),
            "virtual": facts.hypervisor,
        },
        context=dict(facts.context) | {"llc_bytes": facts.llc_bytes},
        evidence=tuple(evidence),
    )


def cpu_entry(facts: CpuFacts) -> CpuEntry | None:
    """The catalogue's entry of a CPU; an `assumed` one where only the family is known."""
    return catalogue().cpu_for(facts.vendor_id, facts.family, facts.model, facts.model_name)


def identify_nvidia(device: str) -> ChipIdentity | None:
    """An NVIDIA card by NVML for `cuda[:N]`; None for another device.

    Raises MissingBackendError where NVML is not installed, UsageError where the card is not there.
    Written from NVML's documents: `verified` stays False until a run on a card confirmed it.
    """
    kind, _, index_text = device.partition(":")
    if kind not in catalogue().vendors["NVIDIA"].devices:
        return None
    try:
        import pynvml
    except ModuleNotFoundError as error:
        raise MissingBackendError(
            "an NVIDIA card is identified by NVML, whose bindings are not installed",
            "pip install 'chipmark[cuda]' (nvidia-ml-py)",
        ) from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise MissingBackendError(
            f"no NVIDIA driver answers ({error})", "check that nvidia-smi works here"
        ) from error
    try:
        handle = nvml_handle(pynvml, int(index_text or 0), os.environ)
        return _nvidia_identity(pynvml, handle)
    finally:
        pynvml.nvmlShutdown()


def nvml_handle(nvml: Any, index: int, environ: Mapping[str, str]) -> Any:
    """NVML's handle of CUDA device `index`: CUDA_VISIBLE_DEVICES renumbers for CUDA alone."""
    visible = environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    try:
        if not visible:
            return nvml.nvmlDeviceGetHandleByIndex(index)
        name = visible.split(",")[index].strip()
        if name.isdigit():
            return nvml.nvmlDeviceGetHandleByIndex(int(name))
        return nvml.nvmlDeviceGetHandleByUUID(name)
    except (nvml.NVMLError, IndexError) as error:
        raise UsageError(
            f"cuda:{index} is no device that NVML knows ({error})",
            f"CUDA_VISIBLE_DEVICES is {visible!r}; nvidia-smi -L lists the cards",
        ) from error


def _nvidia_identity(nvml: Any, handle: Any) -> ChipIdentity:
    def ask(function: str, *arguments: Any) -> Any:
        """A property, None where the card or the driver does not have it."""
        try:
            return getattr(nvml, function)(handle, *arguments)
        except nvml.NVMLError:
            return None

    name = _text(nvml.nvmlDeviceGetName(handle))
    entry = catalogue().chip_named("NVIDIA", name)
    memory = ask("nvmlDeviceGetMemoryInfo")
    limit, default = (
        ask("nvmlDeviceGetEnforcedPowerLimit"),
        ask("nvmlDeviceGetPowerManagementDefaultLimit"),
    )
    mig = ask("nvmlDeviceGetMigMode")
    pci = ask("nvmlDeviceGetPciInfo")
    dies = entry.dies if entry else 1
    return ChipIdentity(
        name=entry.name if entry else name.lower().replace(" ", "-"),
        vendor="NVIDIA",
        device_name=name,
        unit="card",
        used=dies,
        of=dies,
        identity={
            "memory_bytes": None if memory is None else int(memory.total),
            "power_limit_w": None if limit is None else limit / 1000,
            "power_limit_default_w": None if default is None else default / 1000,
            "mig": bool(mig and mig[0]),
            "ecc": bool((ask("nvmlDeviceGetEccMode") or (0, 0))[0]),
        },
        context={
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            "vbios": _text(ask("nvmlDeviceGetVbiosVersion") or ""),
            "uuid": _text(ask("nvmlDeviceGetUUID") or ""),
            "pci": "" if pci is None else _text(pci.busId),
        },
        evidence=("NVML: name, memory, power limit",),
        verified=False,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
