"""Files written whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

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
