"""Arrays out of files that somebody else may have made: declared sizes are checked first."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from chipmark_models.errors import BadInputError
from chipmark_models.foreign_arrays import parse_npz, read_npz, read_parquet


def npy_header(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def archive(members: dict[str, bytes], packed: bool = False) -> bytes:
    content = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(content, "w", kind) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return content.getvalue()


def test_arrays_come_back_as_they_were_written(tmp_path: Path) -> None:
    wanted: dict[str, Any] = {
        "a": np.arange(12.0).reshape(3, 4).T,
        "b": np.zeros((0, 5), np.int32),
        "c": np.frombuffer(b"text", np.uint8),
        "d": np.float32(1.5),
    }
    np.savez(tmp_path / "x.npz", **wanted)
    found = read_npz(tmp_path / "x.npz", within=tmp_path)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.asarray(array).dtype
        assert found[name].flags.writeable


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no archive", "is not a whole"),
        (archive({"a.npy": npy_header("(1000000000000,)") + b"\0" * 80}), "more than its"),
        (archive({"a.npy": npy_header("(3,)") + b"\0" * 16}), "more than its|has 16 bytes"),
        (archive({"a.npy": npy_header("(1,)") + b"\0" * 16}), "has more than 8 bytes"),
        (archive({"a.npy": npy_header("(-1,)") + b"\0" * 16}), "shape"),
        (archive({"a.npy": npy_header("(2,)", "|O") + b"\0" * 16}), "not a number"),
        (archive({"a.npy": npy_header("((2,),)") + b"\0" * 16}), "is not a whole"),
        (archive({"a.npy": b"\x93NUMPY\x09\x00" + b"\0" * 16}), "npy version"),
        (archive({"a.npy": b"", "a": b""}), "is not a whole|twice"),
        (archive({f"{i}.npy": npy_header("(0,)") for i in range(300)}), "has 300 arrays"),
    ],
)
def test_an_archive_that_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        parse_npz(content, "some.npz")


def test_what_unpacks_to_far_more_than_its_size_is_refused_before_it_is_unpacked() -> None:
    content = archive({"a.npy": npy_header("(5000000,)") + bytes(40_000_000)}, packed=True)
    tracemalloc.start()
    with pytest.raises(BadInputError, match="bytes of arrays in"):
        parse_npz(content, "some.npz")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def parquet(path: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd")
    return path


def test_columns_come_back_in_the_types_asked_for(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", a=[1, 2], b=[0.5, np.nan], more=["x", "y"])
    found = read_parquet(path, {"b": "f8", "a": "i4", "old": "f8"}, {"old": -1.0})
    assert list(found) == ["b", "a", "old"]
    assert found["a"].tolist() == [1, 2]
    assert found["a"].dtype == np.int32
    np.testing.assert_array_equal(found["b"], [0.5, np.nan])
    assert found["old"].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"b": [1]}, "field 'a': is missing"),
        ({"a": ["text"]}, "not a number"),
        ({"a": [[1, 2]]}, "not a number"),
        ({"a": [1, None]}, "1 nulls"),
        ({"a": [1 << 40]}, "out of the range of int32"),
        ({"a": [float("nan")]}, "not an integer"),
        ({"a": np.zeros(1_100_000, np.int32)}, "declares 1,100,000 rows"),
    ],
)
def test_a_table_that_is_refused(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = parquet(tmp_path / "x.parquet", **columns)
    with pytest.raises(BadInputError, match=said):
        read_parquet(path, {"a": "i4"})


def test_a_table_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", a=list(range(100)))
    whole = path.read_bytes()
    for end in (0, 3, 50, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(BadInputError, match="is not a whole"):
            read_parquet(path, {"a": "i4"})
