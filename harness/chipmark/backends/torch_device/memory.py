"""Memory of a torch device: what is free, whether that can be believed, the most that was used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chipmark.backends.host import available_memory, total_memory
from chipmark.backends.torch_device.devices import function_of


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """free, total: bytes, None where the device does not say or is not believed. doubt: why it is
    not, "" else."""

    free: int | None
    total: int | None = None
    doubt: str = ""


def device_memory(device: Any, meminfo: str = "/proc/meminfo") -> DeviceMemory:
    """What the device says of its memory.

    Some vendors' packages answer with the host's memory in place of the card's (vllm-kunlun 0.11.1
    returns psutil's total). A total that is the host's to the byte is not believed, unless the
    device says that it is integrated, and so has no other.
    """
    if device.type == "cpu":
        return DeviceMemory(available_memory(meminfo))
    ask = function_of(device.type, "mem_get_info")
    if ask is None:
        return DeviceMemory(None)
    free, total = (int(n) for n in ask())
    if total == total_memory(meminfo) and not _integrated(device):
        doubt = (
            f"{device} says that it has {total} bytes of memory, which is the host's own: not "
            "believed, so whether weights and KV fit was not checked before they were loaded"
        )
        return DeviceMemory(None, None, doubt)
    return DeviceMemory(free, total)


def free_bytes(device: Any) -> int | None:
    """Bytes that an allocation may still take, None where that is not known."""
    return device_memory(device).free


def peak_bytes(device: Any) -> int | None:
    """Most bytes of tensors on the device so far; None for a CPU and where nothing tells."""
    if device.type == "cpu":
        return None
    ask = function_of(device.type, "max_memory_allocated")
    if ask is None:
        return None
    # torch.accelerator answers 0 for an allocator that keeps no count.
    return int(ask()) or None


def _integrated(device: Any) -> bool:
    ask = function_of(device.type, "get_device_properties")
    return ask is not None and bool(getattr(ask(device), "is_integrated", False))
