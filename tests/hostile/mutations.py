"""Seeded mutations of good files: bytes, and the values inside each format.

A flipped byte seldom gets past a parser, so most mutations parse the file, put one or a few odd
values into it, and write it back in its own format.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

Mutation = Callable[[bytes, random.Random], bytes]

ESCAPES = "\x1b[31m\x1b]0;title\x07 \u202e\u200b\r\n\t\x9b"
MARKUP = "<script>x</script>|`*_[a](b)"
FORMULA = "\t=1+1"

SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 2**31, -(2**31), 2**63, 2**64, -(2**64), 10**30, 10**400,
    0.0, -0.0, 1e-320, -1.5, 0.5, 1e18, 1e300, 1e308, float("nan"), float("inf"), float("-inf"),
    "", "a", "0", "-1", "1e999", "nan", "x" * 5000, "../../outside", "/dev/zero", "a/b", ".", "\0",
    ESCAPES, MARKUP, FORMULA, "=1", "@x", "-x", "+x", "\ud800", "中文", [], {}, [None], [[]],
    {"a": 1}, [1, 2, 3], ["x"] * 200, list(range(300)), {"": {}}, {str(i): i for i in range(300)},
)  # fmt: skip


def odd_value(rng: random.Random, value: Any) -> Any:
    """Something else in the place of a value, often of its own type."""
    kind = rng.randrange(5)
    if kind == 0 or not isinstance(value, int | float | str | list) or isinstance(value, bool):
        return rng.choice(SCALARS)
    if isinstance(value, str):
        odd = (ESCAPES, MARKUP, FORMULA, value + ESCAPES, value * 50, value[:-1], value.upper(), "")
        return rng.choice(odd)
    if isinstance(value, list):
        odd_lists = (
            value[:-1],
            value + value,
            value[::-1],
            [rng.choice(SCALARS), *value],
            value * 20,
        )
        return rng.choice(odd_lists)
    factor = rng.choice((-1, 0, 2, 1000, 10**6, 10**9, 1e-9, 0.5))
    try:
        changed = value * factor
        return int(changed) if isinstance(value, int) and rng.random() < 0.8 else changed
    except (OverflowError, ValueError):  # an integer of hundreds of digits, or infinity
        return rng.choice(SCALARS)


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a parsed document."""
    found: list[tuple[Any, Any]] = []
    todo = [document]
    while todo:
        node = todo.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            found.append((node, key))
            if isinstance(value, dict | list):
                todo.append(value)
    return found


def change_document(document: Any, rng: random.Random) -> Any:
    """One to three odd values, missing keys, unknown keys or nests in a parsed document."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        spots = places(document)
        if not spots:
            return rng.choice(SCALARS)
        node, key = rng.choice(spots)
        what = rng.randrange(12)
        if what == 0:
            del node[key]
        elif what == 1 and isinstance(node, dict):
            node[rng.choice(("unknown", ESCAPES, "", "__class__"))] = rng.choice(SCALARS)
        elif what == 2 and isinstance(node, list):
            node.insert(key, rng.choice(SCALARS))
        elif what == 3:
            nested: Any = node[key]
            for _ in range(rng.choice((10, 70, 500))):
                nested = [nested] if rng.random() < 0.5 else {"a": nested}
            node[key] = nested
        elif what == 4:
            other_node, other_key = rng.choice(spots)
            try:
                node[key] = json.loads(json.dumps(other_node[other_key]))
            except (LookupError, ValueError, RecursionError):
                node[key] = None
        else:
            node[key] = odd_value(rng, node[key])
    return document


def flip(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, doubled or put in."""
    data = bytearray(content)
    what = rng.randrange(5)
    at = rng.randrange(len(data) + 1)
    if what == 0 and data:
        for _ in range(rng.choice((1, 1, 3, 20))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif what == 1:
        del data[at:]
    elif what == 2:
        del data[at : at + rng.choice((1, 4, 100))]
    elif what == 3:
        data[at:at] = rng.randbytes(rng.choice((1, 8, 200)))
    else:
        data[at:at] = data[at : at + rng.choice((1, 16, 1000))]
    return bytes(data)


def json_text(document: Any) -> bytes:
    """JSON as Python writes it, NaN and lone surrogates too."""
    return json.dumps(document, indent=1).encode("utf-8", "surrogatepass")


def of_json(content: bytes, rng: random.Random) -> bytes:
    """Odd values in a JSON document; seldom odd bytes, or a very deep or cut text."""
    what = rng.randrange(20)
    if what == 0:
        return flip(content, rng)
    if what == 1:
        return content.replace(b"null", b"[" * 100_000, 1) if b"null" in content else b"[" * 100_000
    try:
        return json_text(change_document(json.loads(content), rng))
    except RecursionError:
        return flip(content, rng)


def of_json_lines(content: bytes, rng: random.Random) -> bytes:
    """As `of_json`, in one line of many."""
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    changed = of_json(lines[at], rng)
    try:
        changed = json.dumps(json.loads(changed)).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        changed = changed.replace(b"\n", b" ")
    what = rng.randrange(10)
    if what == 0:
        return b"\n".join([*lines[:at], *lines[at + 1 :]])
    if what == 1:
        return b"\n".join([*lines, lines[at]])
    return b"\n".join([*lines[:at], changed, *lines[at + 1 :]]) + b"\n"


_TOKEN = re.compile(r'(?<==)\s*("(?:[^"\\\n]|\\.)*"|[-+]?[0-9][0-9._eE+-]*|true|false)')
_TOML_ODD = (
    "0", "-1", "1e999", "nan", "inf", "-inf", "9" * 30, "9" * 5000, "1e400", "1e-400",
    "0.1e99999999", "true", '""', '"x"', "[]", "{}", "[[1]]", "2020-01-01", "0x10", "[" * 80,
    '"\\u001b[31m\\u202e"',
    '"=1+1"', '"<b>|"', "1_000", "-0.0", '"' + "x" * 3000 + '"', "{a = 1}", '["a", 1]',
)  # fmt: skip


def of_toml(content: bytes, rng: random.Random) -> bytes:
    """Odd values, lines gone or doubled, keys renamed in a TOML text."""
    text = content.decode()
    what = rng.randrange(12)
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    if what == 0:
        return flip(content, rng)
    if what == 1:
        return "\n".join(lines[:at] + lines[at + 1 :]).encode()
    if what == 2:
        return "\n".join([*lines[:at], lines[at], *lines[at:]]).encode()
    if what == 3:
        return "\n".join([*lines[:at], 'unknown_key = "x"', *lines[at:]]).encode()
    spots = list(_TOKEN.finditer(text))
    if not spots:
        return flip(content, rng)
    spot = rng.choice(spots)
    return (text[: spot.start()] + " " + rng.choice(_TOML_ODD) + text[spot.end() :]).encode()


def of_csv(content: bytes, rng: random.Random) -> bytes:
    """Odd cells in a CSV text."""
    lines = content.decode().split("\n")
    at = rng.randrange(len(lines))
    cells = lines[at].split(",")
    what = rng.randrange(8)
    if what == 0:
        return flip(content, rng)
    if what == 1:
        return "\n".join([*lines[:at], *lines[at + 1 :]]).encode()
    odd = (
        "",
        "-1",
        "0",
        "nan",
        "inf",
        "1e999",
        "9" * 400,
        "9" * 5000,
        ESCAPES,
        '"',
        FORMULA,
        "x" * 200_000,
    )
    cells[rng.randrange(len(cells))] = rng.choice(odd)
    lines[at] = ",".join(cells)
    return "\n".join(lines).encode()


def of_gzip(content: bytes, rng: random.Random) -> bytes:
    """A mutation of the text inside, or of the packed bytes."""
    if rng.randrange(4) == 0:
        return flip(content, rng)
    return gzip.compress(of_csv(gzip.decompress(content), rng), 1)


_DTYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "u1", "u8", "bool", "c16", "U3", "S4", "M8[s]")


def change_array(array: Any, rng: random.Random) -> Any:
    """An array with odd values, of another type, length or number of axes."""
    what = rng.randrange(9)
    changed = np.array(array)
    if what == 0:
        return changed[: len(changed) // 2] if changed.ndim else changed
    if what == 1:
        return np.concatenate([changed, changed]) if changed.ndim else changed
    if what == 2:
        return changed.reshape(-1) if rng.random() < 0.5 else changed[None]
    if what == 3:
        try:
            with np.errstate(all="ignore"):
                return changed.astype(rng.choice(_DTYPES))
        except (ValueError, TypeError):
            return changed[:0]
    if what == 4:
        return np.sort(changed)[::-1] if changed.ndim else changed
    if not changed.size or changed.dtype.kind not in "fiu":
        return np.zeros(3)
    if changed.dtype.kind == "f":
        odd: Any = rng.choice((np.nan, np.inf, -np.inf, -1.0, 0.0, 1e300, 1e-300))
    else:
        limits = np.iinfo(changed.dtype)
        odd = rng.choice((limits.min, limits.max, 0, limits.max // 2, 1, 7))
    flat = changed.reshape(-1)
    if what == 5:
        flat[:] = odd
    else:
        flat[rng.randrange(flat.size)] = odd
    return changed


def of_npz(content: bytes, rng: random.Random) -> bytes:
    """Odd arrays in an archive; seldom odd bytes, a header that lies, or zeros that unpack."""
    what = rng.randrange(60)
    if what < 5:
        return flip(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    if what < 10:
        del members[name]
    elif what < 15:
        members[name] = flip(members[name], rng)
    elif what < 20:
        members[name] = members[name].replace(b"'shape': (", b"'shape': (1000000000000, ", 1)
    elif what == 20:  # seldom, for it takes a second to pack
        members[name] = npy(np.zeros(4_000_000))
    else:
        array = np.load(io.BytesIO(members[name]), allow_pickle=False)
        if array.dtype == np.uint8 and array.ndim == 1 and array.size and array[0] == ord("{"):
            text = of_json(array.tobytes(), rng)  # a document that is kept as bytes
            members[name] = npy(np.frombuffer(text, np.uint8))
        else:
            members[name] = npy(change_array(array, rng))
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if what == 20 or rng.randrange(8) == 0 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as archive:
        for key, data in members.items():
            archive.writestr(key, data)
    return out.getvalue()


def npy(array: Any) -> bytes:
    """The bytes of an `.npy` file."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def of_parquet(content: bytes, rng: random.Random) -> bytes:
    """Odd columns in a table; seldom odd bytes, or many rows that pack to nothing."""
    what = rng.randrange(100)
    if what < 10:
        return flip(content, rng)
    table = pyarrow.parquet.read_table(io.BytesIO(content))
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    name = rng.choice(sorted(columns))
    if what < 20:
        del columns[name]
    elif what < 30:
        columns["unknown"] = columns[name]
    elif what < 40:
        keep = rng.randrange(table.num_rows + 1)
        columns = {key: column[:keep] for key, column in columns.items()}
    elif what == 40:  # seldom, for it takes a second to write
        columns = {key: np.resize(np.zeros(1, c.dtype), 1_200_000) for key, c in columns.items()}
    else:
        changed = change_array(columns[name], rng)
        length = table.num_rows
        if changed.ndim != 1 or len(changed) != length or changed.dtype.kind == "c":
            changed = np.resize(np.asarray(columns[name]), length)[::-1]
        columns[name] = changed
    out = io.BytesIO()
    values = {key: pyarrow.array(column) for key, column in columns.items()}
    nullable = {field.name: field.nullable for field in table.schema}
    fields = [pyarrow.field(key, v.type, nullable.get(key, True)) for key, v in values.items()]
    schema = pyarrow.schema(fields, table.schema.metadata)
    pyarrow.parquet.write_table(pyarrow.table(values, schema), out, compression="zstd")
    return out.getvalue()


def of_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Odd values in the header of a safetensors file, its length right again."""
    if rng.randrange(10) == 0:
        return flip(content, rng)
    length = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + length], content[8 + length :]
    changed = of_json(header, rng)
    try:
        changed = json.dumps(json.loads(changed)).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        changed = bytes(changed)
    return struct.pack("<Q", len(changed)) + changed + data


def of_gguf(content: bytes, rng: random.Random) -> bytes:
    """Odd counts, types and lengths in the head of a GGUF file, where its numbers are."""
    what = rng.randrange(4)
    if what == 0:
        return flip(content, rng)
    data = bytearray(content)
    # Lengths, counts and types are little-endian words before the data begins.
    at = rng.randrange(4, max(5, min(len(data) - 8, 60_000)))
    if what == 1:
        data[at : at + 8] = struct.pack(
            "<Q", rng.choice((0, 1, 2**16, 2**31, 2**40, 2**63, 2**64 - 1))
        )
    elif what == 2:
        data[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 7, 9, 12, 99, 2**16, 2**32 - 1)))
    else:
        words = [m.start() for m in re.finditer(rb"[a-z_]{4,}\.[a-z_.]{4,}", bytes(data[:60_000]))]
        if words:
            spot = rng.choice(words)
            data[spot : spot + 3] = rng.choice((b"\x1b[3", b"\xff\xfe\xfd", b"x.y", b"\0\0\0"))
    return bytes(data)


OF_KIND: dict[str, Mutation] = {
    "bytes": flip,
    "json": of_json,
    "jsonl": of_json_lines,
    "toml": of_toml,
    "csv": of_csv,
    "gzip": of_gzip,
    "npz": of_npz,
    "parquet": of_parquet,
    "safetensors": of_safetensors,
    "gguf": of_gguf,
}
"""A mutation by the kind of a file."""
