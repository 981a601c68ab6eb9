"""What was tried to tune tiles, in one JSON file; and the table that the kernels read, of it.

Format: `identity` of the device; `rows`, each a case with its `trials` by tile and, when all are
made, `tile` and `share_of_rule`, the fastest and its time by that of the rule's tile.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chipmark.errors import BadInputError
from chipmark.kernel_bench.tiling import entry
from chipmark_kernels import tuned
from chipmark_models.files import whole_file
from chipmark_models.foreign_file import MIB, read_json

FORMAT = 1
KIND = "tiles"
DOCUMENT_BYTES = 64 * MIB
Row = dict[str, Any]
Document = dict[str, Any]


def read(path: Path) -> Document:
    """What an earlier call left. Raises BadInputError for what is none."""
    found = read_json(path, DOCUMENT_BYTES)
    if not isinstance(found, dict) or (found.get("kind"), found.get("format")) != (KIND, FORMAT):
        raise BadInputError(path, f"not a result of `chipmark kernels tune` in format {FORMAT}")
    return found


def opened(
    paths: Sequence[Path], identity: Mapping[str, Any], codes: Mapping[str, str]
) -> Document:
    """The rows of the files that exist, the first file's before the others', as far as they are of
    this device and of the code of `codes` (by `key_of`)."""
    rows: dict[str, Row] = {}
    for path in paths:
        if not path.exists():
            continue
        found = read(path)
        if found["identity"] != identity:
            print(f"tune: {path} is of another device or versions: nothing of it is taken",
                  file=sys.stderr)  # fmt: skip
            continue
        for row in found["rows"]:
            key = key_of(row["kernel"], row["case"])
            if row["code"] == codes.get(key, row["code"]):
                rows.setdefault(key, row)
    return {
        "kind": KIND, "format": FORMAT, "identity": dict(identity), "rows": list(rows.values()),
    }  # fmt: skip


def key_of(kernel: str, case: str) -> str:
    """A row's key."""
    return f"{kernel} {case}"


def save(path: Path, document: Document) -> None:
    """Write it whole or not at all."""
    text = json.dumps(document, indent=1, allow_nan=False)
    with whole_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def write_table(
    path: Path, target: str, triton_version: str, rows: Sequence[Mapping[str, Any]]
) -> int:
    """The product's table with what the tuned rows found; entries of other shapes stay. Read back
    as the kernels will; how many entries it has."""
    tuned.read_table.cache_clear()
    tuned.read_table(path)  # raises for a broken table, which is not written over
    before = json.loads(path.read_text(encoding="utf-8"))["entries"] if path.exists() else []
    done = [row for row in rows if "tile" in row]
    settled = [(row["kernel"], row["shape"]) for row in done]
    kept = [e for e in before if (e["kernel"], e["shape"]) not in settled or e["dtype"] != "bf16"]
    entries = kept + [found for row in done if (found := entry(row))]
    document = {
        "device": path.stem, "target": target, "triton": triton_version, "entries": entries,
    }  # fmt: skip
    with whole_file(path) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    tuned.read_table.cache_clear()
    tuned.read_table(path)
    return len(entries)
