"""The environment of a cell's child: huge pages, import roots, and what the record says of them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chipmark.cell.environment import (
    AUTOLOAD,
    HUGE_PAGES,
    child_environment,
    huge_pages,
    recorded_environment,
)
from chipmark.cell.protocol import LoadAnswer

_GLIBC = tuple(int(n) for n in re.findall(r"\d+", platform.libc_ver()[1])[:2])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, f"{HUGE_PAGES}=1"),
        ("", f"{HUGE_PAGES}=1"),
        ("glibc.malloc.check=3", f"glibc.malloc.check=3:{HUGE_PAGES}=1"),
        (f"{HUGE_PAGES}=0", f"{HUGE_PAGES}=0"),
    ],
)
def test_huge_pages_are_asked_for_unless_the_user_said_otherwise(
    before: str | None, after: str
) -> None:
    environ = {} if before is None else {"GLIBC_TUNABLES": before}
    assert child_environment(environ)["GLIBC_TUNABLES"] == after


def test_a_child_imports_this_installation_and_keeps_what_the_user_set() -> None:
    made = child_environment({"PYTHONPATH": "elsewhere", "KEPT": "yes"})
    roots = made["PYTHONPATH"].split(os.pathsep)
    assert roots[-1] == "elsewhere"
    assert (Path(roots[0]) / "chipmark" / "cell" / "environment.py").exists()
    assert made["KEPT"] == "yes"


@pytest.mark.parametrize(
    ("backend", "plain"),
    [
        ("torch:cpu", True),
        ("torch:cpu:0", True),
        ("triton:interpreter", True),
        ("ort:cpu", True),
        ("ort:cann", True),
        ("sim:golden", True),
        ("torch:npu", False),
        ("torch:npu:1", False),
        ("torch:cuda", False),
        ("triton:cuda", False),
        ("theirs:cpu", False),
        ("", False),
    ],
)
def test_plug_ins_of_torch_are_left_out_where_none_is_needed(backend: str, plain: bool) -> None:
    assert (child_environment({}, backend).get(AUTOLOAD) == "0") is plain
    assert child_environment({AUTOLOAD: "1"}, backend)[AUTOLOAD] == "1"


@pytest.fixture
def broken_plugin(tmp_path: Path) -> Path:
    """A folder with an installed plug-in of torch whose driver is missing, as torch-npu without
    CANN is."""
    named = tmp_path / "torch_broken-1.0.dist-info"
    named.mkdir()
    (named / "METADATA").write_text("Metadata-Version: 2.1\nName: torch-broken\nVersion: 1.0\n")
    (named / "entry_points.txt").write_text("[torch.backends]\ntorch_broken = torch_broken:load\n")
    (tmp_path / "torch_broken.py").write_text('raise ImportError("libhccl.so: cannot open")\n')
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize(("backend", "opens"), [("torch:cpu", True), ("torch:npu", False)])
def test_a_baseline_on_the_cpu_does_not_need_a_vendors_driver(
    broken_plugin: Path, backend: str, opens: bool
) -> None:
    pytest.importorskip("torch")
    program = (
        "from chipmark.engine.plugins import open_backend\n"
        "from chipmark.errors import MissingBackendError\n"
        "try:\n"
        f"    open_backend({backend!r})\n"
        "    print('opened')\n"
        "except MissingBackendError as error:\n"
        "    print(error.message, error.hint)\n"
    )
    environ = {k: v for k, v in os.environ.items() if k != AUTOLOAD}
    environ["PYTHONPATH"] = os.pathsep.join([environ.get("PYTHONPATH", ""), str(broken_plugin)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=child_environment(environ, backend),
    )
    if opens:
        assert done.stdout.strip() == "opened"
    else:
        assert "torch_broken" in done.stdout
        assert AUTOLOAD in done.stdout


@pytest.mark.skipif(huge_pages() != "madvise", reason="the kernel's rule is not madvise")
@pytest.mark.skipif(_GLIBC < (2, 35), reason="this C library does not know the tunable")
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no smaps_rollup here")
def test_the_memory_of_a_child_lies_in_huge_pages() -> None:
    program = (
        "import numpy as np; a = np.ones(64_000_000, np.uint8);"
        "print(*[l for l in open('/proc/self/smaps_rollup') if l.startswith('AnonHugePages')])"
    )
    # NumPy asks for huge pages by itself; without that it is malloc's doing alone.
    environ = child_environment(os.environ) | {"NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[1]) >= 32_000


def test_the_kernels_rule_is_the_word_in_brackets(tmp_path: Path) -> None:
    rule = tmp_path / "enabled"
    rule.write_text("always [madvise] never\n", encoding="ascii")
    assert huge_pages(rule) == "madvise"
    assert huge_pages(tmp_path / "none") == ""


def test_a_record_says_what_the_child_was_started_with(load_answer: LoadAnswer) -> None:
    said = recorded_environment(replace(load_answer, describe={"threads": 2}))
    assert said["glibc_tunables"] == child_environment(os.environ)["GLIBC_TUNABLES"]
    assert said["huge_pages"] == huge_pages()
    assert said["backend"] == {"threads": 2}
