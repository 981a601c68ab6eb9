"""The Ascend chips that can be compiled for without one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from chipmark_kernels.device import DeviceFacts

_SOURCE = "target specification that bishengir-compile of ascendnpu-ir 1.2.0 writes into a module"
_UNIFIED_BUFFER_BYTES = 192 * 1024
_CUBE_CORES = {
    "Ascend910B1": 24,
    "Ascend910B2": 24,
    "Ascend910B2C": 24,
    "Ascend910B3": 20,
    "Ascend910B4": 20,
    "Ascend910B4-1": 20,
    "Ascend910_9362": 20,
    "Ascend910_9372": 20,
    "Ascend910_9381": 24,
    "Ascend910_9382": 24,
    "Ascend910_9391": 24,
    "Ascend910_9392": 24,
}


def _facts(arch: str, cube_cores: int) -> DeviceFacts:
    # A launch's blocks are spread over the cube cores. Warps do not exist there; 32 is what Triton
    # assumes, and the compiler reads nothing from it.
    return DeviceFacts(
        arch.lower(), "npu", arch, cube_cores, _UNIFIED_BUFFER_BYTES, 32, False, _SOURCE
    )


ASCEND_TARGETS: Mapping[str, DeviceFacts] = MappingProxyType(
    {arch.lower(): _facts(arch, cores) for arch, cores in _CUBE_CORES.items()}
)
"""By name in lower case; `arch` is the compiler's own spelling. 950PR and 950DT are not among them:
another compiler makes their code, from another lowering of Triton's."""
