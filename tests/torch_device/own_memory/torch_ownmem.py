"""The module that makes the device `ownmem` known to torch, as a vendor's plug-in does.

`OWNMEM_LIBRARY` is the library that `build.py` compiled; `OWNMEM_FALLBACK` names the operators that
are left to the host.
"""

from __future__ import annotations

import os
import sys

import torch

__version__ = "1.0"

TOTAL_BYTES = 1 << 32

torch.utils.rename_privateuse1_backend("ownmem")
torch.ops.load_library(os.environ["OWNMEM_LIBRARY"])
torch.ops.ownmem.start()


def is_available() -> bool:
    """Always."""
    return True


def device_count() -> int:
    """One."""
    return 1


def current_device() -> int:
    """The only one."""
    return 0


def synchronize(device: object = None) -> None:
    """Nothing: its kernels have ended when they return."""


def get_device_name(device: object = None) -> str:
    """What it calls itself."""
    return "memory of its own"


def mem_get_info(device: object = None) -> tuple[int, int]:
    """Bytes free and in all."""
    return TOTAL_BYTES - memory_allocated(), TOTAL_BYTES


def memory_allocated(device: object = None) -> int:
    """Bytes of tensors now."""
    return int(torch.ops.ownmem.counts()[0])


def max_memory_allocated(device: object = None) -> int:
    """Most bytes of tensors so far."""
    return int(torch.ops.ownmem.counts()[1])


def bytes_across() -> tuple[int, int]:
    """Bytes copied to the device, and from it."""
    _, _, sent, fetched = torch.ops.ownmem.counts()
    return sent, fetched


torch._register_device_module("ownmem", sys.modules[__name__])
