from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from chipmark.cell import folder
from chipmark.errors import UsageError


def test_unwritable_folder_is_said_before_a_run(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UsageError, match="cannot be written to"):
        folder.check_output(blocked / "out")


def test_full_folder_is_said_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1 << 20))
    with pytest.raises(UsageError, match="has 1 MiB left"):
        folder.check_output(tmp_path / "out")


def test_scratch_is_gone_afterwards_and_sweeps_what_the_dead_left(tmp_path: Path) -> None:
    dead = tmp_path / ".raw-999999999"
    dead.mkdir()
    with folder.scratch(tmp_path) as inside:
        assert inside.is_dir()
        assert inside.name == f".raw-{os.getpid()}"
        assert not dead.exists()
    assert list(tmp_path.iterdir()) == []


def test_scratch_is_gone_after_an_interrupt(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder.scratch(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_key_is_of_the_content_and_not_of_the_order() -> None:
    assert folder.cell_key({"a": 1, "b": 2}) == folder.cell_key({"b": 2, "a": 1})
    assert folder.cell_key({"a": 1}) != folder.cell_key({"a": 2})
