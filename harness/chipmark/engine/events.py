"""What a run leaves behind: five tables of columns, written by the child as one `.npz`.

Everything in the results table is computed from these, the trace, the power samples and the
roofs, so a changed definition needs no new run. Times are seconds of the engine's clock (the
host's CLOCK_MONOTONIC, so that a meter in another process shares it; a virtual one for `sim:`);
only those of launches are the backend's word, and must lie inside.
Standard library and NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chipmark.errors import BrokenRecordError
from chipmark_models.foreign_arrays import read_npz

Table = dict[str, NDArray[Any]]

SCHEMA = "chipmark.events/2"

COLUMNS: Mapping[str, Mapping[str, str]] = {
    # a step of the engine, all times by the engine's clock: submit_s to submitted_s around the
    # backend's `submit`, wait_s to visible_s around its `wait`, at whose end the host sees the
    # tokens. engine_s: scheduler and bookkeeping time on the host, both calls not included
    "steps": {
        "step": "i4",
        "engine_s": "f8",
        "submit_s": "f8",
        "submitted_s": "f8",
        "wait_s": "f8",
        "visible_s": "f8",
        "h2d_bytes": "i8",
        "d2h_bytes": "i8",
        "kv_copied_bytes": "i8",
    },
    # phase: index in contract.PHASES; n_tokens: useful tokens (without padding); n_positions:
    # positions computed, padding included. start_s, end_s, host_s: the backend's word
    "launches": {
        "launch": "i4",
        "step": "i4",
        "phase": "i1",
        "n_rows": "i4",
        "n_tokens": "i4",
        "batch_bucket": "i4",
        "chunk_bucket": "i4",
        "context_bucket": "i4",
        "start_s": "f8",
        "end_s": "f8",
        "host_s": "f8",
        "n_positions": "i8",
    },
    # a row of a launch: n_tokens computed from position start of session's context;
    # sampled: id seen by the host, -1 where none; best_logit, second_logit: the two largest
    # logits that it was sampled from, NaN where the backend does not give them
    "rows": {
        "launch": "i4",
        "session": "i4",
        "turn": "i4",
        "start": "i4",
        "n_tokens": "i4",
        "sampled": "i4",
        "best_logit": "f4",
        "second_logit": "f4",
    },
    # status: 0 done, 1 failed, 2 dropped, 3 not finished when the run ended.
    # reused_tokens: prompt tokens not computed on first processing (they were in KV);
    # refilled_tokens: computed again after an eviction; copied_tokens: by prefix copies
    "turns": {
        "session": "i4",
        "turn": "i4",
        "lane": "i4",
        "cold": "i1",
        "status": "i1",
        "intended_s": "f8",
        "admitted_s": "f8",
        "first_token_s": "f8",
        "last_token_s": "f8",
        "prompt_tokens": "i4",
        "n_new": "i4",
        "n_cached": "i4",
        "n_out": "i4",
        "prefilled_tokens": "i4",
        "reused_tokens": "i4",
        "refilled_tokens": "i4",
        "copied_tokens": "i4",
    },
    "sessions": {
        "session": "i4",
        "lane": "i4",
        "status": "i1",
        "start_s": "f8",
        "end_s": "f8",
        "n_turns": "i4",
    },
    # one row: the window W; entered_s, left_s: when the engine began and had nothing left to do;
    # simulated: 1 where the clock is a virtual one
    "window": {
        "start_s": "f8",
        "end_s": "f8",
        "concurrency": "i4",
        "entered_s": "f8",
        "left_s": "f8",
        "simulated": "i1",
    },
}

SINCE_2: Mapping[str, Mapping[str, float]] = {
    "steps": {"submitted_s": np.nan, "wait_s": np.nan},
    "launches": {"n_positions": -1},
    "rows": {"best_logit": np.nan, "second_logit": np.nan},
    "window": {"entered_s": np.nan, "left_s": np.nan, "simulated": -1},
}
"""Columns that chipmark.events/1 does not have, with the value that marks them as unknown."""


def empty_table(name: str, n: int = 0) -> Table:
    """A table of `n` zeroed rows with the columns of `name`."""
    return {column: np.zeros(n, dtype) for column, dtype in COLUMNS[name].items()}


def check_tables(tables: Mapping[str, Table]) -> None:
    """Raise ValueError naming the table and column that is missing, of another type or length."""
    for name, columns in COLUMNS.items():
        if name not in tables:
            raise ValueError(f"events lack the table {name!r}")
        table = tables[name]
        lengths = set()
        for column, dtype in columns.items():
            if column not in table:
                raise ValueError(f"events table {name!r} lacks the column {column!r}")
            if table[column].dtype != np.dtype(dtype):
                raise ValueError(
                    f"events table {name!r}, column {column!r}: {table[column].dtype}, not {dtype}"
                )
            lengths.add(len(table[column]))
        if len(lengths) != 1:
            raise ValueError(f"events table {name!r} has columns of different lengths")


def save_events(path: Path, tables: Mapping[str, Table]) -> None:
    """Write all tables to one `.npz`, keyed `table.column`."""
    check_tables(tables)
    arrays: dict[str, Any] = {
        f"{name}.{column}": tables[name][column]
        for name, columns in COLUMNS.items()
        for column in columns
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)


def load_events(path: Path) -> dict[str, Table]:
    """Read what `save_events` wrote; BrokenRecordError where it is not whole."""
    arrays = read_npz(path, within=path.parent, error=BrokenRecordError)
    tables: dict[str, Table] = {
        name: {c: arrays[f"{name}.{c}"] for c in columns if f"{name}.{c}" in arrays}
        for name, columns in COLUMNS.items()
    }
    try:
        check_tables(tables)
    except ValueError as error:
        raise BrokenRecordError(path, str(error)) from error
    return tables
