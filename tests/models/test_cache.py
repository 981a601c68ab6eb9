"""The cache, and what stands in for it where it cannot be written."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import pytest

from chipmark_models.cache import cache_path, writable_cache
from chipmark_models.errors import CannotWriteError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_named_folder_is_made_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "own" / "cache"))
    assert writable_cache() == tmp_path / "own" / "cache"
    assert writable_cache().is_dir()
    assert list(writable_cache().iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_a_folder_that_takes_no_files_is_replaced_and_the_log_says_it_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    temporary: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()  # a root user may write to any folder, but not below a file
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, logger="chipmark.cache"):
        found = writable_cache()
        assert cache_path("models", "a") == found / "models" / "a"
    assert found == temporary / f"chipmark-cache-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    (said,) = caplog.messages
    assert "CHIPMARK_CACHE names another" in said


def test_what_is_in_a_cache_that_takes_no_files_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "read-only"
    (own / "models").mkdir(parents=True)
    (own / "models" / "here").touch()
    monkeypatch.setenv("CHIPMARK_CACHE", str(own))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("chipmark_models.cache._try", refuse)
    assert cache_path("models", "here") == own / "models" / "here"
    with pytest.raises(CannotWriteError, match="Read-only file system"):
        cache_path("models", "new")


def test_a_stand_in_that_is_somebody_elses_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "file" / "b"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (temporary / f"chipmark-cache-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(CannotWriteError, match="not a folder of this user alone"):
        writable_cache()
    assert list(elsewhere.iterdir()) == []
