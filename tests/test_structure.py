"""What holds the structure: light imports, plug-in lines in two places, file sizes and names."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from chipmark.registry import BUILT_IN

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "triton", "onnxruntime", "onnx", "transformers"}
LIGHT = (
    "chipmark.workload.generate",
    "chipmark.metrics.derive",
    "chipmark.results.store",
    "chipmark.results.validate",
    "chipmark.table.rows",
    "chipmark.prices.book",
    "chipmark_models.config",
    "chipmark_models.presets",
    "chipmark_models.costs",
)
CHILD = ("chipmark.cell.child", "chipmark.engine.loop", "chipmark.backends.sim.backend")
PARENT_ONLY = {"pydantic", "pandas", "scipy", "pyarrow", "typer", "rich", "psutil", "gguf"}


def modules_after(*names: str) -> set[str]:
    """Top-level modules of a fresh process that imports `names`."""
    code = f"import sys, {', '.join(names)}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_buyer_reads_results_without_any_runtime():
    assert not modules_after(*LIGHT) & HEAVY


def test_the_child_needs_the_standard_library_and_numpy_only():
    assert not modules_after(*CHILD) & (HEAVY | PARENT_ONLY)


@pytest.mark.parametrize("package", ["chipmark", "chipmark_models", "chipmark_kernels"])
def test_package_inits_import_nothing(package):
    """The front door, `chipmark/__init__.py`, has tests of its own in test_exports.py."""
    for init in ROOT.glob(f"*/{package}/**/__init__.py"):
        if init == ROOT / "harness" / "chipmark" / "__init__.py":
            continue
        kinds = {type(node) for node in ast.walk(ast.parse(init.read_text()))}
        assert not kinds & {ast.Import, ast.ImportFrom}, init


def test_built_in_plugins_are_those_of_the_project_file():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]
    assert points.pop("pytest11") == {"chipmark": "chipmark.pytest_plugin.plugin"}
    assert points == BUILT_IN


def test_files_are_short_and_named_for_their_subject():
    sources = [p for root in ("harness", "models", "kernels") for p in (ROOT / root).rglob("*.py")]
    assert len(sources) > 50
    for path in sources:
        assert len(path.read_text().splitlines()) <= 400, path
        assert path.stem not in {"utils", "helpers", "common", "misc"}, path
