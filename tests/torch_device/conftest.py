"""The device `ownmem` (own_memory/device.cpp): a process has at most one such device."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OWN = Path(__file__).with_name("own_memory")


@pytest.fixture(scope="session")
def ownmem_library(pytestconfig: pytest.Config) -> Path:
    """The compiled library, kept in pytest's cache between runs; skipped without a compiler."""
    spec = importlib.util.spec_from_file_location("chipmark_test_ownmem", OWN / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    if build.compiler() is None:
        pytest.skip("no C++ compiler (g++, clang++ or CXX): the device ownmem is compiled from C++")
    cache = getattr(pytestconfig, "cache", None)
    kept = cache.mkdir("ownmem") if cache is not None else pytestconfig.rootpath / ".pytest_cache"
    return build.build(kept)


@pytest.fixture
def ownmem(ownmem_library: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The environment in which `torch:ownmem` is known, with the operators that fall back."""
    config = tmp_path / "config"
    config.mkdir()
    (config / "torch_devices.toml").write_text('[ownmem]\nmodule = "torch_ownmem"\n')

    def environment(*fallback: str) -> dict[str, str]:
        return dict(os.environ) | {
            "CHIPMARK_CONFIG": str(config),
            "OWNMEM_LIBRARY": str(ownmem_library),
            # Its kernels are the CPU's, whose threads wait awake next to other work.
            "OMP_NUM_THREADS": "1",
            "OWNMEM_FALLBACK": ",".join(fallback),
            "PYTHONPATH": os.pathsep.join([str(OWN), *filter(None, sys.path)]),
        }

    return environment


@pytest.fixture
def told() -> Callable[[str, dict[str, str]], Any]:
    """What a program prints as JSON on its last line."""

    def run(program: str, environment: dict[str, str]) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
