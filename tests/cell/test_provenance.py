from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from chipmark.cell.provenance import installed_packages, source_commit


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "module.py").write_text("VALUE = 1\n")
    git("add", "module.py")
    git("-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "one")
    return tmp_path


def test_a_tracked_source_has_its_commit_and_changes_show(checkout: Path) -> None:
    commit = source_commit(checkout / "module.py")
    assert len(commit) == 40
    (checkout / "module.py").write_text("VALUE = 2\n")
    assert source_commit(checkout / "module.py") == f"{commit}+dirty"


def test_a_file_that_git_does_not_track_has_none(checkout: Path, tmp_path: Path) -> None:
    installed = checkout / "site-packages"
    installed.mkdir()
    (installed / "other.py").write_text("")
    assert source_commit(installed / "other.py") == ""


def test_packages_are_listed_by_name() -> None:
    found = installed_packages()
    assert found["numpy"]
    assert list(found) == sorted(found)
