"""The kernel bench on a machine that has numpy, rich, torch and triton only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chipmark.kernel_bench.subcommands import SUBCOMMANDS

BLOCKED = ("pydantic", "typer", "click", "scipy", "pandas", "pyarrow", "psutil")
WITHOUT = f"""
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["kernel_bench", *sys.argv[1:]]
runpy.run_module("chipmark.kernel_bench", run_name="__main__")
"""


def without_packages(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_list_of_subcommands():
    done = without_packages("--help")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in SUBCOMMANDS)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand_has_its_help(name):
    done = without_packages(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"chipmark kernels {name}" in done.stdout


def test_an_unknown_subcommand_has_near_ones():
    done = without_packages("tunee")
    assert done.returncode == 2
    assert "tune" in done.stderr


def test_without_a_gpu_it_says_so(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    done = without_packages("run", "-o", str(tmp_path / "out.json"))
    assert done.returncode == 3, done.stderr
    assert "no CUDA device" in done.stderr


def test_the_plan_of_the_stages_needs_no_package_and_no_gpu(tmp_path):
    done = without_packages("stages", "--plan", "-o", str(tmp_path), "--format", "json")
    assert done.returncode == 0, done.stderr
    assert '"key": "smoke"' in done.stdout
    assert not list(tmp_path.iterdir())
