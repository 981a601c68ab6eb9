"""Files written whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from chipmark_models.errors import CannotWriteError
from chipmark_models.files import sha256_of_file, whole_file


def test_a_file_takes_its_place_when_it_is_written(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")
    with whole_file(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_raised_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")

    def interrupted() -> None:
        with whole_file(target) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_is_renamed_that_is_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr("os.fsync", lambda handle: order.append("fsync"))
    monkeypatch.setattr("os.replace", lambda a, b: order.append("replace"))
    with whole_file(tmp_path / "out") as partial:
        partial.write_text("text")
    assert order == ["fsync", "replace"]


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert sha256_of_file(path) == hashlib.sha256(b"abc").hexdigest()


def test_the_folder_is_made(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a" / "b" / "out") as partial:
        partial.write_text("text")
    assert (tmp_path / "a" / "b" / "out").read_text() == "text"


def test_what_cannot_be_written_is_an_error_of_ours_and_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    for target in (tmp_path / "file" / "below", tmp_path, Path("/dev/null")):
        with pytest.raises(CannotWriteError, match="cannot be written"), whole_file(target):
            pytest.fail("the block must not be entered")
    with pytest.raises(CannotWriteError, match="No space left"), whole_file(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    assert Path("/dev/null").is_char_device()


def test_a_name_of_the_most_bytes_is_written(tmp_path: Path) -> None:
    with whole_file(tmp_path / ("x" * 255)) as partial:
        partial.write_text("text")
