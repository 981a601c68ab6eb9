"""The one way to read a file that somebody else may have made."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest

from chipmark_models.errors import BadInputError
from chipmark_models.foreign_file import (
    DEPTH,
    exact,
    open_foreign,
    parse_json,
    parse_toml,
    read_bytes,
    read_text,
    size_of,
)


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"content")
    assert read_bytes(path, 7, within=tmp_path) == b"content"
    with open_foreign(path) as file:
        assert size_of(file) == 7


def test_a_link_within_the_folder_is_followed_and_one_out_of_it_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    folder.mkdir()
    (folder / "data").write_bytes(b"x")
    (tmp_path / "outside").write_bytes(b"y")
    (folder / "inside").symlink_to("data")
    (folder / "out").symlink_to("../outside")
    assert read_bytes(folder / "inside", 9, within=folder) == b"x"
    with pytest.raises(BadInputError, match="leads out of its folder"):
        read_bytes(folder / "out", 9, within=folder)
    with pytest.raises(BadInputError, match="leads out of its folder"):
        read_bytes(folder / ".." / "outside", 9, within=folder)


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, said in (
        (fifo, "is a pipe"),
        (tmp_path, "is a folder"),
        ("/dev/zero", "is a device"),
    ):
        with pytest.raises(BadInputError, match=said):
            read_bytes(path, 9)
    link = tmp_path / "link"
    link.symlink_to(fifo)
    with pytest.raises(BadInputError, match="is a pipe"):
        read_bytes(link, 9)


@pytest.mark.parametrize("name", ["missing", "a\0b", "x" * 5000, "file/below"])
def test_a_path_that_cannot_be_opened_is_an_error_of_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError) as caught:
        read_bytes(f"{tmp_path}/{name}", 9)
    assert len(caught.value.message) <= 500


def test_the_limit_of_size_is_named(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"x" * 1001)
    with pytest.raises(BadInputError, match=r"has 1,001 bytes; at most 1,000 are read"):
        read_bytes(path, 1000)


def test_bytes_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "latin"
    path.write_bytes(b"ab\xff")
    with pytest.raises(BadInputError, match="is not UTF-8 at byte 2"):
        read_text(path, 1000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": ', "truncated or invalid JSON"),
        ('{"a": [1, {"b": NaN}]}', r"field 'a\.1\.b': nan is not a finite number"),
        ('{"a": 1e999}', r"field 'a': inf is not a finite number"),
        ("-Infinity", "is not a finite number"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), f"nested more than {DEPTH} levels"),
        ("[" * 100_000, f"nested more than {DEPTH} levels"),
        ('{"a":' * 100_000, f"nested more than {DEPTH} levels"),
        ("1" * 5000, "over 4,300 digits"),
    ],
)
def test_json_that_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said) as caught:
        parse_json(text, "some.json")
    assert caught.value.message.startswith("some.json")
    assert len(caught.value.message) <= 500


def test_json_that_is_taken() -> None:
    deep = "[" * DEPTH + "]" * DEPTH
    assert str(parse_json(deep, "x")) == deep
    assert parse_json(b'{"a": 1.5}', "x") == {"a": 1.5}
    assert parse_json('{"a": NaN}', "x", finite=False).keys() == {"a"}
    assert parse_json("0.1", "x", parse_float=exact) == Fraction(1, 10)


def test_a_name_twice_is_refused_where_asked() -> None:
    assert parse_json('{"a": 1, "a": 2}', "x") == {"a": 2}
    with pytest.raises(BadInputError, match="'a' stands twice"):
        parse_json('{"a": 1, "a": 2}', "x", unique=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a =", "invalid TOML"),
        ("a = " + "[" * 50_000, "nested more than"),
        ("a = " + "[" * 70 + "]" * 70, "nested more than"),
        ("[t]\na = [inf]", r"field 't\.a\.0': inf is not"),
        ("a = " + "1" * 5000, "over 4,300 digits"),
        ("a = 2020-13-45", "invalid TOML"),
    ],
)
def test_toml_that_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        parse_toml(text, "some.toml")


@pytest.mark.parametrize("text", ["1e999999999", "1E-999999999", "1" * 401, "nan", "inf"])
def test_an_exact_number_out_of_range_is_refused_before_it_is_computed(text: str) -> None:
    with pytest.raises(BadInputError, match="invalid TOML"):
        parse_toml(f"a = {text}.0" if "1" * 9 in text else f"a = {text}", "x", parse_float=exact)


def test_an_error_is_one_plain_line_of_at_most_500_characters() -> None:
    name = "file\x1b[31m\u202e" + "x" * 9000
    error = BadInputError(name, "line\nbreak" + "y" * 9000 + " the end", field="f\t" * 4000)
    assert len(error.message) <= 500
    assert error.message.isprintable()
    assert error.message.startswith("file\\x1b[31m\\u202e")
    assert error.message.endswith("the end")
