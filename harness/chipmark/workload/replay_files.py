"""Request traces on disk, read line by line; every mistake names file, line and field.

Mooncake (FAST'25 release, Apache-2.0): JSON Lines of `timestamp` in ms, `input_length`,
`output_length` and `hash_ids`, one id for each started block of prompt tokens, 512 as published.
Azure (AzurePublicDataset, CC-BY-4.0): CSV of `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`.
"""

from __future__ import annotations

import codecs
import csv
import datetime
import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

from chipmark.errors import BadInputError, nearest_names
from chipmark_models.foreign_file import exact, open_foreign, parse_json

MOONCAKE_BLOCK = 512
MOST_TOKENS = 1 << 24
"""Longest prompt or answer that is believed, far over any model's context."""

MOST_LINE = 16 << 20
"""Most bytes of a line: hash ids of the longest prompt that is believed."""

MOST_MS = 1 << 53
"""Latest time of a request; a double still holds it."""

_FREE_BYTES, _PACKED = 4 << 20, 50
"""A packed trace may unpack to 4 MiB, and above to fifty times its size: a published one packs to
a fifth."""

_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_MOONCAKE_FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")


@dataclass(frozen=True, slots=True)
class Request:
    """One request: arrival from the first request on in microseconds, lengths in tokens, hash ids
    of its prompt's blocks (empty where the file has none), and its line in the file."""

    arrival_us: int
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...]
    line: int


def read_requests(
    path: str | os.PathLike[str],
    limit: int | None = None,
    *,
    block_tokens: int = MOONCAKE_BLOCK,
) -> Iterator[Request]:
    """Requests of a `.jsonl` (Mooncake) or `.csv` (Azure) file, plain or `.gz`, in file order.

    Stops after `limit` requests. `block_tokens` are those that one hash id covers. Raises
    `BadInputError` for another kind of file, a file that cannot be read or is cut short, missing
    fields or columns, lengths under 1, timestamps that decrease, and `hash_ids` whose count does
    not fit the length.
    """
    read: Callable[[str | os.PathLike[str], Iterator[str]], Iterator[Request]]
    name = Path(path).name.lower().removesuffix(".gz")
    if name.endswith(".jsonl"):
        read, stamp = partial(_mooncake, block_tokens=block_tokens), "timestamp"
    elif name.endswith(".csv") and block_tokens != MOONCAKE_BLOCK:
        raise BadInputError(path, "is an Azure file: it has no blocks", hint="leave the size out")
    elif name.endswith(".csv"):
        read, stamp = _azure, "TIMESTAMP"
    else:
        raise BadInputError(path, "is neither .jsonl (Mooncake) nor .csv (Azure), plain or .gz")
    try:
        with open_foreign(path) as file:
            packed = str(path).lower().endswith(".gz")
            lines = _packed_lines(path, file) if packed else _lines(path, file)
            yield from islice(_in_order(path, stamp, read(path, lines)), limit)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInputError(path, f"cannot be read to its end ({error})") from error


def _packed_lines(path: object, file: IO[bytes] | gzip.GzipFile) -> Iterator[str]:
    """Lines of a gzip file, unpacked only as far as a trace packs."""
    most, total = _FREE_BYTES + _PACKED * os.fstat(file.fileno()).st_size, 0
    with gzip.GzipFile(fileobj=file) as unpacked:
        for line in _lines(path, unpacked):
            total += len(line)
            if total > most:
                raise BadInputError(path, f"unpacks to over {most:,} bytes")
            yield line


def _lines(path: object, file: IO[bytes] | gzip.GzipFile) -> Iterator[str]:
    """Lines of a file with their ends, none longer than MOST_LINE bytes."""
    number = 0
    while content := file.readline(MOST_LINE + 1):
        number += 1
        if len(content) > MOST_LINE:
            raise BadInputError(path, f"is longer than {MOST_LINE:,} bytes", line=number)
        if number == 1:
            content = content.removeprefix(codecs.BOM_UTF8)
        try:
            yield content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInputError(path, f"is not UTF-8: {error.reason}", line=number) from error


def _in_order(path: object, field: str, requests: Iterator[Request]) -> Iterator[Request]:
    """Arrivals from the first request on; refuses a step back in time."""
    first: int | None = None
    last = 0
    for request in requests:
        first = request.arrival_us if first is None else first
        since = request.arrival_us - first
        if since < last:
            raise BadInputError(
                path,
                f"decreases by {(last - since) / 1e6:g} s",
                line=request.line,
                field=field,
                hint="sort the file by time",
            )
        last = since
        yield Request(
            since, request.input_tokens, request.output_tokens, request.hash_ids, request.line
        )


def _mooncake(
    path: str | os.PathLike[str], lines: Iterator[str], *, block_tokens: int
) -> Iterator[Request]:
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        entry = parse_json(text, path, line=line, parse_float=exact)
        if not isinstance(entry, dict):
            raise BadInputError(path, "is not a JSON object", line=line)
        for name in _MOONCAKE_FIELDS:
            if name not in entry:
                raise _missing(path, line, name, list(entry))
        stamp = entry["timestamp"]
        number = isinstance(stamp, int | Fraction) and not isinstance(stamp, bool)
        if not number or not 0 <= stamp < MOST_MS:
            raise BadInputError(
                path, f"must be milliseconds, not {stamp!r}", line=line, field="timestamp"
            )
        length = _length(path, line, "input_length", entry["input_length"])
        out = _length(path, line, "output_length", entry["output_length"])
        hash_ids = _hash_ids(path, line, entry["hash_ids"], length, block_tokens)
        yield Request(round(stamp * 1000), length, out, hash_ids, line)


def _hash_ids(
    path: object, line: int, value: object, length: int, block_tokens: int
) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(v) is int and 0 <= v < 1 << 63 for v in value):
        raise BadInputError(
            path, "must be a list of whole numbers in 0..2^63-1", line=line, field="hash_ids"
        )
    blocks = -(-length // block_tokens)
    if len(value) != blocks:
        raise BadInputError(
            path,
            f"has {len(value)} ids, but {length} tokens are {blocks} blocks of {block_tokens}",
            line=line,
            field="hash_ids",
            hint="say the size of the file's blocks: --block-tokens "
            + _fitting_sizes(length, len(value)),
        )
    return tuple(value)


def _fitting_sizes(length: int, ids: int) -> str:
    """Block sizes at which a prompt of `length` tokens has `ids` blocks, powers of two first."""
    if not 1 <= ids <= length:
        return "N; no size fits this line"
    least = -(-length // ids)
    most = length if ids == 1 else (length - 1) // (ids - 1)
    powers = [1 << n for n in range(25) if least <= 1 << n <= most]
    if powers:
        return str(powers[0]) + (f" (of {least} to {most} that fit)" if most > least else "")
    return f"N, of {least} to {most}" if least <= most else "N; no size fits this line"


def _azure(path: str | os.PathLike[str], lines: Iterator[str]) -> Iterator[Request]:
    reader = csv.DictReader(lines)
    try:
        columns = list(reader.fieldnames or [])
        for name in _AZURE_COLUMNS:
            if name not in columns:
                raise _missing(path, 1, name, columns)
        epoch: datetime.datetime | None = None
        for row in reader:
            line = reader.line_num
            when = _moment(path, line, row["TIMESTAMP"])
            epoch = when if epoch is None else epoch
            if (when.tzinfo is None) != (epoch.tzinfo is None):
                raise BadInputError(
                    path, "mixes times with and without a zone", line=line, field="TIMESTAMP"
                )
            yield Request(
                (when - epoch) // datetime.timedelta(microseconds=1),
                _length(path, line, "ContextTokens", _number(row["ContextTokens"])),
                _length(path, line, "GeneratedTokens", _number(row["GeneratedTokens"])),
                (),
                line,
            )
    except csv.Error as error:
        raise BadInputError(path, f"is not CSV ({error})", line=reader.line_num) from error


def _moment(path: object, line: int, text: str | None) -> datetime.datetime:
    try:
        # Digits under a microsecond, which Azure writes, are cut off.
        return datetime.datetime.fromisoformat((text or "").strip())
    except ValueError:
        raise BadInputError(path, f"{text!r} is not a time", line=line, field="TIMESTAMP") from None


def _number(text: str | None) -> object:
    stripped = (text or "").strip()
    digits = stripped.removeprefix("-")
    return int(stripped) if digits.isascii() and digits.isdigit() and len(digits) < 19 else text


def _length(path: object, line: int, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_TOKENS:
        raise BadInputError(
            path,
            f"must be a whole number of tokens in 1..{MOST_TOKENS}, not {value!r}",
            line=line,
            field=name,
        )
    return value


def _missing(path: object, line: int, name: str, present: list[str]) -> BadInputError:
    near = nearest_names(name, present)
    return BadInputError(
        path,
        "is missing" + (f"; there is {' and '.join(near)}" if near else ""),
        line=line,
        field=name,
    )
