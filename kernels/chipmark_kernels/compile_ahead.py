"""Compile a recorded launch without a device, and read what the compiler made of it.

The signature and the alignment attributes are those that Triton's own launcher would derive from
the arguments: an integer that 16 divides, a pointer that 16 divides, an integer 1 as a constant.
Without them a compiler test would compile another kernel, one with scalar loads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from chipmark_kernels.device import DeviceFacts
from chipmark_kernels.dtypes import dtype_name
from chipmark_kernels.launch import Launch
from chipmark_kernels.machine_code import Resources, resources_of_cubin, resources_of_gcn
from chipmark_kernels.wait_check import READ_BEFORE_WAIT, unordered


@dataclass(frozen=True, slots=True)
class Specialisation:
    """What Triton compiles for: types by argument name, constants, aligned argument positions."""

    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]
    num_warps: int
    num_stages: int


def specialise(launch: Launch) -> Specialisation:
    """The specialisation of a launch, as `triton.jit` derives it from the run-time arguments."""
    kernel = launch.kernel
    loose = {p.name for p in kernel.params if p.do_not_specialize}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    aligned: list[int] = []
    for i, (name, value) in enumerate(zip(kernel.arg_names, launch.args, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = f"*{dtype_name(value.dtype)}"
            if value.storage_offset() * value.element_size() % 16 == 0:
                aligned.append(i)
        elif isinstance(value, TensorDescriptor):
            block = ", ".join(map(str, value.block_shape))
            signature[name] = f"tensordesc<{dtype_name(value.base.dtype)}[{block}]>"
        elif value is None or (value == 1 and isinstance(value, int) and name not in loose):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, int):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and name not in loose:
                aligned.append(i)
        else:
            signature[name] = "fp32"
    for name, value in launch.constants.items():
        signature[name], constants[name] = "constexpr", value
    return Specialisation(
        tuple(signature.items()),
        tuple(constants.items()),
        tuple(aligned),
        launch.tile.num_warps,
        launch.tile.num_stages,
    )


@dataclass(frozen=True, slots=True)
class Compiled:
    """Figures of one compiled kernel. shared_bytes: of one block.

    vector_loads: 16-byte loads from global memory. matrix: instructions of the matrix units;
    wgmma, tma: Hopper's asynchronous products and tile loads among them. unordered: of a kernel
    that is launched early, what it may do before it waits and must not.
    """

    resources: Resources
    shared_bytes: int
    vector_loads: int
    matrix: int
    wgmma: int = 0
    tma: int = 0
    unordered: tuple[str, ...] = ()


_PTX_VECTOR = re.compile(
    r"ld\.global\S*\.v(?:4\.[bfu]32|2\.[bfu]64|8\.[bfu]32|4\.[bfu]64)"
    r"|cp\.async\.c[ag]\.shared\.global[^;]*0x10\b"
)
_PTX_MATRIX = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)")
_PTX_TMA = re.compile(r"cp\.async\.bulk\.tensor\S*global")
_GCN_VECTOR = re.compile(r"\b(?:global|buffer)_load_dwordx4\b")
_GCN_MATRIX = re.compile(r"\bv_mfma_")


def _unordered(kernel: str, spec: Specialisation, ptx: str) -> tuple[str, ...]:
    if not dict(spec.constants).get("PDL"):
        return ()
    names = [name for name, kind in spec.signature if kind != "constexpr"]
    return unordered(ptx, names, READ_BEFORE_WAIT.get(kernel, ()))


def compile_for(kernel: Any, spec: Specialisation, device: DeviceFacts) -> Compiled:
    """Compile a `triton.jit` function for `device`; raises what Triton raises where it cannot.

    Triton keeps what it compiled in its cache on disk, under the hash of all that enters: source,
    constants, types, options, device and Triton itself. What is read here is read anew each time.
    """
    source = ASTSource(
        kernel,
        dict(spec.signature),
        dict(spec.constants),
        {(i,): [["tt.divisibility", 16]] for i in spec.aligned},
    )
    made = triton.compile(
        source,
        target=GPUTarget(device.vendor, device.arch, device.warp_size),
        options={"num_warps": spec.num_warps, "num_stages": spec.num_stages},
    )
    if device.vendor == "hip":
        asm = made.asm["amdgcn"]
        vector_loads, matrix = len(_GCN_VECTOR.findall(asm)), len(_GCN_MATRIX.findall(asm))
        return Compiled(resources_of_gcn(asm), made.metadata.shared, vector_loads, matrix)
    ptx = made.asm["ptx"]
    return Compiled(
        resources_of_cubin(made.asm["cubin"]),
        made.metadata.shared,
        len(_PTX_VECTOR.findall(ptx)),
        len(_PTX_MATRIX.findall(ptx)),
        ptx.count("wgmma.mma_async"),
        len(_PTX_TMA.findall(ptx)),
        _unordered(kernel.__name__, spec, ptx),
    )
