"""A plug-in provider of ONNX Runtime that fails costs its own cell, in its own words; no row of
numbers ever stands under its name.

The provider is a real one, of a few lines of C, whose library is compiled here.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import chipmark

SOURCE = Path(__file__).with_name("bad_provider.c")
COMPILER = shutil.which("cc")
LIMIT_S = 25.0
GROUP = 6

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc) is here"),
    pytest.mark.skipif(
        importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"
    ),
]

FAULTS = {
    "start-error": "no luck today in start",
    "start-abi": "built for a later ONNX Runtime",
    "start-hang": "no answer within",
    "start-exit0": "exit code 0",
    "devices-error": "no luck today in devices",
    "create-error": "no luck today in create",
    "create-hang": "no answer within",
    "create-segv": "SIGSEGV",
    "compile-error": "no luck today in compile",
    "compile-hang": "no answer within",
    "compile-flood": "flooded its output",
    "compile-abort": "SIGABRT",
    "run-error": "no luck today in run",
    "run-hang": "no answer within",
    "run-flood": "flooded its output",
    "run-exit0": "exit code 0",
    "run-abort": "SIGABRT",
}
"""By step and fault, what the row says of it."""

QUICK = ("create-error", "run-error")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The provider's library under the name of a fault."""
    folder = tmp_path_factory.mktemp("provider")
    built = folder / "bad.so"
    assert COMPILER is not None
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(built), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)

    def named(fault: str) -> Path:
        path = folder / f"bad-{fault}.so"
        if not path.exists():
            shutil.copy(built, path)
        return path

    return named


@pytest.fixture(scope="module")
def run_of(
    library: Callable[[str], Path], run_with_faults: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[tuple[str, ...]], Any]:
    """The run of some faults next to a good cell, made when it is first asked for."""

    @cache
    def ran(faults: tuple[str, ...]) -> Any:
        backends = ["sim:golden", *(f"ort:{library(fault)}" for fault in faults)]
        root = tmp_path_factory.mktemp("providers")
        return run_with_faults(root, backends, "--limit-s", LIMIT_S)

    return ran


def check(ran: Any, library: Callable[[str], Path], fault: str) -> None:
    backend = f"ort:{library(fault)}"
    assert FAULTS[fault] in ran.failure(backend)
    assert ran.record(backend).manifest.status == "failed"
    assert ran.code == 4
    rows = [row for row in chipmark.load(ran.out).table() if row["backend"] == backend]
    assert all(row["total_tok_s"] is None and row["rank"] is None for row in rows)


@pytest.mark.parametrize("fault", QUICK)
def test_a_failing_provider_costs_its_cell(fault: str, run_of: Any, library: Any) -> None:
    check(run_of(QUICK), library, fault)


def test_the_good_cell_stands_and_nothing_is_left(run_of: Any) -> None:
    ran = run_of(QUICK)
    assert ran.record("sim:golden").manifest.status == "done"
    assert ran.left == ()


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_each_failing_provider_costs_its_cell(fault: str, run_of: Any, library: Any) -> None:
    names = tuple(FAULTS)
    first = names.index(fault) // GROUP * GROUP
    check(run_of(names[first : first + GROUP]), library, fault)
