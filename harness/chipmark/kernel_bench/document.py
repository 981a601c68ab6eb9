"""The JSON file of `chipmark kernels run`: a row a case, in the order of cases, always whole.

Format 2: `identity`; `roofs` by the card's uuid; `rows`, each with `parity` and, where that holds,
`time` (`ours`, `peers`), what follows from it, and `targets`. Format 1 (one phase) is not read.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chipmark.errors import BadInputError
from chipmark_models.files import whole_file
from chipmark_models.foreign_file import MIB, read_json

FORMAT = 2
DOCUMENT_BYTES = 64 * MIB
Row = dict[str, Any]
Document = dict[str, Any]


def code_hash(folders: Sequence[Path]) -> str:
    """Hash of the sources: results of other code are not gone on with."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def read(path: Path) -> Document:
    """A document of an earlier call. Raises BadInputError for what is none."""
    document = read_json(path, DOCUMENT_BYTES)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadInputError(path, f"not a result of `chipmark kernels run` in format {FORMAT}")
    return document


def opened(path: Path, identity: Mapping[str, Any]) -> Document:
    """What an earlier call left at `path` with the same device and code, else a new document.

    A file of other code or another kind of device is kept next to it, with a message.
    """
    if path.exists():
        document = read(path)
        if document["identity"] == identity:
            return document
        aside = path.with_suffix(f".{document['identity'].get('code', 'other')}.json")
        path.rename(aside)
        print(f"gpu: {path} is of other code or another device: kept as {aside}", file=sys.stderr)
    return {"format": FORMAT, "identity": dict(identity), "roofs": {}, "rows": []}


def save(path: Path, document: Document, order: Sequence[tuple[str, str]]) -> None:
    """Write the document whole or not at all, its rows in the order of (kernel, case)."""
    place = {key: i for i, key in enumerate(order)}
    document["rows"].sort(key=lambda r: place.get((r["kernel"], r["case"]), len(place)))
    path.parent.mkdir(parents=True, exist_ok=True)
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
            time["complete"] = False
        else:
            continue
        touched += 1
    return touched
