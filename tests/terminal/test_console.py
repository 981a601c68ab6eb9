"""Texts of others on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator

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


@pytest.mark.parametrize("printed", [0, 1, 3])
def test_a_list_that_is_interrupted_is_one_document(
    capsys: pytest.CaptureFixture[str], printed: int
) -> None:
    def items() -> Iterator[dict[str, int]]:
        yield from ({"look": number} for number in range(printed))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        console.emit_json_list(items())
    assert json.loads(capsys.readouterr().out) == [{"look": n} for n in range(printed)]
