"""Measured tiles of a product, read from `tuned/PRODUCT.json` beside this file.

A product is a device's own name as `device.product_key` writes it, for an H100 and an H200 want
different tiles. Where a product has no table, the rules choose; another's is never taken. The file
is written by a script and never by hand:
{"device": "nvidia-h200", "triton": "3.6.0", "entries": [{"kernel": "skinny_gemm", "dtype": "bf16",
"shape": {"rows": 1, "n": 4096, "k": 4096}, "tile": {"m": 1, "n": 8, "k": 512, "split": 1,
"num_warps": 4, "num_stages": 3}}]}. Sizes that vary with the batch stand as powers of two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict, cast

TUNED_FOLDER = Path(__file__).parent / "tuned"


class TileFields(TypedDict):
    """The fields of a tile, all whole numbers."""

    m: int
    n: int
    k: int
    split: int
    num_warps: int
    num_stages: int


Key = tuple[str, str, tuple[tuple[str, int], ...]]


def _key(kernel: str, dtype: str, shape: Mapping[str, int]) -> Key:
    return kernel, dtype, tuple(sorted(shape.items()))


def _checked(path: Path, entry: Any, number: int) -> tuple[Key, TileFields]:
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
    if set(tile) != set(TileFields.__annotations__):
        raise ValueError(f"{where}: tile: must have {', '.join(TileFields.__annotations__)}")
    if min(tile.values()) < 0 or min(tile["split"], tile["num_warps"], tile["num_stages"]) < 1:
        raise ValueError(f"{where}: tile: sizes must not be negative; split, warps, stages >= 1")
    return _key(entry["kernel"], entry["dtype"], entry["shape"]), cast("TileFields", dict(tile))


@lru_cache(maxsize=32)
def read_table(path: Path) -> Mapping[Key, TileFields]:
    """The table at `path`; empty where there is no such file. Raises ValueError where it is bad."""
    if not path.exists():
        return {}
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
            "python3 -m gpu_arms.tune"
        )
    return dict(_checked(path, entry, i) for i, entry in enumerate(data["entries"]))


def table_path(product: str) -> Path:
    """Where the table of a product stands; ValueError for a device that does not tell its name."""
    if not product:
        raise ValueError("the device tells no name of its own, so it has no table of tiles")
    return TUNED_FOLDER / f"{product}.json"


def tuned_fields(
    product: str, kernel: str, dtype: str, shape: Mapping[str, int]
) -> TileFields | None:
    """The measured tile for exactly this product, kernel, dtype and (bucketed) shape, or None."""
    if not product:
        return None
    return read_table(table_path(product)).get(_key(kernel, dtype, shape))
