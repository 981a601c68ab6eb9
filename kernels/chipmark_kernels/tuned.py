"""Measured tiles of a product, read from `tuned/PRODUCT.json` next to this file.

A product is a device's own name as `device.product_key` writes it, for an H100 and an H200 want
different tiles. Where a product has no table, the rules choose; another's is never taken. The file
is written by a script and never by hand:
{"device": "nvidia-h200", "target": "sm_90", "triton": "3.6.0", "entries": [{"kernel":
"skinny_gemm", "dtype": "bf16", "shape": {"rows": 1, "n": 4096, "k": 4096, "glu": 0}, "tile": {"m":
1, "n": 8, "k": 512, "split": 1, "num_warps": 4, "num_stages": 3}}]}. Sizes that vary with the batch
stand as powers of two. `python -m chipmark_kernels.aot` compiles the tiles for the table's target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from chipmark_kernels.tile import Tile

TUNED_FOLDER = Path(__file__).parent / "tuned"


TILE_FIELDS = tuple(field.name for field in fields(Tile))
Key = tuple[str, str, tuple[tuple[str, int], ...]]
"""Kernel, dtype and shape of an entry, the sizes by name."""


@dataclass(frozen=True, slots=True)
class Table:
    """Measured tiles of one product, whose target is the name of its `DeviceFacts`.

    An entry's tile is one object, which every launch by it carries: so a recorded launch tells its
    entry.
    """

    path: Path
    target: str
    entries: Mapping[Key, Tile]

    @property
    def product(self) -> str:
        """The device's own name, as `device.product_key` writes it."""
        return self.path.stem

    def name_of(self, key: Key) -> str:
        """File and key of an entry, for messages."""
        kernel, dtype, shape = key
        return f"{self.path}: {kernel} {dtype} {' '.join(f'{k}={n}' for k, n in shape)}"


def _key(kernel: str, dtype: str, shape: Mapping[str, int]) -> Key:
    return kernel, dtype, tuple(sorted(shape.items()))


def _checked(path: Path, entry: Any, number: int) -> tuple[Key, Tile]:
    """One entry of the table; raises ValueError naming file, entry and field."""
    where = f"{path}: entry {number}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: must be an object")
    for field in ("kernel", "dtype"):
        if not isinstance(entry.get(field), str):
            raise ValueError(f"{where}: {field}: must be a string")
    for field in ("shape", "tile"):
        sizes = entry.get(field)
        if not isinstance(sizes, dict) or not all(type(n) is int for n in sizes.values()):
            raise ValueError(f"{where}: {field}: must hold whole numbers only")
    tile = entry["tile"]
    if set(tile) != set(TILE_FIELDS):
        raise ValueError(f"{where}: tile: must have {', '.join(TILE_FIELDS)}")
    if min(tile.values()) < 0 or min(tile["split"], tile["num_warps"], tile["num_stages"]) < 1:
        raise ValueError(f"{where}: tile: sizes must not be negative; split, warps, stages >= 1")
    return _key(entry["kernel"], entry["dtype"], entry["shape"]), Tile(**tile)


@lru_cache(maxsize=32)
def read_table(path: Path) -> Table:
    """The table at `path`; empty where there is no such file. Raises ValueError where it is bad."""
    if not path.exists():
        return Table(path, "", {})
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("entries"), list):
        raise ValueError(f"{path}: entries: must be a list")
    if data.get("device") != path.stem:
        raise ValueError(
            f"{path}: device: {data.get('device')!r}, but the file's name says {path.stem!r}; "
            "tiles are measured on the device itself: PYTHONPATH=scripts:kernels "
            "chipmark kernels tune"
        )
    if not isinstance(data.get("target"), str):
        raise ValueError(f"{path}: target: must name what the tiles are compiled for, as 'sm_90'")
    entries = (_checked(path, entry, i) for i, entry in enumerate(data["entries"]))
    return Table(path, data["target"], dict(entries))


def table_path(product: str) -> Path:
    """Where the table of a product stands; ValueError for a device that does not tell its name."""
    if not product:
        raise ValueError("the device tells no name of its own, so it has no table of tiles")
    return TUNED_FOLDER / f"{product}.json"


def tables() -> list[Table]:
    """Every table that there is; raises ValueError for a bad one."""
    return [read_table(path) for path in sorted(TUNED_FOLDER.glob("*.json"))]


def tuned_tile(product: str, kernel: str, dtype: str, shape: Mapping[str, int]) -> Tile | None:
    """The measured tile for exactly this product, kernel, dtype and (bucketed) shape, or None."""
    if not product:
        return None
    return read_table(table_path(product)).entries.get(_key(kernel, dtype, shape))
