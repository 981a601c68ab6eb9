from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


@pytest.fixture
def sources() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard",
         "harness", "models", "kernels"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    return [path for path in listed if (ROOT / path).is_file()]


def check(*built: Path) -> tuple[int, list[str]]:
    command = [sys.executable, "scripts/wheel_contents.py", *map(str, built)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stderr.splitlines()


def wheel_of(paths: list[str], folder: Path) -> Path:
    wheel = folder / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in paths:
            archive.writestr(path.partition("/")[2], "")
        archive.writestr("a-1.dist-info/METADATA", "")
    return wheel


def sdist_of(paths: list[str], folder: Path) -> Path:
    sdist = folder / "a.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for path in (*paths, "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"):
            archive.addfile(tarfile.TarInfo(f"a-1/{path}"), io.BytesIO())
    return sdist


def test_whole_ones_pass(sources: list[str], tmp_path: Path) -> None:
    assert check(wheel_of(sources, tmp_path), sdist_of(sources, tmp_path)) == (0, [])


def test_what_is_missing_or_too_much_is_named(sources: list[str], tmp_path: Path) -> None:
    gone = {"harness/chipmark/py.typed", "models/chipmark_models/py.typed"}
    less = [path for path in sources if path not in gone]
    code, lines = check(
        wheel_of([*less, "harness/chipmark/own.txt"], tmp_path), sdist_of(less, tmp_path)
    )
    assert code == 1
    assert set(lines) == {
        "not in the wheel: chipmark/py.typed",
        "not in the wheel: chipmark_models/py.typed",
        "in the wheel, not in git: chipmark/own.txt",
        "not in the sdist: harness/chipmark/py.typed",
        "not in the sdist: models/chipmark_models/py.typed",
    }
