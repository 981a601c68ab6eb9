"""The product of one row in a chain of launches: its arithmetic, its tiles and its machine code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import chipmark_kernels
from chipmark_kernels import aot_jobs
from chipmark_kernels.compile_ahead import Compiled
from chipmark_kernels.device import TARGETS
from chipmark_kernels.gemv_hopper import gemv_hopper
from chipmark_kernels.gemv_tiles import gemv_tile, places, registers, waves
from chipmark_kernels.launch import recording
from chipmark_kernels.machine_code import Resources
from chipmark_kernels.manifest import MODEL_SHAPES, projections
from chipmark_kernels.reference.gemm import skinny_gemm_reference
from chipmark_kernels.skinny_gemm import skinny_gemm
from chipmark_kernels.tiles import Tile

ROOT = Path(next(iter(chipmark_kernels.__path__))).parent
SM90 = TARGETS["sm_90"]
TILE = Tile(m=1, n=4, k=32, num_warps=1, num_stages=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("n", "k"), [(33, 123), (8, 96), (1, 1), (5, 32), (6, 31)], ids=lambda size: str(size)
)
@pytest.mark.parametrize("swiglu", [False, True])
def test_one_row_with_everything_around_it_agrees_with_fp64(
    dtype, n, k, swiglu, rng, assert_accurate
) -> None:
    width = 2 * n if swiglu else n
    x = (3 * torch.randn(1, k, generator=rng) + 1).to(dtype)
    w = (torch.randn(width, k, generator=rng) / k**0.5).to(dtype)
    norm = (1 + torch.randn(k, generator=rng) / 4).to(dtype)
    bias = torch.randn(width, generator=rng).to(dtype)
    residual = torch.randn(1, n, generator=rng).to(dtype)

    def options(cast) -> dict:
        tensors = {"norm_weight": cast(norm), "residual": cast(residual)}
        return {"eps": 1e-5, "swiglu": swiglu, **tensors}

    got = gemv_hopper(x, w, None, bias, tile=TILE, pdl=False, **options(torch.clone))
    oracle = skinny_gemm_reference(
        x.double(), w.double(), bias.double(), **options(torch.Tensor.double)
    )
    assert_accurate(got, oracle, skinny_gemm_reference(x, w, bias, **options(torch.clone)))


@pytest.mark.parametrize("swiglu", [False, True])
def test_scales_multiply_the_sums_of_rows(swiglu, rng) -> None:
    x, w = torch.randn(1, 70, generator=rng), torch.randn(10, 70, generator=rng)
    scales = torch.rand(10, generator=rng) + 0.5
    got = gemv_hopper(x, w, scales, swiglu=swiglu, tile=TILE, pdl=False)
    expected = skinny_gemm_reference(x, w * scales[:, None], swiglu=swiglu)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_what_it_does_not_take_is_refused_by_name() -> None:
    x, w = torch.ones(1, 64), torch.ones(4, 64)
    with pytest.raises(ValueError, match="must be one row, not 2"):
        gemv_hopper(torch.ones(2, 64), w, pdl=False)
    with pytest.raises(ValueError, match="cannot be split, not into 2"):
        gemv_hopper(x, w, tile=Tile(m=1, n=4, k=32, split=2), pdl=False)
    with recording(TARGETS["sm_80"]), pytest.raises(ValueError, match="sm_80 launches no kernel"):
        gemv_hopper(x, w)


def test_a_launch_in_a_chain_says_so_to_triton_and_another_does_not() -> None:
    x, w = torch.empty(1, 64, device="meta"), torch.empty(4, 64, device="meta")
    with recording(SM90) as launches:
        gemv_hopper(x, w)
        skinny_gemm(x, w, pdl=True)
        skinny_gemm(x, w)
    assert [launch.options.get("launch_pdl") for launch in launches] == [True, True, None]


# Section by section of a layer, at what the product of the presets has on its way.
@pytest.mark.parametrize(
    ("n", "k", "glu", "tile", "of_a_wave"),
    [
        (6144, 4096, False, (8, 256, 1), 0.36),
        (4096, 4096, False, (4, 512, 2), 0.65),
        (12288, 4096, True, (4, 256, 1), 1.45),
        (4096, 12288, False, (4, 512, 2), 0.65),
        (151_936, 4096, False, (8, 256, 1), 8.99),
        (1024, 2048, False, (2, 1024, 4), 0.43),
        (576, 576, False, (4, 512, 2), 0.09),
    ],
)
def test_tiles_of_one_row_fill_the_device_in_one_wave(n, k, glu, tile, of_a_wave) -> None:
    found = gemv_tile("bf16", {"rows": 1, "n": n, "k": k, "glu": int(glu)}, SM90)
    assert (found.n, found.k, found.num_warps) == tile
    assert waves(found, n, glu, SM90) == pytest.approx(of_a_wave, abs=0.01)


def test_places_follow_registers_warps_and_the_limit_of_blocks() -> None:
    assert registers(8) == 128
    assert places(8, 1, SM90) == 132 * 16  # by registers: 65,536 / (128 x 32)
    assert places(4, 2, SM90) == 132 * 12
    assert places(1, 1, SM90) == 132 * 32  # by blocks
    assert places(1, 4, SM90) == 132 * 10
    assert places(1, 8, SM90) <= 132 * 8  # by warps


def test_layers_of_the_presets_take_one_wave_but_for_the_widest() -> None:
    over = {}
    for shape in MODEL_SHAPES:
        for p in projections(shape):
            n = p.n // 2 if p.swiglu else p.n
            tile = gemv_tile("bf16", {"rows": 1, "n": n, "k": p.k, "glu": int(p.swiglu)}, SM90)
            taken = waves(tile, n, p.swiglu, SM90)
            if taken > 1:
                over[shape.name, p.n] = round(taken, 1)
    assert over == {("qwen3-8b", 24_576): 1.5, ("llama-3.1-8b", 28_672): 1.7}


COMPILE = """
import json, sys, torch
from chipmark_kernels import aot_jobs, machine_code
from chipmark_kernels.compile_ahead import specialise
from chipmark_kernels.device import TARGETS
from chipmark_kernels.launch import recording
from chipmark_kernels.gemv_hopper import gemv_hopper
from chipmark_kernels.gemv_tiles import registers
import chipmark_kernels.compile_ahead as ahead

def meta(*shape):
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")

seen = []
def keep(cubin):
    seen.append(cubin)
    return machine_code.resources_of_cubin(cubin)
ahead.resources_of_cubin = keep
device = TARGETS["sm_90"]
cases = {"qkv": (6144, 4096, False, True), "down": (4096, 12288, False, False)}
for name, (n, k, glu, norm) in cases.items():
    with recording(device) as launches:
        gemv_hopper(meta(1, k), meta(n * (1 + glu), k), swiglu=glu,
                    norm_weight=meta(k) if norm else None,
                    residual=None if norm else meta(1, n))
    (launch,) = launches
    made = ahead.compile_for(launch.kernel, specialise(launch, device), device)
    tile = launch.tile
    code = machine_code.disassembled(seen[-1])
    before = code[: code.index("ACQBULK")]
    print(json.dumps({
        "case": name, "registers": made.resources.registers, "spills": made.resources.spill_bytes,
        "most": registers(tile.n * (1 + glu)), "rows": tile.n * (1 + glu),
        "before": before.count("LDG.E.EF.128"), "other": before.count("LDG") , "unordered":
        made.unordered, "shared": made.shared_bytes, "lines": code.count(chr(10)),
    }))
"""


def _apart(*command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.long
def test_its_weights_are_on_their_way_before_it_waits() -> None:
    found = [json.loads(line) for line in _apart("-c", COMPILE).splitlines()]
    assert [row["case"] for row in found] == ["qkv", "down"]
    for row in found:
        assert row["before"] == row["other"] == row["rows"]  # one load of 16 bytes a row and lane
        assert row["registers"] <= row["most"]
        assert row["spills"] == 0
        assert row["shared"] <= 1024  # sums of warps alone: x needs no other layout
        assert row["unordered"] == []
        assert row["lines"] < 6_000  # k is not unrolled


@pytest.mark.long
def test_every_kernel_of_the_chain_waits_before_it_reads_writes_or_ends() -> None:
    arguments = ("--targets", "sm_90", "--kernels", "gemv_hopper,dependent_launches")
    models = ("--models", "qwen3-0.6b", "--first", "--format", "json")
    report = json.loads(_apart("-m", "chipmark_kernels.aot", *arguments, *models))
    assert report["summary"]["failed"] == 0
    assert {row["kernel"] for row in report["rows"]} == {
        "_gemv_kernel",
        "_embedding_rmsnorm_kernel",
        "_rope_kv_kernel",
        "_decode_attention_kernel",
        "_merge_splits_kernel",
        "_skinny_gemm_kernel",
        "_sum_splits_kernel",
        "_best_of_blocks_kernel",
        "_best_of_row_kernel",
    }


def test_a_kernel_that_may_act_before_it_waits_fails_the_report() -> None:
    job = aot_jobs.Job(SM90, "dependent_launches", "bf16", "", "", kernel="_rope_kv_kernel")
    made = Compiled(Resources(32, 0, 0), 0, 4, 0, unordered=("a block may end before it waits",))
    assert aot_jobs.judged(job, made).problems == made.unordered
