"""`python -m chipmark_kernels.aot`: compile every launch of the manifest without a GPU.

Prints registers, shared memory and spills of each; exits 1 where one does not compile, spills
(inside a loop, or more than PARKED_BYTES), needs more shared memory than the device has, or lacks
the vector loads or the matrix instructions that its design counts on. The last line is a summary.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from chipmark_kernels.device import TARGETS, DeviceFacts
from chipmark_kernels.launch import Launch

NO_VECTOR_LOADS = {
    "_best_of_row_kernel": "reads one value a block",
    "_rope_kv_kernel interleaved": "reads every other value",
    "_dense_gemm_hopper_kernel": "reads whole tiles by descriptors",
}
"""Kernels that read no 16 bytes at once, with the reason."""

PARKED_BYTES = 48
"""Stores and loads of a thread that are no failure: `ptxas` parks a value that is not used in the
main loop before it and fetches it behind, even where registers are free (seen: 12 to 40 bytes at 56
to 80 of 255 registers). The machine code is read to see that none of them is inside a loop."""

MATRIX_KERNELS = (
    "_prefill_attention_kernel",
    "_decode_attention_kernel",
    "_skinny_gemm_kernel",
    "_weight_only_gemm_kernel",
    "_fp8_gemm_kernel",
    "_dense_gemm_hopper_kernel",
)
HOPPER_KERNELS = ("_dense_gemm_hopper_kernel",)
"""Kernels written for TMA loads, and on capability 9.0 for wgmma."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report; `problems` is empty where all is well."""

    target: str
    kernel: str
    family: str
    dtype: str
    example: str
    tile: str
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


def _tile_text(launch: Launch) -> str:
    tile = asdict(launch.tile)
    return " ".join(f"{name}={size}" for name, size in tile.items() if size)


def report(
    device: DeviceFacts, families: Sequence[str], shapes: Sequence[str], first_only: bool
) -> Iterator[Row]:
    """A row for each different specialisation on `device`, or for the first of each kernel."""
    from chipmark_kernels import manifest
    from chipmark_kernels.compile_ahead import compile_for, specialise

    wanted = tuple(f for f in manifest.FAMILIES if f.name in families)
    models = tuple(s for s in manifest.MODEL_SHAPES if s.name in shapes)
    notes = {f.name: f.hardware for f in wanted}
    seen: set[object] = set()
    for entry in manifest.entries(device, wanted, models):
        launch = entry.launch
        name = launch.kernel.__name__
        spec = specialise(launch)
        one_row = launch.constants.get("BLOCK_M") == 1
        key: object = (entry.family, name, one_row) if first_only else (name, spec)
        if key in seen:
            continue
        seen.add(key)
        hardware = notes[entry.family]
        row = (device.name, name, entry.family, entry.dtype, entry.example, _tile_text(launch))
        try:
            made = compile_for(launch, spec, device)
        except Exception as error:  # Triton raises many kinds; the report shows each of them.
            text = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
            yield Row(*row, None, None, None, None, None, (f"does not compile: {text}",), hardware)
            continue
        problems = []
        if made.spill_bytes > PARKED_BYTES or (made.spill_bytes and made.registers >= 255):
            problems.append(f"spills {made.spill_bytes} bytes a thread")
        if made.spills_in_loops:
            problems.append(f"spills {made.spills_in_loops} times inside a loop")
        if made.shared_bytes > device.smem_per_block_bytes:
            problems.append(f"shared memory over {device.smem_per_block_bytes}")
        if expects_vector_loads(launch) and made.vector_loads == 0:
            problems.append("no 16-byte loads")
        if expects_matrix(launch, entry.dtype) and made.matrix == 0:
            problems.append("no matrix instructions")
        if name in HOPPER_KERNELS and made.tma == 0:
            problems.append("no TMA loads")
        if name in HOPPER_KERNELS and device.arch == 90 and made.wgmma == 0:
            problems.append("no wgmma")
        figures = (made.registers, made.shared_bytes, made.spill_bytes)
        yield Row(*row, *figures, made.vector_loads, made.matrix, tuple(problems), hardware)


def _line(row: Row) -> str:
    figures = (row.registers, row.shared_bytes, row.spill_bytes, row.vector_loads, row.matrix)
    cells = "".join(f"{'-' if n is None else n:>7}" for n in figures)
    state = "ok" if not row.problems else "FAILED: " + "; ".join(row.problems)
    return f"{row.target:<8}{row.kernel:<28}{row.dtype:<6}{cells}  {row.tile:<55}{state}"


def _names(given: str, known: Sequence[str], what: str) -> list[str]:
    names = [name for name in given.split(",") if name]
    for name in names:
        if name not in known:
            raise SystemExit(f"error: no {what} {name!r}; there are {', '.join(known)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chipmark_kernels.aot", description=__doc__)
    parser.add_argument("--targets", default=",".join(TARGETS), help="comma-separated")
    parser.add_argument("--kernels", default="", help="comma-separated launchers; all by default")
    parser.add_argument("--models", default="", help="comma-separated shapes; all by default")
    parser.add_argument("--first", action="store_true", help="one specialisation a kernel only")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when every launch compiled as designed, 1 when not, 2 on wrong usage."""
    options = _parser().parse_args(argv)
    from chipmark_kernels import manifest

    families = [f.name for f in manifest.FAMILIES]
    models = [s.name for s in manifest.MODEL_SHAPES]
    try:
        targets = _names(options.targets, list(TARGETS), "target")
        chosen = _names(options.kernels, families, "kernel") or families
        shapes = _names(options.models, models, "model") or models
    except SystemExit as wrong:
        print(wrong, file=sys.stderr)
        return 2
    started = time.monotonic()
    text = options.format == "text"
    if text:
        heads = "".join(f"{h:>7}" for h in ("regs", "shared", "spill", "vec16", "matrix"))
        print(f"{'target':<8}{'kernel':<28}{'dtype':<6}{heads}  tile")
    rows: list[Row] = []
    skipped: list[str] = []
    for target in targets:
        device = TARGETS[target]
        reasons = ((name, manifest.left_out(name, device)) for name in chosen)
        skipped += [f"{name}: {why}" for name, why in reasons if why is not None]
        for row in report(device, chosen, shapes, options.first):
            rows.append(row)
            if text:
                print(_line(row), flush=True)
    failed = sum(bool(row.problems) for row in rows)
    parked = sum(bool(row.spill_bytes) and not row.problems for row in rows)
    summary = {
        "compiled": len(rows) - failed,
        "failed": failed,
        "parked": parked,
        "targets": targets,
        "left_out": skipped,
        "wall_s": round(time.monotonic() - started, 1),
    }
    if not text:
        print(json.dumps({"rows": [asdict(row) for row in rows], "summary": summary}))
        return 1 if failed else 0
    for line in skipped:
        print(f"left out: {line}")
    print(
        f"aot: {summary['compiled']} compiled as designed, {failed} failed, "
        f"{parked} park up to {PARKED_BYTES} bytes, {len(skipped)} left out, "
        f"on {', '.join(targets)} in {summary['wall_s']} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
