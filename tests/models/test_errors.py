from __future__ import annotations

from pathlib import Path

import pytest

from chipmark_models.errors import BadInputError


@pytest.mark.parametrize(
    ("line", "field", "text"),
    [
        (None, "", "a.toml: no such file"),
        (3, "", "a.toml:3: no such file"),
        (None, "x.y", "a.toml: field 'x.y': no such file"),
        (3, "x.y", "a.toml:3: field 'x.y': no such file"),
    ],
)
def test_bad_input_names_path_line_and_field(line: int | None, field: str, text: str) -> None:
    error = BadInputError(Path("a.toml"), "no such file", line=line, field=field, hint="make it")
    assert error.message == text
    assert str(error) == f"{text}\nmake it"
    assert (error.path, error.line, error.field) == ("a.toml", line, field)
