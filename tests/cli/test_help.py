from __future__ import annotations

import subprocess
import sys

import pytest

from chipmark.cli.main import COMMANDS

HEAVY = (
    "pandas", "scipy", "torch", "triton", "onnxruntime", "pyarrow", "numpy", "pydantic", "psutil",
)  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from chipmark.cli.main import main\n"
        "assert main(['--help']) == 0\n"
        f"print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_help_lists_every_command(chipmark) -> None:
    answer = chipmark("--help")
    assert answer.code == 0
    for name in COMMANDS:
        assert name in answer.out


@pytest.mark.parametrize(
    "command",
    [
        ("run",), ("table",), ("validate",), ("recompute",), ("audit",), ("doctor",), ("cost",),
        ("models", "list"), ("import",), ("export",), ("gate",), ("aa",), ("models", "pull"),
        ("workload", "list"),
        ("workload", "show"), ("chips", "list"), ("chips", "show"),
    ],
)  # fmt: skip
def test_every_command_has_examples(chipmark, command: tuple[str, ...]) -> None:
    answer = chipmark(*command, "--help")
    assert answer.code == 0
    assert "Example" in answer.out
    assert f"chipmark {' '.join(command)}" in answer.out


def test_version(chipmark) -> None:
    from chipmark import __version__

    assert chipmark("--version").out == f"chipmark {__version__}\n"
