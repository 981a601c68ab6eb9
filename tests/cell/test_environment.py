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
