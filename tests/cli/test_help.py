from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest

from chipmark.cli.main import COMMANDS, flowing

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
        ("ab",), ("history",), ("workload", "list"), ("workload", "show"),
        ("chips", "list"), ("chips", "show"), ("providers",), ("providers", "probe"),
    ],
)  # fmt: skip
def test_every_command_has_examples(chipmark, command: tuple[str, ...]) -> None:
    answer = chipmark(*command, "--help")
    assert answer.code == 0
    assert "Example" in answer.out
    assert f"chipmark {' '.join(command)}" in answer.out


def test_a_paragraph_of_help_is_wrapped_by_the_terminal_alone(chipmark, monkeypatch) -> None:
    assert flowing("Do\nthis.\n\nExamples:\n\n  a b\n\n  c") == (
        "Do this.\n\nExamples:\n\n  a b\n\n  c"
    )
    monkeypatch.setenv("COLUMNS", "80")
    for command in ((), ("recompute",), ("models", "list")):
        lines = [line.strip() for line in chipmark(*command, "--help").out.splitlines()]
        text = lines[3 : next(i for i, line in enumerate(lines) if line.startswith("╭"))]
        for line, after in pairwise(text):
            first = after.split(" ")[0]
            assert not line or not after or len(line) + 1 + len(first) > 76, line


def test_version(chipmark) -> None:
    from chipmark import __version__

    assert chipmark("--version").out == f"chipmark {__version__}\n"
