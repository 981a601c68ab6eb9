"""Files of logits, and the distance between two of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chipmark.errors import BadInputError
from chipmark_models.files import whole_file
from chipmark_models.foreign_arrays import cast_columns, parse_npz
from chipmark_models.foreign_file import MIB, decode, read_bytes

LOGITS_BYTES = 2048 * MIB
"""Most bytes of a file of logits: three thousand positions of the largest vocabularies."""


@dataclass(frozen=True, slots=True)
class LogitRows:
    """Logits by row: `keys` int32 (n, 3) are session, turn and position; `logits` (n, vocab)."""

    keys: NDArray[np.int32]
    logits: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Distance:
    """How far measured logits are from the oracle's; worst position unless said otherwise.

    rms_rel: rms of the difference over rms of the oracle's centred logits. max_rel: largest
    difference over the same. kl: of oracle to measured, nats. top1: share of positions with the
    oracle's first token, of those whose margin over the second exceeds the tolerance times that
    rms (None where no margin does). positions: rows compared. missing: rows of the oracle that
    were not measured.
    """

    rms_rel: float
    max_rel: float
    kl: float
    top1: float | None
    positions: int
    missing: int

    def passes(self, tolerance: float) -> bool:
        """Within the tolerance at every position, and every row there."""
        return self.missing == 0 and self.positions > 0 and self.rms_rel <= tolerance


def load_logits(path: str | os.PathLike[str]) -> LogitRows:
    """Read `rows` and `logits` of an `.npz`; BadInputError where they are not whole."""
    return parse_logits(path, read_bytes(path, LOGITS_BYTES))[0]


def parse_logits(path: str | os.PathLike[str], content: bytes) -> tuple[LogitRows, str]:
    """Rows and head out of the bytes of such a file, so that what was hashed is what is used."""
    arrays = parse_npz(content, path)
    head = decode(arrays.pop("head").tobytes(), path) if "head" in arrays else ""
    found = cast_columns(arrays, {"rows": np.int32, "logits": np.float32}, path)
    keys, logits = found["rows"], found["logits"]
    if keys.ndim != 2 or keys.shape[1] != 3 or logits.ndim != 2 or len(keys) != len(logits):
        raise BadInputError(path, f"has rows {keys.shape} and logits {logits.shape}")
    return LogitRows(keys, logits), head


def save_logits(path: str | os.PathLike[str], rows: LogitRows, head: str = "") -> None:
    """Write `rows` and `logits` to an `.npz`, whole or not at all. head: a text that says what
    they are of."""
    target = Path(path)
    with whole_file(target) as partial, partial.open("wb") as file:
        text = np.frombuffer(head.encode(), np.uint8)
        np.savez(file, rows=rows.keys, logits=rows.logits, head=text)


def distance(oracle: LogitRows, measured: LogitRows, tolerance: float) -> Distance:
    """Compare row by row; a row that is not finite is infinitely far."""
    where = {tuple(key): i for i, key in enumerate(measured.keys.tolist())}
    pairs = [
        (i, where[tuple(key)]) for i, key in enumerate(oracle.keys.tolist()) if tuple(key) in where
    ]
    missing = len(oracle.keys) - len(pairs)
    if not pairs or oracle.logits.shape[1] != measured.logits.shape[1]:
        return Distance(np.inf, np.inf, np.inf, None, 0, missing)
    left = oracle.logits[[i for i, _ in pairs]].astype(np.float64)
    right = measured.logits[[j for _, j in pairs]].astype(np.float64)
    if not np.isfinite(right).all():
        return Distance(np.inf, np.inf, np.inf, None, len(pairs), missing)
    scale = centred_rms(left)
    error = np.abs(right - left)
    log_p, log_q = _log_softmax(left), _log_softmax(right)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(1)
    ordered = np.partition(left, -2, axis=1)
    clear = (ordered[:, -1] - ordered[:, -2]) / scale > tolerance
    same = left.argmax(1) == right.argmax(1)
    return Distance(
        rms_rel=float((np.sqrt((error**2).mean(1)) / scale).max()),
        max_rel=float((error.max(1) / scale).max()),
        kl=float(max(0.0, kl.max())),
        top1=float(same[clear].mean()) if clear.any() else None,
        positions=len(pairs),
        missing=missing,
    )


def select(rows: LogitRows, keys: NDArray[np.int32]) -> NDArray[np.float32]:
    """Logits at these places, in their order; KeyError for a place that is not there."""
    where = {tuple(key): i for i, key in enumerate(rows.keys.tolist())}
    return rows.logits[[where[tuple(key)] for key in keys.tolist()]]


def centred_rms(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """rms of each row less its mean: the unit of every distance here. Never 0."""
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a backend may give infinite logits
        scale = (wide - wide.mean(1, keepdims=True)).std(1)
    return np.where(scale > 0, scale, np.finfo(np.float32).tiny)


def rms_rel_of_rows(
    oracle: LogitRows, measured: LogitRows, keys: NDArray[np.int32]
) -> NDArray[np.float32]:
    """`Distance.rms_rel` of each of these places, infinite where a row is not finite; KeyError for
    a place that either does not have. A few rows at once, for large vocabularies."""
    parts = [np.zeros(0, np.float32)]
    for at in range(0, len(keys), _STEP):
        left, right = (select(rows, keys[at : at + _STEP]) for rows in (oracle, measured))
        error = np.sqrt(((right.astype(np.float64) - left) ** 2).mean(1)) / centred_rms(left)
        parts.append(np.where(np.isfinite(right).all(1), error, np.inf).astype(np.float32))
    return np.concatenate(parts)


def median_rms_rel(oracle: LogitRows, measured: LogitRows, keys: NDArray[np.int32]) -> float:
    """The median of `rms_rel_of_rows`."""
    return float(np.median(rms_rel_of_rows(oracle, measured, keys)))


_STEP = 16  # rows at once: vocabularies are large, and the statistics are taken in float64


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """Of each row of logits: the first id (n,), the two largest logits (n, 2), and `centred_rms`
    (n,)."""

    id: NDArray[np.int32]
    top2: NDArray[np.float32]
    scale: NDArray[np.float32]


def row_statistics(logits: NDArray[np.float32]) -> RowStatistics:
    """The statistics of every row, a few rows at once."""
    parts = [logits[at : at + _STEP] for at in range(0, len(logits), _STEP)]
    top = [np.sort(np.partition(part, -2, axis=1)[:, -2:], axis=1)[:, ::-1] for part in parts]
    empty = np.zeros((0, 2), np.float32)
    return RowStatistics(
        logits.argmax(1).astype(np.int32),
        np.concatenate([empty, *top]).astype(np.float32),
        np.concatenate([empty[:, 0], *map(centred_rms, parts)]).astype(np.float32),
    )


def _log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = values - values.max(1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
