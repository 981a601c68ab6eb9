"""Folders for a while: removed, and swept where their process was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from chipmark_models.scratch import Scratch

HOLDS = """
import sys, time
from pathlib import Path
from chipmark_models.scratch import Scratch
with Scratch("x-", Path(sys.argv[1])) as folder:
    (folder / "file").write_text("")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_it_is_gone_when_it_is_left(tmp_path: Path) -> None:
    with Scratch("x-", tmp_path) as folder:
        (folder / "file").write_text("")
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    other = tmp_path / "y-other"
    other.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        with Scratch("x-", tmp_path) as folder:
            assert held.is_dir()
            assert folder != held
        process.kill()
    assert (held / "file").exists()
    with Scratch("x-", tmp_path) as folder:
        assert sorted(tmp_path.iterdir()) == sorted([folder, other])
    assert list(tmp_path.iterdir()) == [other]


def test_a_link_of_that_name_is_left(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "x-link").symlink_to(target)
    with Scratch("x-", tmp_path):
        assert target.is_dir()
        assert (tmp_path / "x-link").is_symlink()
