"""Arrays out of files that somebody else may have made: `.npz` and Parquet.

Both formats pack: a megabyte of zeros may declare gigabytes. So what a file declares is checked
against its own size, and every type and length is checked, before anything is allocated.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from chipmark_models.errors import BadInputError
from chipmark_models.foreign_file import MIB, Error, PathLike, open_foreign, size_of

ARRAYS_BYTES = 4096 * MIB
"""Most bytes of an `.npz` file, and of its arrays."""

_FREE_BYTES = 16 * MIB
_PACKED = 50
"""Arrays may be so many times larger than the file, above _FREE_BYTES: tokens and times pack to a
fifth at best, zeros to a thousandth."""

_MEMBERS = 256
_HEADER_BYTES = 10_000
_FREE_ROWS = 1_000_000
"""Rows that a Parquet file of any size may have; above, one for each of its bytes. A time that is
different in every row packs to more than that."""

_COLUMNS = 256


def read_npz(
    path: PathLike,
    columns: Mapping[str, Any] | None = None,
    *,
    within: PathLike | None = None,
    error: Error = BadInputError,
    hint: str = "",
) -> dict[str, NDArray[Any]]:
    """Every array of an `.npz` file by its name: numbers, booleans and bytes, never objects.

    columns: only these, each of the NumPy dtype that it names. Raises `error` for a file that is
    not an archive of arrays, and for one that declares more than it can hold.
    """
    with (
        open_foreign(path, within=within, error=error, hint=hint) as file,
        _faults(path, "npz archive", error, hint),
    ):
        found = _arrays(path, file, size_of(file), error, hint)
        return found if columns is None else cast_columns(found, columns, path, error, hint)


def parse_npz(
    content: bytes,
    path: PathLike,
    columns: Mapping[str, Any] | None = None,
    *,
    error: Error = BadInputError,
    hint: str = "",
) -> dict[str, NDArray[Any]]:
    """As `read_npz`, from bytes; `path` names them in errors."""
    with _faults(path, "npz archive", error, hint):
        found = _arrays(path, io.BytesIO(content), len(content), error, hint)
        return found if columns is None else cast_columns(found, columns, path, error, hint)


def read_parquet(
    path: PathLike,
    columns: Mapping[str, Any],
    absent: Mapping[str, float] | None = None,
    *,
    within: PathLike | None = None,
    error: Error = BadInputError,
    hint: str = "",
) -> dict[str, NDArray[Any]]:
    """Columns of a Parquet file by name, each of the NumPy dtype that `columns` names.

    absent: values of columns that the file may do without. Raises `error` for a file that is not
    whole, a column that is missing or is not one of numbers, and for more rows than it can hold.
    """
    import pyarrow

    with open_parquet(path, within=within, error=error, hint=hint) as parquet:
        rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        found = {}
        for name, dtype in columns.items():
            if schema.get_field_index(name) < 0:
                if absent is None or name not in absent:
                    raise error(path, "is missing", field=name, hint=hint)
                found[name] = np.full(rows, absent[name], dtype)
                continue
            kind = schema.field(name).type
            if not _is_number(pyarrow.types, kind):
                raise error(path, f"is of type {kind}, not a number", field=name, hint=hint)
        table = parquet.read([name for name in columns if name not in found], use_threads=False)
        if table.num_rows != rows:
            raise error(path, f"holds {table.num_rows:,} rows of {rows:,} declared", hint=hint)
        for name in table.column_names:
            column = table.column(name)
            if column.null_count:
                raise error(path, f"has {column.null_count:,} nulls", field=name, hint=hint)
            found[name] = _cast(column.to_numpy(), columns[name], path, name, error, hint)
        return {name: found[name] for name in columns}


@contextmanager
def open_parquet(
    path: PathLike,
    *,
    free_rows: int = _FREE_ROWS,
    within: PathLike | None = None,
    error: Error = BadInputError,
    hint: str = "",
) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` whose rows its bytes can hold, or that has no more than
    `free_rows`. What pyarrow raises in the block is `error`."""
    import pyarrow
    import pyarrow.parquet

    with (
        open_foreign(path, within=within, error=error, hint=hint) as file,
        _faults(path, "Parquet file", error, hint, pyarrow.ArrowException),
    ):
        size = size_of(file)
        parquet = pyarrow.parquet.ParquetFile(file)
        meta = parquet.metadata
        if not 0 <= meta.num_rows <= max(free_rows, size):
            raise error(path, f"declares {meta.num_rows:,} rows in {size:,} bytes", hint=hint)
        if meta.num_columns > _COLUMNS:
            raise error(path, f"has {meta.num_columns:,} columns", hint=hint)
        yield parquet


def _arrays(
    path: PathLike, file: BinaryIO, size: int, error: Error, hint: str
) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total, most = sum(m.file_size for m in members), max(_FREE_BYTES, _PACKED * size)
        if total > min(most, ARRAYS_BYTES):
            raise error(path, f"declares {total:,} bytes of arrays in {size:,}", hint=hint)
        if len(members) > _MEMBERS:
            raise error(path, f"has {len(members):,} arrays", hint=hint)
        found: dict[str, NDArray[Any]] = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in found:
                raise error(path, "is there twice", field=name, hint=hint)
            with archive.open(member) as stream:
                found[name] = _array(stream, member.file_size, path, name, error, hint)
        return found


def _array(
    stream: Any, declared: int, path: PathLike, name: str, error: Error, hint: str
) -> NDArray[Any]:
    version = npy.read_magic(stream)
    reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if reader is None:
        raise error(path, f"is of npy version {version}", field=name, hint=hint)
    shape, fortran, dtype = reader(stream, max_header_size=_HEADER_BYTES)
    if dtype.hasobject or dtype.names is not None:
        raise error(path, f"is of type {dtype}, not a number", field=name, hint=hint)
    if any(n < 0 for n in shape):
        raise error(path, f"has shape {shape}", field=name, hint=hint)
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > declared:
        text = f"has shape {shape} of {dtype}, which is more than its {declared:,} bytes"
        raise error(path, text, field=name, hint=hint)
    flat = np.empty(wanted, np.uint8)
    at = 0
    while chunk := stream.read(MIB):
        if at + len(chunk) > wanted:
            raise error(path, f"has more than {wanted:,} bytes", field=name, hint=hint)
        flat[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
    if at != wanted:
        raise error(path, f"has {at:,} bytes, not {wanted:,}", field=name, hint=hint)
    return flat.view(dtype).reshape(shape, order="F" if fortran else "C")


def cast_columns(
    found: Mapping[str, NDArray[Any]],
    columns: Mapping[str, Any],
    path: PathLike,
    error: Error = BadInputError,
    hint: str = "",
) -> dict[str, NDArray[Any]]:
    """These arrays of a file, each in the NumPy dtype that `columns` names. Raises `error` where
    one is missing, is not of numbers, or has a value that the type cannot hold."""
    for name in columns:
        if name not in found:
            raise error(path, "is missing", field=name, hint=hint)
    return {name: _cast(found[name], columns[name], path, name, error, hint) for name in columns}


def _is_number(types: Any, kind: Any) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _cast(
    column: NDArray[Any], dtype: Any, path: PathLike, name: str, error: Error, hint: str
) -> NDArray[Any]:
    """An array in the type asked for; refused where a number would become another one."""
    wanted = np.dtype(dtype)
    if column.dtype.kind not in "fiub":
        raise error(path, f"is of type {column.dtype}, not a number", field=name, hint=hint)
    if wanted.kind in "iu" and column.dtype != wanted and column.size:
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            raise error(path, "has a value that is not an integer", field=name, hint=hint)
        limits = np.iinfo(wanted)
        if column.min().item() < limits.min or column.max().item() > limits.max:
            raise error(path, f"has a value out of the range of {wanted}", field=name, hint=hint)
    with np.errstate(all="ignore"):
        cast = column.astype(wanted)
    if wanted.kind == "f" and not (np.isfinite(cast) | ~np.isfinite(column)).all():
        raise error(path, f"has a value out of the range of {wanted}", field=name, hint=hint)
    return cast


@contextmanager
def _faults(
    path: PathLike, kind: str, error: Error, hint: str, *others: type[Exception]
) -> Iterator[None]:
    """What the libraries raise for a file that is not whole, as `error`."""
    kinds: tuple[type[Exception], ...] = (
        ValueError, TypeError, KeyError, OSError, EOFError, OverflowError, SyntaxError,
        RecursionError, NotImplementedError, RuntimeError, tokenize.TokenError, zipfile.BadZipFile,
        zlib.error, *others,
    )  # fmt: skip
    try:
        yield
    except MemoryError as why:
        raise error(path, "needs more memory than there is", hint=hint) from why
    except kinds as why:
        # A key's own text is its repr, and some of these have no text at all.
        said = str(why) or type(why).__name__
        raise error(path, f"is not a whole {kind}: {said}", hint=hint) from why
