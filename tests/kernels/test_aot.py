"""The ahead-of-time compiler; it runs in a process of its own, for here kernels are interpreted."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from importlib.metadata import version as importlib_version
from pathlib import Path

import pytest

import chipmark_kernels
from chipmark_kernels import aot, aot_jobs, aot_pool, machine_code
from chipmark_kernels.compile_ahead import Compiled
from chipmark_kernels.machine_code import Resources
from chipmark_kernels.manifest import FAMILIES

ROOT = Path(next(iter(chipmark_kernels.__path__))).parent


GPU_TRITON = os.environ.get("CHIPMARK_GPU_TRITON", "")
"""Folder of the Triton that GPU images have; `scripts/test --all` makes it."""


def _aot(
    *arguments: str, timeout_s: float = 300, triton: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (triton, str(ROOT))))
    return subprocess.run(
        [sys.executable, "-m", "chipmark_kernels.aot", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )


@pytest.fixture
def compiler(monkeypatch):
    """Has the command take `made` for what every job compiles to; nothing is compiled here."""
    monkeypatch.delenv("TRITON_INTERPRET")
    # An interpreted kernel has no types of arguments; its constants tell launches apart.
    monkeypatch.setattr(aot_jobs, "specialise", lambda launch, device: str(launch.constants))

    def use(made):
        monkeypatch.setattr(
            aot_pool, "compile_all", lambda jobs, _: ((i, made) for i in range(len(jobs)))
        )

    return use


@pytest.mark.parametrize(
    "folder",
    [
        "",
        pytest.param(
            GPU_TRITON,
            marks=[
                pytest.mark.long,
                pytest.mark.skipif(not GPU_TRITON, reason="scripts/test --all makes the folder"),
            ],
        ),
    ],
    ids=["here", "gpu images"],
)
def test_each_kernel_compiles_for_hopper_as_designed(folder) -> None:
    # Those of a chain are in `test_gemv_hopper.py`, and here with the Triton of GPU images.
    families = [family.name for family in FAMILIES if folder or not family.early]
    which = ("--first", "--models", "qwen3-0.6b", "--kernels", ",".join(families))
    done = _aot("--targets", "sm_90", *which, "--format", "json", triton=folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(done.stdout)
    wanted = (ROOT.parent / "constraints-gpu.txt").read_text().split("triton==")[1].strip()
    assert report["summary"]["triton"] == (wanted if folder else importlib_version("triton"))
    assert report["summary"]["failed"] == 0
    rows = {row["kernel"]: row for row in report["rows"]}
    assert len(rows) == 18 + bool(folder)  # the product of one row in a chain
    for row in rows.values():
        assert row["registers"] > 0
        assert row["spill_bytes"] <= aot_jobs.PARKED_BYTES
    for name in (
        "_prefill_attention_kernel",
        "_decode_attention_kernel",
        "_rope_decode_attention_kernel",
        "_fp8_gemm_kernel",
    ):
        assert rows[name]["matrix"] > 0
        assert rows[name]["shared_bytes"] > 0
    assert {row["hardware"] for row in rows.values()} == {"unverified on hardware"}


@pytest.mark.long
def test_narrow_products_by_4_bit_weights_stay_in_registers_on_blackwell() -> None:
    arguments = ("--kernels", "w4a16_gemm", "--models", "qwen3-8b", "--first", "--format", "json")
    done = _aot("--targets", "sm_100", *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (several_rows,) = (row for row in json.loads(done.stdout)["rows"] if "m=16" in row["tile"])
    assert several_rows["spill_bytes"] == 0


def test_the_last_line_is_a_summary_and_what_is_left_out_is_said(capsys, compiler) -> None:
    compiler(GOOD)
    assert aot.main(["--targets", "gfx942", "--kernels", "fp8_gemm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("aot: 0 compiled as designed, 0 failed, 0 park up to ")
    assert lines[-2] == "left out: fp8_gemm: gfx942 has no float8_e4m3fn matrix unit"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "sm_42"], "no target 'sm_42'; there are sm_80, sm_90"),
        (["--kernels", "norm"], "no kernel 'norm'; there are rmsnorm"),
        (["--models", "gpt"], "no model 'gpt'; there are qwen3-0.6b"),
        (["--jobs", "0"], "--jobs: must be at least 1, not 0"),
    ],
)
def test_a_wrong_name_is_a_usage_error_with_the_right_ones(
    arguments, message, capsys, compiler
) -> None:
    compiler(GOOD)
    assert aot.main(arguments) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.out == ""


GOOD = Compiled(Resources(64, 0, 0), 4096, 8, 16)


def _spilling(*resources: int) -> Compiled:
    return dataclasses.replace(GOOD, resources=Resources(*resources))


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (GOOD, None),
        (_spilling(64, 8, 0), None),
        (_spilling(64, 64, 0), "spills 64 bytes a thread"),
        (_spilling(255, 8, 0), "spills 8 bytes a thread"),
        (_spilling(64, 8, 2), "spills 2 times inside a loop"),
        (dataclasses.replace(GOOD, shared_bytes=300_000), "shared memory over 232448"),
        (dataclasses.replace(GOOD, vector_loads=0), "no 16-byte loads"),
        (dataclasses.replace(GOOD, matrix=0), "no matrix instructions"),
        ("does not compile: PTXASError: out", "does not compile: PTXASError: out"),
    ],
)
def test_what_the_design_forbids_fails_the_command(made, problem, capsys, compiler) -> None:
    compiler(made)
    status = aot.main(["--targets", "sm_90", "--kernels", "prefill_attention", "--first"])
    output = capsys.readouterr().out
    assert status == (0 if problem is None else 1)
    assert ("FAILED" in output) == (problem is not None)
    assert problem is None or f"FAILED: {problem}" in output


@pytest.mark.parametrize(
    ("tma", "wgmma", "problem"),
    [(4, 8, None), (0, 8, "no TMA loads"), (4, 0, "no wgmma")],
)
def test_a_hopper_variant_without_its_instructions_fails(
    tma, wgmma, problem, capsys, compiler
) -> None:
    compiler(dataclasses.replace(GOOD, vector_loads=0, tma=tma, wgmma=wgmma))
    status = aot.main(["--targets", "sm_90", "--kernels", "dense_gemm_hopper", "--first"])
    assert status == (0 if problem is None else 1)
    assert problem is None or f"FAILED: {problem}" in capsys.readouterr().out


SASS = """
  /*0dd0*/  @P0 STL [R1], R0 ;
.L_x_1:
  /*0f00*/  HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
{inside}
  /*1690*/  @!P0 BRA `(.L_x_1) ;
.L_x_2:
  /*16c0*/  LDL.LU.64 R10, [R1] ;
  /*16d0*/  @!P1 BRA `(.L_x_4) ;
  /*16e0*/  EXIT ;
.L_x_3:
  /*19e0*/  BRA `(.L_x_3);
.L_x_4:
  /*1a00*/  @!P1 BRA `(.L_x_4) ;
  /*1a10*/  BRA `({back});
"""
GCN = """
.LBB0_1:
  scratch_load_dwordx2 v[0:1], off, s32
  s_cbranch_scc1 .LBB0_1
  scratch_store_dword off, v0, s32
  s_endpgm
"""


def test_a_value_parked_around_a_loop_is_told_from_one_spilled_inside() -> None:
    assert machine_code.spills(SASS.format(inside="", back=".L_x_3")) == (12, 0)
    inside = "  /*1000*/  LDL R3, [R1+0x4] ;"
    assert machine_code.spills(SASS.format(inside=inside, back=".L_x_3")) == (16, 1)
    assert machine_code.spills(GCN) == (12, 1)


def test_a_block_behind_the_end_that_jumps_back_makes_a_loop_only_of_what_repeats() -> None:
    # It goes back to before the load: that is run again.
    assert machine_code.spills(SASS.format(inside="", back=".L_x_2")) == (12, 1)
    # It goes back to behind the load, which is run once, though it stands between the two.
    behind = SASS.replace("  /*16e0*/  EXIT", ".L_x_5:\n  /*16e0*/  EXIT")
    assert machine_code.spills(behind.format(inside="", back=".L_x_5")) == (12, 0)


ENTRY = {
    "kernel": "skinny_gemm",
    "dtype": "bf16",
    "shape": {"rows": 256, "n": 1024, "k": 2048, "glu": 0},
    "tile": {"m": 16, "n": 32, "k": 64, "split": 2, "num_warps": 4, "num_stages": 3},
}
KEY = "skinny_gemm bf16 glu=0 k=2048 n=1024 rows=256"


def _table(folder: Path, **change: object) -> None:
    document = {"device": "nvidia-h200", "target": "sm_90", "entries": [ENTRY | change]}
    (folder / "nvidia-h200.json").write_text(json.dumps(document))


def _tuned_rows(output: str) -> list[dict[str, object]]:
    return [row for row in json.loads(output)["rows"] if row["tuned"]]


def test_a_tables_tile_is_compiled_with_the_sum_of_its_splits(tmp_path, capsys, compiler) -> None:
    compiler(GOOD)
    _table(tmp_path)
    arguments = ("--kernels", "skinny_gemm", "--tuned", str(tmp_path), "--format", "json")
    assert aot.main(["--targets", "sm_90", *arguments]) == 0
    rows = _tuned_rows(capsys.readouterr().out)
    assert {row["tuned"] for row in rows} == {f"{tmp_path}/nvidia-h200.json: {KEY}"}
    product, total = rows
    assert product["kernel"] == "_skinny_gemm_kernel"
    assert product["tile"] == "m=16 n=32 k=64 split=2 num_warps=4 num_stages=3"
    assert total["kernel"] == "_sum_splits_kernel"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kernel": "swiglu"}, "no preset launches a kernel of this key"),
        ({"shape": ENTRY["shape"] | {"n": 7}}, "no preset launches a kernel of this key"),
    ],
)
def test_a_tile_that_nothing_launches_fails_by_its_file_and_key(
    change, problem, tmp_path, capsys, compiler
) -> None:
    compiler(problem)
    _table(tmp_path, **change)
    assert aot.main(["--targets", "sm_90", "--tuned", str(tmp_path), "--format", "json"]) == 1
    (row,) = _tuned_rows(capsys.readouterr().out)
    assert row["problems"] == [problem]
    assert row["tuned"].startswith(f"{tmp_path}/nvidia-h200.json: {(ENTRY | change)['kernel']} ")


def test_a_tables_tile_that_its_device_cannot_take_fails_by_file_and_key(tmp_path) -> None:
    big = ENTRY["tile"] | {"k": 1024, "n": 128, "num_stages": 4}
    _table(tmp_path, tile=big, shape=ENTRY["shape"] | {"rows": 64, "k": 8192, "n": 2048})
    arguments = ("--models", "smollm2-135m", "--kernels", "skinny_gemm", "--format", "json")
    done = _aot("--targets", "sm_90", "--tuned", str(tmp_path), *arguments)
    assert done.returncode == 1, done.stderr[-2000:]
    (failed,) = (row for row in _tuned_rows(done.stdout) if row["problems"])
    assert "nvidia-h200.json: skinny_gemm bf16 glu=0 k=8192" in failed["tuned"]
    assert "shared memory over 232448" in failed["problems"]


def test_a_table_of_another_target_is_said_to_be_left_out(tmp_path, capsys, compiler) -> None:
    compiler(GOOD)
    _table(tmp_path)
    assert aot.main(["--targets", "gfx942", "--first", "--tuned", str(tmp_path)]) == 0
    assert "nvidia-h200.json: for sm_90, which is not in --targets" in capsys.readouterr().out


def test_interrupted_it_says_so_and_ends_with_130(capsys, monkeypatch, compiler) -> None:
    compiler(GOOD)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(aot_pool, "compile_all", stop)
    assert aot.main(["--targets", "sm_90", "--first"]) == 130
    assert "interrupted: 0 of " in capsys.readouterr().err


def test_interpreted_kernels_are_refused(capsys) -> None:
    assert aot.main(["--first"]) == 2
    assert "TRITON_INTERPRET=1" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_manifest_compiles_for_every_target() -> None:
    done = _aot("--format", "json", timeout_s=3600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
