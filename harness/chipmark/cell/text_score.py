"""How likely a text is to weights: computed by the oracle's process, or found in the cache.

A score is cached token by token next to the reference logits. It is believed as they are: only
after the oracle has scored one of the text's parts, drawn at random, again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chipmark.cell.oracle_process import TokenNll
from chipmark.cell.reference import References, Weights, oracle_code
from chipmark.errors import BadInputError
from chipmark_models.files import whole_file
from chipmark_models.foreign_arrays import parse_npz
from chipmark_models.foreign_file import MIB, read_bytes
from chipmark_models.quality_text import TextScore, TokenIds, save_numbered

SCHEMA = "chipmark.token_nll/1"
CACHED_NATS = 1e-3
"""How far the mean of a part's tokens may be from the oracle's again: 0.1 % of perplexity. Sums of
fp32 on another number of threads differ by a thousandth of it, rounded activations by a tenth."""

_FILE_BYTES = 64 * MIB


def text_score(
    references: References, weights: Weights, sequences: Sequence[TokenIds], rounded: str = ""
) -> TextScore:
    """The likelihood of token sequences under these weights, with activations rounded so.

    Once a run and cache, whatever the number of cells that ask. CellFailedError where the oracle's
    process fails.
    """
    head = _head(weights, sequences, rounded)
    if head not in references.scores:
        references.scores[head] = _found(references, weights, sequences, rounded, head)
    return references.scores[head]


def score_file(folder: Path, head: str) -> Path:
    """The place of a score in the cache's folder of references."""
    return folder / f"{hashlib.sha256(head.encode()).hexdigest()[:32]}-nll.npz"


def _head(weights: Weights, sequences: Sequence[TokenIds], rounded: str) -> str:
    """What makes two scores the same, as one line of JSON."""
    digest = hashlib.sha256()
    for ids in sequences:
        digest.update(len(ids).to_bytes(8, "little") + ids.astype("<i4").tobytes())
    parts = [SCHEMA, weights.source_hash, weights.stored, rounded, digest.hexdigest()]
    return json.dumps([*parts, oracle_code()])


def _found(
    references: References,
    weights: Weights,
    sequences: Sequence[TokenIds],
    rounded: str,
    head: str,
) -> TextScore:
    path = score_file(references.folder, head)
    oracle = references.oracle(weights)
    if path.is_file():
        part = secrets.randbelow(len(sequences))
        again = oracle.token_nll([sequences[part]], rounded)[0]
        stored = _stored(path, [len(ids) - 1 for ids in sequences])
        if stored and abs(float(stored[part].mean() - again.mean())) <= CACHED_NATS:
            return _score(stored, cached=True)
        references.remarks.append(f"{path} is not what the oracle computes; computed anew")
    computed = oracle.token_nll(sequences, rounded)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        save_numbered(partial, computed)
    return _score(computed, cached=False)


def _stored(path: Path, counts: Sequence[int]) -> list[TokenNll]:
    """The arrays of a cached score; none where it is not one of these counts."""
    try:
        arrays = parse_npz(read_bytes(path, _FILE_BYTES), path)
    except BadInputError:
        return []
    found = [arrays.get(str(i)) for i in range(len(counts))]
    whole = [
        nll
        for nll, count in zip(found, counts, strict=True)
        if nll is not None and nll.dtype == np.float64 and nll.shape == (count,)
    ]
    return whole if len(whole) == len(counts) else []


def _score(parts: Sequence[TokenNll], *, cached: bool) -> TextScore:
    nll = float(sum(part.sum() for part in parts))
    return TextScore(nll, sum(map(len, parts)), cached)
