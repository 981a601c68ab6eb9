"""Observations in one Parquet file, which grows by whole runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chipmark.errors import BrokenRecordError
from chipmark.history.observations import Observation
from chipmark_models.files import whole_file
from chipmark_models.foreign_arrays import open_parquet

SCHEMA = "chipmark.history/1"
_FREE_ROWS = 200_000
"""Rows that a store of any size may have: each becomes an object of half a kilobyte."""

_TYPES = {"value": pa.float64(), "samples": pa.int64()}
_FIELDS = pa.schema(
    [pa.field(f.name, _TYPES.get(f.name, pa.string()), nullable=False) for f in fields(Observation)]
)


def read_store(path: Path) -> list[Observation]:
    """All observations. BrokenRecordError where the file is not a store of this schema."""
    with open_parquet(path, free_rows=_FREE_ROWS, error=BrokenRecordError) as parquet:
        kept = parquet.schema_arrow.metadata or {}
        told = kept.get(b"schema", b"").decode("utf-8", "replace")
        if told == SCHEMA and not parquet.schema_arrow.equals(_FIELDS):
            raise BrokenRecordError(path, "has other columns than a store")
        table = parquet.read(use_threads=False) if told == SCHEMA else None
    if table is None:
        raise BrokenRecordError(
            path, f"is {told or 'another file'}, not {SCHEMA}", field="schema",
            hint="a newer chipmark wrote it: upgrade",
        )  # fmt: skip
    try:
        found = [Observation(**row) for row in table.to_pylist()]
        for number, o in enumerate(found):
            if not (math.isfinite(o.value) and o.value > 0 and math.isfinite(o.time_s)):
                raise ValueError(f"row {number}: a value or time that is none")
            if o.direction not in ("higher", "lower") or o.samples < 0:
                raise ValueError(f"row {number}: another direction, or fewer than no samples")
    except (ArithmeticError, TypeError, ValueError) as error:
        raise BrokenRecordError(path, f"has other content ({error})") from error
    return found


def append(path: Path, observations: Sequence[Observation]) -> int:
    """Add what is not in the store yet; how many that were. Whole or not at all.

    Two writers at once: the last one wins whole; give each job a store of its own, or one folder.
    """
    held = {_key(o): o for o in (read_store(path) if path.exists() else [])}
    new = {_key(o): o for o in observations if _key(o) not in held}
    if not new:
        return 0
    rows = [asdict(o) for o in (held | new).values()]
    table = pa.Table.from_pylist(rows, schema=_FIELDS.with_metadata({"schema": SCHEMA}))
    with whole_file(path) as partial:
        pq.write_table(table, partial)
    return len(new)


def _key(o: Observation) -> tuple[str, str, str]:
    return o.run, o.benchmark, o.metric
