"""Texts of others on the terminal."""

from __future__ import annotations

import pytest

from chipmark.errors import UsageError
from chipmark.terminal import console


def test_names_of_pictures_stay_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_error(UsageError("no column postgres:x:101", "columns: a:smile:b"))
    console.stdout().print("power :x: in W")
    shown = capsys.readouterr()
    assert "postgres:x:101" in shown.err
    assert "a:smile:b" in shown.err
    assert "power :x: in W" in shown.out
