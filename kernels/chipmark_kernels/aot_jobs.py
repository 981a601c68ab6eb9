"""What is compiled ahead of time, and what each compiled kernel is held to."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chipmark_kernels.compile_ahead import Compiled, Specialisation, specialise
from chipmark_kernels.device import TARGETS, DeviceFacts
from chipmark_kernels.launch import Launch
from chipmark_kernels.manifest import FAMILIES, MODEL_SHAPES, Entry, Family, ModelShape, entries
from chipmark_kernels.tuned import Key, Table

NO_VECTOR_LOADS = {
    "_best_of_row_kernel": "reads one value a block",
    "_rope_kv_kernel interleaved": "reads every other value",
    "_dense_gemm_hopper_kernel": "reads whole tiles by descriptors",
    "_philox_weights_kernel": "reads a key, and a table by what it drew",
}
"""Kernels that read no 16 bytes at once, with the reason."""

PARKED_BYTES = 48
"""Stores and loads of a thread that are allowed: `ptxas` parks a value that is not used in the
main loop before it and fetches it behind, even where registers are free (seen: 12 to 40 bytes at 56
to 80 of 255 registers). The machine code is read to see that none of them is inside a loop."""

MATRIX_KERNELS = (
    "_prefill_attention_kernel",
    "_decode_attention_kernel",
    "_rope_decode_attention_kernel",
    "_skinny_gemm_kernel",
    "_weight_only_gemm_kernel",
    "_fp8_gemm_kernel",
    "_dense_gemm_hopper_kernel",
)
SECOND_PASSES = ("_sum_splits_kernel", "_merge_splits_kernel")
"""Kernels that sum what the launch before them split, so that its tile makes them too."""
HOPPER_KERNELS = ("_dense_gemm_hopper_kernel",)
"""Kernels written for TMA loads, and on capability 9.0 for wgmma."""


@dataclass(frozen=True, slots=True)
class Job:
    """One specialisation to compile for a device, in plain data that another process can take.

    module, kernel: where the `triton.jit` function is found. example: a shape that launches it.
    vectors, matrix: whether it is written for 16-byte loads and for the matrix units. tuned: file
    and key of the measured tile that it is launched with, "" for a rule's. problem: why there is
    nothing to compile, "" where there is. hardware: what was seen of it on a device.
    """

    device: DeviceFacts
    family: str
    dtype: str
    example: str
    hardware: str
    module: str = ""
    kernel: str = ""
    spec: Specialisation | None = None
    tile: str = ""
    vectors: bool = False
    matrix: bool = False
    tuned: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class BuildRow:
    """One line of the report; `problems` is empty where all is well."""

    target: str
    kernel: str
    family: str
    dtype: str
    example: str
    tile: str
    tuned: str
    registers: int | None
    shared_bytes: int | None
    spill_bytes: int | None
    vector_loads: int | None
    matrix: int | None
    problems: tuple[str, ...]
    hardware: str


def expects_vector_loads(launch: Launch) -> bool:
    """Whether the kernel is written to read global memory 16 bytes at a time."""
    name = launch.kernel.__name__
    if name == "_rope_kv_kernel" and launch.constants["INTERLEAVED"]:
        name += " interleaved"
    return name not in NO_VECTOR_LOADS


def expects_matrix(launch: Launch, dtype: str) -> bool:
    """Whether the launch is written for the matrix units; fp32 is computed without them."""
    one_row = launch.constants.get("BLOCK_M") == 1
    return launch.kernel.__name__ in MATRIX_KERNELS and dtype != "fp32" and not one_row


def _job(entry: Entry, device: DeviceFacts, hardware: str, tuned: str = "") -> Job:
    launch = entry.launch
    tile = dataclasses.asdict(launch.tile)
    return Job(
        device,
        entry.family,
        entry.dtype,
        entry.example,
        hardware,
        launch.kernel.fn.__module__,
        launch.kernel.__name__,
        specialise(launch, device),
        " ".join(f"{name}={size}" for name, size in tile.items() if size),
        expects_vector_loads(launch),
        expects_matrix(launch, entry.dtype),
        tuned,
    )


def jobs_by_rule(
    device: DeviceFacts,
    families: Sequence[Family],
    shapes: Sequence[ModelShape],
    first_only: bool = False,
) -> Iterator[Job]:
    """Each different specialisation that the rules make, or the first of each kernel."""
    notes = {family.name: family.hardware for family in families}
    seen: set[object] = set()
    for entry in entries(device, tuple(families), tuple(shapes)):
        job = _job(entry, device, notes[entry.family])
        one_row = entry.launch.constants.get("BLOCK_M") == 1
        key = (job.family, job.kernel, one_row) if first_only else (job.kernel, job.spec)
        if key not in seen:
            seen.add(key)
            yield job


def jobs_of_table(table: Table, kernels: Sequence[str] | None = None) -> Iterator[Job]:
    """Each different specialisation by a measured tile; a problem for one that nothing launches.

    kernels: those of the entries that are wanted, None for all. The launchers are called for every
    preset as on the product itself, at the table's numbers of rows too, so a tile is compiled in
    each variant (norm, residual, ...) in which dispatch takes it.
    """
    device = dataclasses.replace(TARGETS[table.target], product=table.product)
    wanted = {id(t): k for k, t in table.entries.items() if kernels is None or k[0] in kernels}
    rows = {dict(key[2]).get(name, 1) for key in wanted.values() for name in ("rows", "seqs")}
    missing = dict.fromkeys(wanted.values())
    families = [family for family in FAMILIES if not family.again]
    seen: set[object] = set()
    for family, shape in itertools.product(families if wanted else (), MODEL_SHAPES):
        for n_rows in sorted({*family.rows, *rows}):
            call = dataclasses.replace(family, rows=(n_rows,))
            try:
                made = list(entries(device, (call,), (shape,)))
            except (ValueError, ArithmeticError) as error:
                example = f"{shape.name} rows={n_rows}"
                where = (device, family.name, "", example, family.hardware)
                yield Job(*where, tuned=str(table.path), problem=f"no launch: {error}")
                continue
            key: Key | None = None
            for entry in made:
                if entry.launch.kernel.__name__ not in SECOND_PASSES:
                    key = wanted.get(id(entry.launch.tile))
                if key is None:
                    continue
                missing.pop(key, None)
                job = _job(entry, device, family.hardware, table.name_of(key))
                if (job.kernel, job.spec, key) not in seen:
                    seen.add((job.kernel, job.spec, key))
                    yield job
    for key in missing:
        where = (device, key[0], key[1], "", "unverified on hardware")
        reason = "no preset launches a kernel of this key"
        yield Job(*where, tuned=table.name_of(key), problem=reason)


def _problems(job: Job, made: Compiled) -> Iterator[str]:
    device, spilled = job.device, made.resources
    if spilled.spill_bytes > PARKED_BYTES or (spilled.spill_bytes and spilled.registers >= 255):
        yield f"spills {spilled.spill_bytes} bytes a thread"
    if spilled.spills_in_loops:
        yield f"spills {spilled.spills_in_loops} times inside a loop"
    if made.shared_bytes > device.smem_per_block_bytes:
        yield f"shared memory over {device.smem_per_block_bytes}"
    if job.vectors and made.vector_loads == 0:
        yield "no 16-byte loads"
    if job.matrix and made.matrix == 0:
        yield "no matrix instructions"
    yield from made.unordered
    if job.kernel in HOPPER_KERNELS and made.tma == 0:
        yield "no TMA loads"
    if job.kernel in HOPPER_KERNELS and device.arch == 90 and made.wgmma == 0:
        yield "no wgmma"


def judged(job: Job, made: Compiled | str) -> BuildRow:
    """The row of a job; `made` is what the compiler gave, or why it gave nothing."""
    named = (job.device.name, job.kernel or "-", job.family, job.dtype, job.example, job.tile)
    if isinstance(made, str):
        return BuildRow(*named, job.tuned, None, None, None, None, None, (made,), job.hardware)
    return BuildRow(
        *named,
        job.tuned,
        made.resources.registers,
        made.shared_bytes,
        made.resources.spill_bytes,
        made.vector_loads,
        made.matrix,
        tuple(_problems(job, made)),
        job.hardware,
    )
