"""The JSON file of `chipmark kernels run`: a row a case, in the order of cases, always whole.

Format 3: `identity`; `roofs` by the card's uuid; `rows`, each with the hash of its sources
(`code`), `parity` and, where that holds, `time` (`ours`, `peers`, and which of these are `done`),
what follows from it, and `targets`. Formats 1 and 2, with one hash of all sources, are not read.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chipmark.errors import BadInputError
from chipmark.kernel_bench.selection import Peers
from chipmark_models.files import whole_file
from chipmark_models.foreign_file import MIB, read_json

FORMAT = 3
DOCUMENT_BYTES = 64 * MIB
Row = dict[str, Any]
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Codes:
    """Hashes of the sources that figures are made with now."""

    rows: Mapping[tuple[str, str], str]
    """By kernel and case."""

    roofs: str
    """Of the roofs."""


def code_hash(folders: Sequence[Path]) -> str:
    """Hash of the sources in folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def file_at(out: Path | None, name: str) -> Path:
    """Where a result is written: `runs/` by default, and `name` in a folder that is there."""
    if out is None:
        return Path("runs") / name
    return out / name if out.is_dir() else out


def read(path: Path) -> Document:
    """A document of an earlier call. Raises BadInputError for what is none."""
    document = read_json(path, DOCUMENT_BYTES)
    if isinstance(document, dict) and document.get("format") in (1, 2):
        raise BadInputError(
            path,
            f"of `chipmark kernels run` in format {document['format']}, of which no row says what"
            f" code it was made with; this version reads format {FORMAT}: keep it as it is and"
            " name another file (-o)",
        )
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadInputError(path, f"not a result of `chipmark kernels run` in format {FORMAT}")
    return document


def opened(path: Path, identity: Mapping[str, Any], codes: Codes) -> Document:
    """What an earlier call left at `path` on the same kind of device, else a new document.

    Rows of other code are left out; the file that has them, or one of another kind of device, is
    kept next to it, with a message.
    """
    new = {"format": FORMAT, "identity": dict(identity), "roofs": {}, "rows": []}
    if not path.exists():
        return new
    document = read(path)
    if document["identity"] != identity:
        aside = _aside(path, document)
        print(f"gpu: {path} is of another device or versions: kept as {aside}", file=sys.stderr)
        return new
    left = forget_other_code(document, codes)
    if left:
        aside = _aside(path, read(path))
        print(f"gpu: {left} rows of {path} are of other code and are measured anew; "
              f"the file with them is kept as {aside}", file=sys.stderr)  # fmt: skip
    return document


def _aside(path: Path, document: Document) -> Path:
    """Rename the file to one next to it, named after the code of its rows."""
    codes = [document["identity"], *(row.get("code", "") for row in document["rows"])]
    name = hashlib.sha256(json.dumps(codes, sort_keys=True).encode()).hexdigest()[:8]
    return path.rename(path.with_suffix(f".{name}.json"))


def forget_other_code(document: Document, codes: Codes) -> int:
    """Drop rows and roofs that were made with other code; how many rows. A case that no longer
    exists keeps its row: there is no code that it could be of."""

    def stands(row: Row) -> bool:
        key = row["kernel"], row["case"]
        return key not in codes.rows or row.get("code") == codes.rows[key]

    kept = [row for row in document["rows"] if stands(row)]
    left = len(document["rows"]) - len(kept)
    document["rows"] = kept
    roofs = document["roofs"]
    document["roofs"] = {k: r for k, r in roofs.items() if r.get("code") == codes.roofs}
    return left


def seed(document: Document, path: Path, codes: Codes) -> int:
    """Take rows and roofs that the document lacks from the file of an earlier call, which is only
    read; how many rows, 0 where it is of another kind of device. Raises BadInputError."""
    earlier = read(path)
    if earlier["identity"] != document["identity"]:
        print(f"gpu: {path} is of another device or versions: nothing of it is taken",
              file=sys.stderr)  # fmt: skip
        return 0
    forget_other_code(earlier, codes)
    known = {(row["kernel"], row["case"]) for row in document["rows"]}
    taken = [row for row in earlier["rows"] if (row["kernel"], row["case"]) not in known]
    document["rows"] += taken
    document["roofs"] = earlier["roofs"] | document["roofs"]
    return len(taken)


def save(path: Path, document: Document, order: Sequence[tuple[str, str]]) -> None:
    """Write the document whole or not at all, its rows in the order of (kernel, case)."""
    place = {key: i for i, key in enumerate(order)}
    document["rows"].sort(key=lambda r: place.get((r["kernel"], r["case"]), len(place)))
    text = json.dumps(document, indent=1, allow_nan=False)
    with whole_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def failed(row: Row) -> str:
    """Why a kernel's row cannot stand: an error, or parity; "" where it can."""
    parity, time = row.get("parity") or {}, row.get("time") or {}
    for part in (parity, time, time.get("ours") or {}):
        if "error" in part:
            return str(part["error"])
    if parity and not parity["ok"] and "left_out" not in parity:
        problems = [q for r in parity["results"] for q in r["problems"]]
        return f"parity: {'; '.join(dict.fromkeys(problems))}"
    return ""


def forget_failures(document: Document) -> int:
    """Drop what failed, ours and peers', so that it is tried again; how many rows that touches."""
    touched = 0
    for row in document["rows"]:
        time = row.get("time") or {}
        peers = time.get("peers", {})
        bad = [name for name, peer in peers.items() if "error" in peer]
        if failed(row):
            row.pop("parity", None)
            row.pop("time", None)
        elif bad:
            for name in bad:
                del peers[name]
            time["done"] = Peers.NONE.value
        else:
            continue
        touched += 1
    return touched
