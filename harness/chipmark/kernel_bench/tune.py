"""Measures tiles in the regime of use and writes `tuned/PRODUCT.json` whole.

Example: chipmark kernels tune --kernels skinny_gemm --rows 1,8
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from chipmark.kernel_bench.rotation import n_copies
from chipmark.kernel_bench.timing import CudaDevice, measure
from chipmark_kernels import tiles, tuned
from chipmark_kernels.device import DeviceFacts, facts_of
from chipmark_kernels.formats import scale_group
from chipmark_kernels.manifest import MODEL_SHAPES, projections
from chipmark_kernels.skinny_gemm import skinny_gemm
from chipmark_kernels.tiles import Tile
from chipmark_kernels.weight_only import quantize_int4, quantize_int8, w4a16_gemm, w8a16_gemm

KERNELS = ("skinny_gemm", "w8a16_gemm", "w4a16_gemm")
LEAST_GAIN = 0.02
"""A tile must beat the rule's by this share of its time, or noise would fill the table."""

Shape = Mapping[str, int]
Time = Callable[[str, Shape, Tile], float]


def candidates(kernel: str, shape: Shape, device: DeviceFacts) -> Iterator[Tile]:
    """The rule's tile first, then its neighbours in columns, depth, warps, stages and splits."""
    rule = tiles.RULES[kernel]("bf16", shape, device)
    yield rule
    seen = {rule}
    scales = itertools.product((0.5, 1, 2), (0.5, 1, 2), (0.5, 1, 2), (-1, 0, 1), (1, 2))
    for columns, depth, warps, stages, splits in scales:
        tile = dataclasses.replace(
            rule,
            n=int(rule.n * columns),
            k=int(rule.k * depth),
            num_warps=int(rule.num_warps * warps),
            num_stages=rule.num_stages + stages,
            split=rule.split * splits,
        )
        smallest = 1 if rule.m == 1 else 16
        fits = tile.n >= smallest and tile.k >= 1 and tile.num_stages >= 1
        if fits and 1 <= tile.num_warps <= 8 and tile not in seen:
            seen.add(tile)
            yield tile


def best(kernel: str, shape: Shape, device: DeviceFacts, time: Time) -> tuple[Tile, float] | None:
    """The fastest tile and its share of the rule's time; None where the rule is as good.

    `time` raises RuntimeError for a tile that does not launch; it is left out.
    """
    rule, *others = candidates(kernel, shape, device)
    base_s = time(kernel, shape, rule)
    found = (rule, base_s)
    for tile in others:
        try:
            seconds = time(kernel, shape, tile)
        except RuntimeError:
            continue
        if seconds < found[1]:
            found = (tile, seconds)
    share = found[1] / base_s
    return (found[0], share) if share <= 1 - LEAST_GAIN else None


def sweep(
    kernels: Sequence[str], shapes: Sequence[Shape], device: DeviceFacts, time: Time
) -> list[dict[str, Any]]:
    """Entries of the table for every kernel and shape in which a tile beats the rule's."""
    entries = []
    for kernel, shape in itertools.product(kernels, shapes):
        found = best(kernel, shape, device, time)
        if found is not None:
            tile, share = found
            entries.append(
                {
                    "kernel": kernel,
                    "dtype": "bf16",
                    "shape": tiles.bucketed(shape),
                    "tile": dataclasses.asdict(tile),
                    "share_of_rule": round(share, 3),
                }
            )
    return entries


def write_table(path: Path, target: str, triton_version: str, entries: Sequence[Any]) -> None:
    """Write the table whole and read it back as the kernels will; the product names the file."""
    document = {
        "device": path.stem,
        "target": target,
        "triton": triton_version,
        "entries": list(entries),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
    tuned.read_table.cache_clear()
    tuned.read_table(path)


def preset_shapes(rows: Sequence[int]) -> list[Shape]:
    """The products of every preset's layer at each number of rows, each once."""
    shapes: list[Shape] = []
    for model, n_rows in itertools.product(MODEL_SHAPES, rows):
        for p in projections(model):
            glu = int(p.swiglu)
            shape = {"rows": n_rows, "n": p.n // (1 + glu), "k": p.k, "glu": glu}
            if shape not in shapes:
                shapes.append(shape)
    return shapes


def _device_time(kernel: str, shape: Shape, tile: Tile) -> float:
    """Median seconds in a graph with cold inputs; RuntimeError where the tile does not launch."""
    where, device = torch.device("cuda"), CudaDevice()
    x = torch.randn(shape["rows"], shape["k"], device=where).bfloat16()
    w = torch.randn(shape["n"] * (1 + shape["glu"]), shape["k"], device=where).bfloat16()
    run: Any = {"skinny_gemm": skinny_gemm, "w8a16_gemm": w8a16_gemm, "w4a16_gemm": w4a16_gemm}
    weights: tuple[torch.Tensor, ...] = (w,)
    if kernel != "skinny_gemm":
        quantize = quantize_int8 if kernel == "w8a16_gemm" else quantize_int4
        codes, scales = quantize(w, scale_group(shape["k"]))
        weights = (codes, scales.bfloat16())  # as weights are stored
    size = sum(t.numel() * t.element_size() for t in weights)
    copies = [
        (x, *(t.clone() for t in weights)) for _ in range(n_copies(size, size, device.l2_bytes))
    ]
    try:
        call = lambda *i: run[kernel](*i, swiglu=bool(shape["glu"]), tile=tile)  # noqa: E731
        return measure(device, call, copies, repeats=7).median_s
    except Exception as error:  # Triton's own classes for a tile over the limits.
        raise RuntimeError(f"{kernel} {tile}: {type(error).__name__}: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """0 written; 2 wrong usage; 3 no GPU."""
    parser = argparse.ArgumentParser(prog="chipmark kernels tune", description=__doc__)
    parser.add_argument("--kernels", default=",".join(KERNELS), help="comma-separated")
    parser.add_argument("--rows", default="1,8,64", help="comma-separated numbers of rows")
    options = parser.parse_args(argv)
    kernels = options.kernels.split(",")
    for name in kernels:
        if name not in KERNELS:
            print(f"error: no kernel {name!r}; there are {', '.join(KERNELS)}", file=sys.stderr)
            return 2
    if not torch.cuda.is_available():
        print("tune: no CUDA device here, so no tile was measured and no table written",
              file=sys.stderr)  # fmt: skip
        return 3
    import triton

    device = facts_of(torch.device("cuda", torch.cuda.current_device()))
    shapes = preset_shapes([int(n) for n in options.rows.split(",")])
    entries = sweep(kernels, shapes, device, _device_time)
    path = tuned.table_path(device.product)
    write_table(path, device.name, triton.__version__, entries)
    print(f"tune: {len(entries)} tiles in {path}")
    return 0
