"""Compile a recorded launch without a device, and read what the compiler made of it.

Signature, constants and attributes (an integer or a pointer that 16 divides, ...) are those that
Triton's own launcher derives from the arguments: it is called, and stopped before it compiles. So
what is compiled here is found in Triton's cache by the launch itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import triton
from triton import knobs
from triton.compiler import ASTSource

from chipmark_kernels.device import DeviceFacts
from chipmark_kernels.launch import Launch
from chipmark_kernels.machine_code import Resources, resources_of_cubin, resources_of_gcn
from chipmark_kernels.no_device import standing_in, target_of
from chipmark_kernels.wait_check import READ_BEFORE_WAIT, unordered

Attribute = tuple[str, int]
"""A name of Triton's and its value: ("tt.divisibility", 16)."""


@dataclass(frozen=True, slots=True)
class Specialisation:
    """What Triton compiles for, in the order of its launcher, for that enters the key.

    signature: types by argument name. constants: by argument name. attributes: by position, empty
    where there is nothing to say of an argument. options: warps, stages, dependent launch.
    """

    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    attributes: tuple[tuple[int, tuple[Attribute, ...]], ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def aligned(self) -> tuple[int, ...]:
        """Positions of arguments that 16 divides."""
        return tuple(i for i, said in self.attributes if ("tt.divisibility", 16) in said)


def specialise(launch: Launch, device: DeviceFacts) -> Specialisation:
    """The specialisation of a launch on `device`, as `triton.jit` derives it."""
    told: list[Mapping[str, Any]] = []

    def stop(*, compile: Mapping[str, Any], **_: object) -> bool:
        told.append(compile)
        return True

    before = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = stop
    try:
        with standing_in(device):
            warm_up(launch)
    finally:
        knobs.runtime.jit_cache_hook = before
    (derived,) = told
    names = launch.kernel.arg_names
    return Specialisation(
        tuple(derived["signature"].items()),
        tuple((names[i], value) for (i,), value in derived["constants"].items()),
        tuple(
            (i, tuple((name, value) for name, value in said))
            for (i,), said in derived["configs"][0].items()
        ),
        tuple(launch.options.items()),
    )


def warm_up(launch: Launch) -> None:
    """Compile a launch by its kernel's own launcher, or find it in the cache; nothing is run."""
    launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.constants, **launch.options)


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


def compile_kernel(kernel: Any, spec: Specialisation, device: DeviceFacts) -> Any:
    """What Triton makes of a `triton.jit` function; raises what Triton raises where it cannot.

    Triton keeps what it compiled in its cache on disk, under the hash of all that enters: source,
    constants, types, attributes, options, device and Triton itself.
    """
    source = ASTSource(
        kernel,
        dict(spec.signature),
        dict(spec.constants),
        {(i,): [list(attribute) for attribute in said] for i, said in spec.attributes},
    )
    return triton.compile(source, target=target_of(device), options=dict(spec.options))


@contextmanager
def counting_hits() -> Iterator[list[bool]]:
    """Collects of each compilation whether it was found in the cache on disk."""
    hits: list[bool] = []

    def note(*, cache_hit: bool, **_: object) -> None:
        hits.append(cache_hit)

    before = knobs.compilation.listener
    knobs.compilation.listener = note
    try:
        yield hits
    finally:
        knobs.compilation.listener = before


def _assembly(kernel: Any, spec: Specialisation, device: DeviceFacts, kind: str) -> Any:
    """As `compile_kernel`; anew where a cache that was carried here has machine code alone."""
    made = compile_kernel(kernel, spec, device)
    if kind in made.asm:
        return made
    with knobs.compilation.scope():
        knobs.compilation.always_compile = True
        return compile_kernel(kernel, spec, device)


def compile_for(kernel: Any, spec: Specialisation, device: DeviceFacts) -> Compiled:
    """Compile a `triton.jit` function for `device`; raises what Triton raises where it cannot.

    The figures are read from what is in the cache each time.
    """
    if device.vendor == "hip":
        made = _assembly(kernel, spec, device, "amdgcn")
        asm = made.asm["amdgcn"]
        vector_loads, matrix = len(_GCN_VECTOR.findall(asm)), len(_GCN_MATRIX.findall(asm))
        return Compiled(resources_of_gcn(asm), made.metadata.shared, vector_loads, matrix)
    made = _assembly(kernel, spec, device, "ptx")
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
