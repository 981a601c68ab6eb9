"""Opening GGUF files through the package `gguf`: one file or all parts of a split one.

Every read is bounded, and what the package would fail on without a name (a tensor's type, the
byte order, a part that is missing) is checked and named before it does.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chipmark_models.errors import BadInputError, ChipmarkError
from chipmark_models.foreign_file import open_foreign
from chipmark_models.model_folder import check_place

_MAX_READS = 2_000_000
"""A vocabulary of 256,000 takes 1.3 million, about three seconds; a damaged length could ask for
each byte of the file."""

_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, TypeError,
    ValueError, struct.error,
)  # fmt: skip
"""What the package raises over a file that is not valid."""

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# Numbers that ggml has given out and taken back; forks use others.
_REMOVED_TYPES = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufModel:
    """All parts of a model: its files in order, metadata of the first, tensors of all by name.

    `fields` leaves out lists over 1,000 entries (a vocabulary) unless they were asked for.
    """

    paths: tuple[Path, ...]
    fields: dict[str, Any]
    tensors: dict[str, Any]


def open_model(path: Path, *, long_lists: bool) -> GgufModel:
    """Open a file and, where it is one of several, its other parts; any part may be given.

    Raises BadInputError for a broken file, a part that is missing or of another model, and parts
    that together do not hold the number of tensors that they declare.
    """
    given = open_gguf(path)
    paths = _siblings(path, given)
    readers = [given if p == path else open_gguf(p) for p in paths]
    if len(paths) > 1:
        _check_parts(paths, readers)
    tensors: dict[str, Any] = {}
    for part, reader in zip(paths, readers, strict=True):
        for tensor in reader.tensors:
            if tensor.name in tensors:
                raise BadInputError(part, "is in an earlier part as well", field=tensor.name)
            tensors[tensor.name] = tensor
    return GgufModel(paths, read_fields(readers[0], paths[0], long_lists=long_lists), tensors)


def part_paths(path: Path) -> tuple[Path, ...]:
    """The parts of the model that `path` is a part of, in order; the file alone where it is whole.

    Opens only a file that is named as a part. Raises BadInputError for a part that is missing.
    """
    return _siblings(path, open_gguf(path)) if _PART.fullmatch(path.name) else (path,)


def model_name(path: Path) -> str:
    """Name of a model by its file, which of its parts that ever is."""
    named = _PART.fullmatch(path.name)
    return named["stem"] if named else path.stem


def _siblings(path: Path, reader: Any) -> tuple[Path, ...]:
    """All parts by the key `split.count` of one of them and by their names."""
    named = _PART.fullmatch(path.name)
    count, number = (_split_number(reader, path, key) for key in ("count", "no"))
    if count <= 1:
        return (path,)
    if not named or (int(named["number"]), int(named["count"])) != (number + 1, count):
        raise BadInputError(
            path,
            f"is part {number + 1} of {count} by its metadata, which its name does not say",
            field="split.no",
            hint=f"name the parts NAME-{1:05}-of-{count:05}.gguf to NAME-{count:05}-of-{count:05}"
            ".gguf",
        )
    paths = tuple(
        path.with_name(f"{named['stem']}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)
    )
    for i, part in enumerate(paths, start=1):
        if not part.is_file():
            raise BadInputError(
                part,
                f"part {i} of {count} is missing",
                hint=f"put all {count} parts into the folder of {path.name}",
            )
    return paths


def _check_parts(paths: tuple[Path, ...], readers: list[Any]) -> None:
    total = sum(len(reader.tensors) for reader in readers)
    for i, (path, reader) in enumerate(zip(paths, readers, strict=True)):
        wanted = {"no": i, "count": len(paths), "tensors.count": total}
        for key, value in wanted.items():
            found = _split_number(reader, path, key)
            if found != value:
                raise BadInputError(
                    path,
                    f"is {found}, expected {value} of these {len(paths)} parts",
                    field=f"split.{key}",
                    hint="the parts are of different models, or a file was renamed",
                )


def _split_number(reader: Any, path: object, key: str) -> int:
    field = reader.fields.get(f"split.{key}")
    value = 0 if field is None else field.contents()
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadInputError(path, f"must be a number, not {value!r}", field=f"split.{key}")
    return value


def open_gguf(path: Path) -> Any:
    """A `gguf.GGUFReader`; checks the magic, every tensor's type and that it lies within the file.

    Big-endian files are read as well. Raises BadInputError for a broken file and ChipmarkError
    where the package is not installed.
    """
    try:
        import gguf
    except ImportError as exc:
        raise ChipmarkError(
            "reading GGUF files needs the package gguf", "pip install 'chipmark[gguf]'"
        ) from exc
    check_place(path)
    with open_foreign(path) as file:
        start = file.read(8).ljust(8, b"\0")
    version = min(struct.unpack("<4xI", start)[0], struct.unpack(">4xI", start)[0])
    if start[:4] != b"GGUF" or version not in (2, 3):
        raise BadInputError(path, f"is not a GGUF file of version 2 or 3 (starts with {start!r})")
    try:
        return _bounded_reader(gguf)(str(path), "r")
    except _RefusedTensorError as exc:
        raise BadInputError(path, str(exc), field=exc.tensor, hint=exc.hint) from exc
    except RecursionError:
        raise BadInputError(path, "has lists nested too deeply") from None
    except _FAULTS as exc:
        raise BadInputError(path, f"is not a valid GGUF file: {exc}") from exc


class _RefusedTensorError(Exception):
    def __init__(self, message: str, tensor: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.tensor, self.hint = tensor, hint


class _CutShortError(_RefusedTensorError):
    def __init__(self, message: str, tensor: str = "") -> None:
        super().__init__(f"{message}: it is cut short", tensor, "fetch the file again")
        self.reason = message


def _bounded_reader(gguf: Any) -> Any:
    """The package's reader with a bound on every read: its own slices beyond the end of the map
    come back short, which loops or fails without a name.
    """

    class BoundedReader(gguf.GGUFReader):  # type: ignore[misc]
        data: Any
        n_reads = 0

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            self.n_reads += 1
            if self.n_reads > _MAX_READS:
                raise ValueError(f"its metadata has over {_MAX_READS} items")
            if isinstance(self.data, np.memmap):
                # Slices of the subclass cost three times a plain array's, 250,000 times.
                self.data = np.asarray(self.data)
            end = int(offset) + dtype().itemsize * int(count)
            if end > len(self.data):
                raise _CutShortError(f"needs byte {end}, the file ends at {len(self.data)}")
            return super()._get(offset, dtype, count, override_order)

        def _build_tensors(self, start_offs: int, fields: Any) -> None:
            for field in fields:
                _check_type(gguf, int(field.parts[4][0]), field.name, swapped=self.byte_order)
                try:
                    super()._build_tensors(start_offs, [field])
                except _CutShortError as exc:
                    raise _CutShortError(exc.reason, tensor=field.name) from exc
            super()._build_tensors(start_offs, fields)

    return BoundedReader


def _check_type(gguf: Any, number: int, tensor: str, *, swapped: str) -> None:
    """Refuse a tensor whose type cannot be turned into numbers, by its name."""
    try:
        kind = gguf.GGMLQuantizationType(number)
    except ValueError:
        name = _REMOVED_TYPES.get(number, "of a fork, or newer than the package gguf")
        raise _RefusedTensorError(
            f"has the GGML type {number} ({name}), which is not read",
            tensor,
            "use a file of another quantisation, as Q8_0 or Q4_K_M",
        ) from None
    if kind.name in ("F32", "F16"):
        return
    if swapped == "S":
        raise _RefusedTensorError(
            f"has the type {kind.name} in a file of the other byte order; F32 and F16 are read",
            tensor,
            "convert the file: gguf-convert-endian FILE little",
        )
    block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    try:
        gguf.quants.dequantize(block, kind)
    except NotImplementedError:
        raise _RefusedTensorError(
            f"has the type {kind.name}, which the package gguf does not turn into numbers", tensor
        ) from None


def read_fields(reader: Any, path: object, *, long_lists: bool = True) -> dict[str, Any]:
    """Metadata of a file as plain Python values; `long_lists` takes in those over 1,000 entries.

    The lists of a vocabulary take a second, and the shape does not need them.
    """
    fields: dict[str, Any] = {}
    for key, field in reader.fields.items():
        if long_lists or len(field.data) <= 1_000:
            try:
                fields[key] = field.contents()
            except (*_FAULTS, RecursionError) as exc:
                raise BadInputError(path, f"cannot be read: {exc}", field=key) from exc
    return fields
