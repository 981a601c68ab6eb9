from __future__ import annotations

from pathlib import Path

import pytest

from chipmark.cell.seals import Seals
from chipmark.errors import CellFailedError


def test_files_that_stay_as_they_are_pass(tmp_path: Path) -> None:
    seals = Seals(tmp_path)
    (tmp_path / "power.npz").write_bytes(b"watts")
    seals.add(tmp_path / "power.npz", tmp_path / "captured.npz")
    seals.check()
    (tmp_path / "power.npz").write_bytes(b"fewer watts")
    seals.add(tmp_path / "power.npz")  # by who may write it
    seals.check()


@pytest.mark.parametrize("content", [b"less!", None])
def test_a_file_that_was_changed_or_removed_is_named(tmp_path: Path, content) -> None:
    seals = Seals(tmp_path)
    path = tmp_path / "repeat-0" / "power.npz"
    path.parent.mkdir()
    path.write_bytes(b"watts")
    seals.add(path)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CellFailedError, match=r"repeat-0/power\.npz was changed"):
        seals.check()


def test_a_file_that_appears_where_none_was_written_is_named(tmp_path: Path) -> None:
    seals = Seals(tmp_path)
    seals.add(tmp_path / "power.npz")
    (tmp_path / "power.npz").write_bytes(b"watts of my own")
    with pytest.raises(CellFailedError, match=r"power\.npz was changed"):
        seals.check()
