"""Compile a recorded launch without a device, and read what the compiler made of it.

The signature and the alignment attributes are those that Triton's own launcher would derive from
the arguments: an integer that 16 divides, a pointer that 16 divides, an integer 1 as a constant.
Without them a compiler test would compile another kernel, one with scalar loads.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from chipmark_kernels.device import DeviceFacts
from chipmark_kernels.dtypes import dtype_name
from chipmark_kernels.launch import Launch


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
    """Figures of one compiled kernel. registers: a thread's (VGPRs and AGPRs on AMD).

    shared_bytes: of one block. spill_bytes: of a thread, stored to and loaded from its memory.
    wgmma, tma: Hopper's asynchronous products and tile loads among them.
    spills_in_loops: such loads and stores inside a loop; the others run once a block.
    vector_loads: 16-byte loads from global memory. matrix: instructions of the matrix units.
    """

    registers: int
    shared_bytes: int
    spill_bytes: int
    vector_loads: int
    matrix: int
    spills_in_loops: int = 0
    wgmma: int = 0
    tma: int = 0


_CUDA_TOOLS = Path(triton.__path__[0]) / "backends/nvidia/bin"
_PTX_VECTOR = re.compile(
    r"ld\.global\S*\.v(?:4\.[bfu]32|2\.[bfu]64|8\.[bfu]32|4\.[bfu]64)"
    r"|cp\.async\.c[ag]\.shared\.global[^;]*0x10\b"
)
_PTX_MATRIX = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)")
_PTX_TMA = re.compile(r"cp\.async\.bulk\.tensor\S*global")
_GCN_VECTOR = re.compile(r"\b(?:global|buffer)_load_dwordx4\b")
_GCN_MATRIX = re.compile(r"\bv_mfma_")


def compile_for(launch: Launch, spec: Specialisation, device: DeviceFacts) -> Compiled:
    """Compile for `device`; raises what Triton raises where it cannot."""
    source = ASTSource(
        launch.kernel,
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
        return _read_gcn(made.asm["amdgcn"], made.metadata.shared)
    ptx = made.asm["ptx"]
    registers, stack = _cubin_resources(made.asm["cubin"])
    in_loops = spills_in_loops(_disassembled(made.asm["cubin"])) if stack else 0
    return Compiled(
        registers,
        made.metadata.shared,
        # A stack frame may hold a call's frame only; the assembler tells which.
        _ptx_spill_bytes(ptx) if stack else 0,
        len(_PTX_VECTOR.findall(ptx)),
        len(_PTX_MATRIX.findall(ptx)),
        in_loops,
        ptx.count("wgmma.mma_async"),
        len(_PTX_TMA.findall(ptx)),
    )


_LABEL = re.compile(r"^\s*(\.L\w+):")
_BRANCH = re.compile(r"\bBRA\S*\s.*?(\.L\w+)")
_SPILL = re.compile(r"\b(?:STL|LDL)\b")


def spills_in_loops(sass: str) -> int:
    """Loads and stores of a thread's own memory between a label and a branch back to it."""
    lines = sass.splitlines()
    labels: dict[str, int] = {}
    looped: set[int] = set()
    for number, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = number
        elif (branch := _BRANCH.search(line)) and branch[1] in labels:
            looped.update(range(labels[branch[1]], number))
    return sum(bool(_SPILL.search(lines[number])) for number in looped)


def _disassembled(cubin: bytes) -> str:
    """The machine code of a cubin as text, by the `nvdisasm` that Triton's wheel carries."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [_CUDA_TOOLS / "nvdisasm", file.name],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    return done.stdout


def _cubin_resources(cubin: bytes) -> tuple[int, int]:
    """(registers, stack bytes) of a thread, from the `cuobjdump` that Triton's wheel carries."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [_CUDA_TOOLS / "cuobjdump", "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"cuobjdump gave no resource usage: {done.stdout[:300]!r}")
    return int(found[1]), int(found[2]) + int(found[3])


def _ptx_spill_bytes(ptx: str) -> int:
    """Bytes spilled and loaded again by a thread, as the assembler reports them."""
    target = re.search(r"\.target (sm_\w+)", ptx)
    if target is None:
        raise RuntimeError("the PTX names no target")
    blackwell = int(re.findall(r"\d+", target[1])[0]) >= 100
    tool = _CUDA_TOOLS / ("ptxas-blackwell" if blackwell else "ptxas")
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        done = subprocess.run(
            [tool, "-v", f"--gpu-name={target[1]}", "-o", os.devnull, file.name],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill", done.stderr))


def _read_gcn(asm: str, shared: int) -> Compiled:
    def field(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", asm)
        return int(found[1]) if found else 0

    return Compiled(
        field("vgpr_count") + field("agpr_count"),
        shared,
        # Scalar registers spill to lanes of vector registers; only scratch memory costs.
        field("private_segment_fixed_size"),
        len(_GCN_VECTOR.findall(asm)),
        len(_GCN_MATRIX.findall(asm)),
    )
