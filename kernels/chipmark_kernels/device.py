"""What a tile choice needs to know of a device: data for the targets, or read from a real one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

import torch


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """Limits of one device.

    name: `sm_90` or `gfx942`. vendor: Triton's backend name. arch: what Triton's target takes
    (90, or "gfx942"). n_sm: streaming multiprocessors, compute units or cube cores.
    smem_per_block_bytes: the largest shared memory (LDS, unified buffer) of one block, opt-in
    included. warp_size: threads of a warp or
    wavefront. fp8_e4m3: its matrix units take float8_e4m3fn. source: where the figures stand.
    product: the real device's own name as `product_key` writes it, "" for a target; H100 and H200
    are both `sm_90`, but differ in memory, so measured tiles belong to a product.
    """

    name: str
    vendor: Literal["cuda", "hip", "npu"]
    arch: int | str
    n_sm: int
    smem_per_block_bytes: int
    warp_size: int
    fp8_e4m3: bool
    source: str
    product: str = ""


_CUDA_LIMITS = "CUDA C++ Programming Guide, technical specifications per compute capability"

TARGETS: Mapping[str, DeviceFacts] = MappingProxyType(
    {
        "sm_80": DeviceFacts(
            "sm_80",
            "cuda",
            80,
            108,
            163 * 1024,
            32,
            False,
            f"{_CUDA_LIMITS}; A100 datasheet (108 SMs)",
        ),
        "sm_90": DeviceFacts(
            "sm_90",
            "cuda",
            90,
            132,
            227 * 1024,
            32,
            True,
            f"{_CUDA_LIMITS}; H100 and H200 SXM datasheets (132 SMs)",
        ),
        "sm_100": DeviceFacts(
            "sm_100",
            "cuda",
            100,
            148,
            227 * 1024,
            32,
            True,
            f"{_CUDA_LIMITS}; B200 (148 SMs)",
        ),
        # Its matrix units take the fnuz variant of e4m3, which is another number format.
        "gfx942": DeviceFacts(
            "gfx942",
            "hip",
            "gfx942",
            304,
            64 * 1024,
            64,
            False,
            "AMD CDNA 3 ISA guide (64 KB LDS, wavefront 64); MI300X datasheet (304 CUs)",
        ),
    }
)


def product_key(device_name: str) -> str:
    """A device's own name as files are called: "NVIDIA H200" is "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")


@lru_cache(maxsize=16)
def _facts_of_cuda(index: int) -> DeviceFacts:
    properties = torch.cuda.get_device_properties(index)
    product = product_key(torch.cuda.get_device_name(index))
    if torch.version.hip is not None:
        arch = str(properties.gcnArchName).split(":")[0]
        return DeviceFacts(
            arch,
            "hip",
            arch,
            properties.multi_processor_count,
            64 * 1024,
            64 if arch.startswith("gfx9") else 32,
            False,
            "read from the device",
            product,
        )
    capability = properties.major * 10 + properties.minor
    known = TARGETS.get(f"sm_{capability}")
    # Not every torch tells the opt-in limit; the plain one is always safe.
    shared = getattr(
        properties, "shared_memory_per_block_optin", properties.shared_memory_per_block
    )
    return DeviceFacts(
        f"sm_{capability}",
        "cuda",
        capability,
        properties.multi_processor_count,
        known.smem_per_block_bytes if known is not None else shared,
        32,
        capability >= 89,
        "read from the device",
        product,
    )


def facts_of(device: torch.device) -> DeviceFacts:
    """Facts of a torch device; of sm_90 for a device without Triton (the interpreter on a CPU)."""
    if device.type == "cuda":
        return _facts_of_cuda(torch.cuda.current_device() if device.index is None else device.index)
    return TARGETS["sm_90"]
