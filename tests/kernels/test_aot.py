"""The ahead-of-time compiler; it runs in a process of its own, for here kernels are interpreted."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import chipmark_kernels
from chipmark_kernels import aot, compile_ahead
from chipmark_kernels.compile_ahead import Compiled

ROOT = Path(next(iter(chipmark_kernels.__path__))).parent


def _aot(*arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-m", "chipmark_kernels.aot", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )


def test_each_kernel_compiles_for_hopper_as_designed() -> None:
    done = _aot("--targets", "sm_90", "--first", "--models", "qwen3-0.6b", "--format", "json")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["summary"]["failed"] == 0
    rows = {row["kernel"]: row for row in report["rows"]}
    assert len(rows) == 16
    for row in rows.values():
        assert row["registers"] > 0
        assert row["spill_bytes"] <= aot.PARKED_BYTES
    for name in ("_prefill_attention_kernel", "_decode_attention_kernel", "_fp8_gemm_kernel"):
        assert rows[name]["matrix"] > 0
        assert rows[name]["shared_bytes"] > 0
    assert {row["hardware"] for row in rows.values()} == {"unverified on hardware"}


def test_narrow_products_by_4_bit_weights_stay_in_registers_on_blackwell() -> None:
    arguments = ("--kernels", "w4a16_gemm", "--models", "qwen3-8b", "--first", "--format", "json")
    done = _aot("--targets", "sm_100", *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (several_rows,) = (row for row in json.loads(done.stdout)["rows"] if "m=16" in row["tile"])
    assert several_rows["spill_bytes"] == 0


def test_the_last_line_is_a_summary_and_what_is_left_out_is_said(capsys) -> None:
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
    ],
)
def test_a_wrong_name_is_a_usage_error_with_the_right_ones(arguments, message, capsys) -> None:
    assert aot.main(arguments) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.out == ""


GOOD = Compiled(64, 4096, 0, 8, 16)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (GOOD, None),
        (dataclasses.replace(GOOD, spill_bytes=8), None),
        (dataclasses.replace(GOOD, spill_bytes=64), "spills 64 bytes a thread"),
        (dataclasses.replace(GOOD, spill_bytes=8, registers=255), "spills 8 bytes a thread"),
        (dataclasses.replace(GOOD, spills_in_loops=2), "spills 2 times inside a loop"),
        (dataclasses.replace(GOOD, shared_bytes=300_000), "shared memory over 232448"),
        (dataclasses.replace(GOOD, vector_loads=0), "no 16-byte loads"),
        (dataclasses.replace(GOOD, matrix=0), "no matrix instructions"),
        (RuntimeError("out of resources"), "does not compile: RuntimeError: out of resources"),
    ],
)
def test_what_the_design_forbids_fails_the_command(made, problem, capsys, monkeypatch) -> None:
    def compile_for(*_):
        if isinstance(made, Exception):
            raise made
        return made

    monkeypatch.setattr(compile_ahead, "specialise", lambda launch: None)
    monkeypatch.setattr(compile_ahead, "compile_for", compile_for)
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
    tma, wgmma, problem, capsys, monkeypatch
) -> None:
    made = dataclasses.replace(GOOD, vector_loads=0, tma=tma, wgmma=wgmma)
    monkeypatch.setattr(compile_ahead, "specialise", lambda launch: None)
    monkeypatch.setattr(compile_ahead, "compile_for", lambda *_: made)
    status = aot.main(["--targets", "sm_90", "--kernels", "dense_gemm_hopper", "--first"])
    assert status == (0 if problem is None else 1)
    assert problem is None or f"FAILED: {problem}" in capsys.readouterr().out


SASS = """
  /*0dd0*/  @P0 STL [R1], R0 ;
.L_x_1:
  /*0f00*/  HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
{inside}
  /*1690*/  @!P0 BRA `(.L_x_1) ;
  /*16c0*/  LDL.LU R10, [R1] ;
.L_x_2:
  /*19e0*/  BRA `(.L_x_2);
"""


def test_a_value_parked_around_a_loop_is_told_from_one_spilled_inside() -> None:
    assert compile_ahead.spills_in_loops(SASS.format(inside="")) == 0
    assert compile_ahead.spills_in_loops(SASS.format(inside="  LDL R3, [R1+0x4] ;")) == 1


@pytest.mark.slow
def test_the_whole_manifest_compiles_for_every_target() -> None:
    done = _aot("--format", "json", timeout_s=3600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
