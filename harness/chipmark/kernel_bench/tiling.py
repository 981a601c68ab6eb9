"""Which tiles are tried for a case, and which of the measured ones goes into the table."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chipmark.kernel_bench.attention_cases import attention_cases
from chipmark.kernel_bench.case import Case
from chipmark.kernel_bench.gemm_cases import gemm_cases
from chipmark_kernels import tiles
from chipmark_kernels.device import DeviceFacts
from chipmark_kernels.manifest import ModelShape
from chipmark_kernels.tiles import Tile

KERNELS = (
    "skinny_gemm",
    "gemv_hopper",
    "decode_attention",
    "w8a16_gemm",
    "w4a16_gemm",
    "fp8a16_gemm",
)
"""Kernels whose tiles are tuned, in the order of their share of a step."""

LEAST_GAIN = 0.02
"""A tile must beat the rule's by this share of its time, or noise would fill the table."""

LANE_VALUES = 8
"""16-bit values that a thread loads at once. At one row a depth of so many for each thread lets x
lie as the weights do; at others the compiler moves x through shared memory in every turn."""

MOST_VALUES = 256
"""Weights a thread holds at once at one row, above which they spill."""


def tunable_cases(
    shapes: Sequence[ModelShape], rows: Sequence[int], kernels: Sequence[str]
) -> list[Case]:
    """What a decode step of the models calls at so many rows, with norm, residual and SwiGLU as it
    has them; each tile's place in the table once, one row first."""
    found: dict[tuple[Any, ...], Case] = {}
    for n_rows, kernel, shape in itertools.product(rows, kernels, shapes):
        all_cases = itertools.chain(gemm_cases(shape, n_rows), attention_cases(shape, small=False))
        for case in all_cases:
            of_rows = case.tile_shape.get("rows", case.tile_shape.get("seqs"))
            if case.tiled is not None and case.kernel == kernel and of_rows == n_rows:
                key = tuple(sorted(tiles.bucketed(case.tile_shape).items()))
                found.setdefault((kernel, *key), case)
    return list(found.values())


def rule_of(case: Case, device: DeviceFacts) -> Tile:
    """The tile of the rule, whatever a table says."""
    return tiles.RULES[case.kernel]("bf16", case.tile_shape, device)


def candidates(case: Case, device: DeviceFacts) -> list[Tile]:
    """The rule's tile first, then those that may be better, each once."""
    rule = rule_of(case, device)
    found = [rule]
    if case.kernel == "decode_attention":
        found += _splits(rule)
    elif rule.m == 1 and case.kernel in ("skinny_gemm", "gemv_hopper", "fp8a16_gemm"):
        found += _one_row(rule, case, device)
    else:
        found += _neighbours(rule)
    return list(dict.fromkeys(found))


def _splits(rule: Tile) -> Iterator[Tile]:
    """Parts of the context, stages and warps; blocks are what the matrix unit takes."""
    for scale, stages, warps in itertools.product((0.25, 0.5, 1, 2, 4), (-1, 0, 1, 2), (1, 2)):
        split, num_stages = int(rule.split * scale), rule.num_stages + stages
        if 1 <= split <= 128 and num_stages >= 1:
            yield dataclasses.replace(
                rule, split=split, num_stages=num_stages, num_warps=rule.num_warps // warps
            )


def _one_row(rule: Tile, case: Case, device: DeviceFacts) -> Iterator[Tile]:
    """Columns, warps and depths. There is no product in the loop that stages could feed, so the
    rule's number stays."""
    for n, warps, scale in itertools.product((2, 4, 8, 16), (1, 2, 4, 8), (1, 2)):
        threads = warps * device.warp_size
        k = LANE_VALUES * threads * scale
        held = n * k * (1 + case.tile_shape["glu"]) // threads
        if k <= case.tile_shape["k"] and held <= MOST_VALUES // (1 + (scale > 1)):
            yield dataclasses.replace(rule, n=n, k=k, num_warps=warps)


def _neighbours(rule: Tile) -> Iterator[Tile]:
    """Half and twice the columns, depth and warps, a stage more and less where there is a product
    in the loop, and twice the splits."""
    stage_steps = (0,) if rule.m == 1 else (-1, 0, 1)
    scales = itertools.product((0.5, 1, 2), (0.5, 1, 2), (0.5, 1, 2), stage_steps, (1, 2))
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
        if fits and 1 <= tile.num_warps <= 8:
            yield tile


def name_of(tile: Tile) -> str:
    """A tile as a row names it."""
    return " ".join(f"{field}={value}" for field, value in dataclasses.asdict(tile).items())


def fastest(trials: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The tile with the least time of those that were right and timed, by name."""
    timed = {name: trial["median_s"] for name, trial in trials.items() if "median_s" in trial}
    return min(timed, key=lambda name: timed[name]) if timed else None


def entry(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row's line in the table; None where the rule is as good, or nothing was found."""
    share = row.get("share_of_rule")
    if share is None or share > 1 - LEAST_GAIN:
        return None
    return {
        "kernel": row["kernel"], "dtype": "bf16", "shape": row["shape"], "tile": row["tile"],
        "share_of_rule": round(share, 3),
    }  # fmt: skip
