"""`--log-level` and CHIPMARK_LOG: on stderr at the command line, silent in a library."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from chipmark.errors import UnknownNameError
from chipmark.log import LEVELS, VARIABLE, configure, logger_of


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Handlers, level and the environment as they were."""
    monkeypatch.setenv(VARIABLE, "warning")
    root = logging.getLogger("chipmark")
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_shows_itself_and_what_is_worse(
    level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(level)
    logger = logger_of("chipmark.cell.runner")
    for name in LEVELS:
        logger.log(getattr(logging, name.upper()), "a %s line", name)
    err = capsys.readouterr().err
    shown = LEVELS[LEVELS.index(level) :]
    assert [f"{n.upper()} chipmark.cell.runner: a {n} line" for n in shown] == err.splitlines()


def test_configured_twice_a_line_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure("debug")
    configure("info")
    logger_of("chipmark.meters").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_an_unknown_level_names_the_known(chipmark) -> None:
    with pytest.raises(UnknownNameError, match="debug"):
        configure("debg")
    answer = chipmark("--log-level", "debg", "workload", "list")
    assert answer.code == 2
    assert "debug" in answer.err
    assert answer.out == ""


def test_the_option_and_the_variable_reach_child_processes(
    chipmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    assert chipmark("--log-level", "INFO", "workload", "list", "--format", "json").code == 0
    assert os.environ[VARIABLE] == "info"
    assert logging.getLogger("chipmark").level == logging.INFO
    monkeypatch.setenv(VARIABLE, "error")
    assert chipmark("workload", "list", "--format", "json").code == 0
    assert logging.getLogger("chipmark").level == logging.ERROR


def test_a_library_is_silent() -> None:
    code = "from chipmark.log import logger_of\nlogger_of('chipmark.cell').error('nobody asked')\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("", "")
