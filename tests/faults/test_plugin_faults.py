"""A fault of a plug-in costs its own cell, within its limit; the others stand, and nothing runs on.

Faults are cells of a run, GROUP at a time: each has others next to it as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 20.0
GROUP = 8
"""Faults of a run: all cells of a run load at once, and good ones must do it within the limit."""

OVER_S = 10.0

COSTLY = {
    "hang-load": "no answer within 20 s",
    "hang-describe": "no answer within 20 s",
    "hang-parity": "no answer within 20 s",
    "hang-probe": "no answer within 20 s",
    "hang-run": "no answer within",
    "hang-synchronize": "no answer within",
    "flood-load": "flooded its output",
    "flood-run": "flooded its output",
    "exit0-load": "exit code 0",
    "exit3-load": "exit code 3",
    "exit0-run": "exit code 0",
    "exit3-run": "exit code 3",
    "segv-load": "SIGSEGV",
    "segv-run": "SIGSEGV",
    "abort-run": "SIGABRT",
    "daemonhang-run": "no answer within",
    "closepipe-load": "closed its pipe",
    "closepipe-run": "closed its pipe",
    "stop-load": "no answer within",
    "stopgroup-run": "no answer within",
    "killgroup-run": "SIGKILL",
    "garbage-load": "not JSON",
    "garbage-run": "not JSON",
    "endless-load": "over 32 MiB",
    "marks-load": "no answer within",
    "deep-load": "not JSON",
    "deep-run": "not JSON",
    "utf8-parity": "not JSON",
    "huge-run": "turns",
    "digits-run": "not JSON",
    "nan-load": "load_s",
    "large-load": "weight_bytes",
    "wrong-load": "caps",
    "wrong-parity": "rows",
    "wrong-probe": "read",
    "wrong-run": "turns",
    "interrupt-load": "SIGINT",
    "interrupt-run": "SIGINT",
    "systemexit-load": "exit code 0",
    "message-load": "RuntimeError",
    "message-run": "RuntimeError",
}
"""By fault, what the row says of it."""

HARMLESS = ("none-none", "fork-load", "session-run", "daemon-load", "daemon-close", "hang-close",
            "wrong-close")  # fmt: skip
"""Faults that end with the cell, and cost nothing that was measured."""

QUICK = ("exit3-load", "deep-load", "utf8-parity", "closepipe-run", "message-run", "daemon-load")


@pytest.fixture(scope="module")
def few(run_with_faults: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    backends = ["sim:golden", *(f"bad:{fault}" for fault in QUICK)]
    return run_with_faults(tmp_path_factory.mktemp("few"), backends, "--limit-s", 60)


EVERY = (*COSTLY, *HARMLESS)


@pytest.fixture(scope="module")
def run_of(run_with_faults: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Any]:
    """The run of a group of faults, made when it is first asked for."""

    @cache
    def ran(group: int) -> Any:
        faults = EVERY[group * GROUP : (group + 1) * GROUP]
        backends = ["sim:golden", *(f"bad:{fault}" for fault in faults)]
        return run_with_faults(tmp_path_factory.mktemp("many"), backends, "--limit-s", LIMIT_S)

    return ran


def check(ran: Any, fault: str) -> None:
    failure = ran.failure(f"bad:{fault}")
    assert len(failure) <= 500
    assert failure.isprintable()
    if fault in COSTLY:
        assert COSTLY[fault] in failure
        assert ran.record(f"bad:{fault}").manifest.status == "failed"
    else:
        assert failure == ""
        assert ran.record(f"bad:{fault}").manifest.status == "done"


@pytest.mark.parametrize("fault", QUICK)
def test_a_fault_costs_its_cell(few: Any, fault: str) -> None:
    check(few, fault)


@pytest.mark.long
@pytest.mark.parametrize("fault", EVERY)
def test_each_fault_costs_its_cell(run_of: Callable[[int], Any], fault: str) -> None:
    ran = run_of(EVERY.index(fault) // GROUP)
    check(ran, fault)
    assert ran.longest_s(f"bad:{fault} ") < LIMIT_S + OVER_S


def test_the_other_cells_stand_and_nothing_is_left(few: Any) -> None:
    stands(few, 4)


@pytest.mark.long
@pytest.mark.parametrize("group", range(-(-len(EVERY) // GROUP)))
def test_the_other_cells_of_a_group_stand_and_nothing_is_left(
    run_of: Callable[[int], Any], group: int
) -> None:
    costly = any(fault in COSTLY for fault in EVERY[group * GROUP : (group + 1) * GROUP])
    stands(run_of(group), 4 if costly else 0)


def stands(ran: Any, code: int) -> None:
    """The good cell is measured, and neither a process nor a hidden file is left."""
    assert ran.code == code
    assert ran.record("sim:golden").manifest.status == "done"
    assert ran.left == ()
    assert "Traceback" not in ran.err
    assert "\x1b" not in ran.err
    assert not list(ran.out.glob(".*"))


@pytest.mark.long
def test_a_python_that_hangs_costs_its_cells(run_with_faults: Any, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nsleep 300\n")
    python.chmod(0o755)
    ran = run_with_faults(tmp_path, ["sim:golden"], "--python", python, "--limit-s", 2)
    assert ran.code == 4
    assert "no answer within 2 s" in ran.failure("sim:golden")
    assert ran.left == ()


@pytest.mark.long
def test_an_oracle_that_hangs_costs_the_cells_that_ask_it(
    run_with_faults: Any, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    # Of the processes of this run, the oracle's is the one that imports torch.
    (first / "torch.py").write_text("import time\ntime.sleep(300)\n")
    ran = run_with_faults(
        tmp_path, ["sim:golden", "bad:none-none"], "--limit-s", 5, FIRST=str(first)
    )
    assert ran.code == 4
    assert "no answer within 5 s" in ran.failure("bad:none-none")
    assert ran.record("sim:golden").manifest.status == "done"
    assert ran.left == ()
