"""`scripts/gpu end-to-end` and `scripts/results`, as far as they go without a GPU."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from chipmark.cell.suite import Overrides, load_suite
from chipmark.workload.generate import generate
from chipmark.workload.profile import load_profiles
from chipmark.workload.scale import scale_named

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests" / "results" / "data" / "record-1"


@pytest.fixture
def end_to_end(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.chdir(ROOT)
    return importlib.import_module("gpu_arms.end_to_end")


def test_the_suite_covers_every_model_and_load(end_to_end):
    suite = load_suite(str(end_to_end.SUITE), Overrides(), ())
    models = {"qwen3-0.6b", "qwen3-1.7b", "llama-3.2-1b", "qwen3-8b"}
    assert {cell.model for cell in suite.cells} == {f"{m}@synthetic" for m in models}
    decode = {c.concurrency for c in suite.cells if "decode-1k" in c.workload}
    assert decode == {1, 8, 64}
    assert {c.backend for c in suite.cells} == {"triton:cuda"}
    assert suite.repeats == 3


@pytest.mark.parametrize(
    ("name", "turns"),
    [("decode-1k", [(1024, 128)]), ("prefill-8k", [(8192, 2)]),
     ("append-512-at-16k", [(16384, 2), (16898, 2)])],
)  # fmt: skip
def test_each_shape_is_the_one_in_its_name(end_to_end, name, turns):
    profiles = load_profiles(end_to_end.SUITE.parent / "profiles" / f"{name}.toml")
    trace = generate(profiles[name], scale_named("1,1,0"), 0, 2, 1000)
    for session in trace.sessions:
        assert [(t.prompt_tokens, t.n_out) for t in session.turns] == turns
        assert session.turns[-1].n_new in (1024, 8192, 512)


def test_a_budget_ends_a_call_softly_and_in_time(end_to_end):
    code = "import time, sys\ntry: time.sleep(60)\nexcept KeyboardInterrupt: sys.exit(7)"
    begun = time.monotonic()
    assert end_to_end.run_within([sys.executable, "-c", code], 1.0) == (7, True)
    assert time.monotonic() - begun < 30
    assert end_to_end.run_within([sys.executable, "-c", "raise SystemExit(4)"], 30) == (4, False)


def test_folders_are_named_by_the_device(end_to_end):
    assert end_to_end.folder_of("NVIDIA H200") == "nvidia-h200"
    assert end_to_end.folder_of("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_it_says_so_and_exits_3(end_to_end, capsys):
    assert end_to_end.main([]) == 3
    assert "no CUDA device here" in capsys.readouterr().err


def test_the_results_page_is_made_from_records(tmp_path):
    script = str(ROOT / "scripts" / "results")
    empty = subprocess.run([script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert empty.returncode == 3
    assert "there is no record" in empty.stderr
    shutil.copytree(RECORD, tmp_path / "a-chip" / "record-1")
    done = subprocess.run([script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "## a-chip" in page
    assert "| torch:cpu |" in page
