"""One run at a time into a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chipmark.cell.lock import LOCK_FILE, locked
from chipmark.errors import UsageError

HOLDS = """
import sys, time
from pathlib import Path
from chipmark.cell.lock import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def silent(text: str) -> None:
    raise AssertionError(text)


def test_a_second_run_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(UsageError, match=rf"by process {process.pid} on .* since 2") as error,
            locked(tmp_path, silent),
        ):
            pass
        assert error.value.exit_code == 2
        process.kill()
    # The kernel has dropped it with its process; the file that is left holds nothing.
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path, silent) as alone:
        assert alone
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_says_nothing_of_its_holder_is_another_process(tmp_path: Path) -> None:
    handle = os.open(tmp_path / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, b"[" * 900)
        with pytest.raises(UsageError, match="by another process"), locked(tmp_path, silent):
            pass
    finally:
        os.close(handle)


def test_what_is_started_does_not_inherit_it(tmp_path: Path) -> None:
    with locked(tmp_path, silent):
        process = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with locked(tmp_path, silent) as alone:
            assert alone
    finally:
        process.kill()
        process.wait()


def test_a_file_system_without_locks_is_said_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    said: list[str] = []
    with locked(tmp_path, said.append) as alone:
        assert not alone
    assert len(said) == 1
    assert "has no locks" in said[0]
    assert list(tmp_path.iterdir()) == []
