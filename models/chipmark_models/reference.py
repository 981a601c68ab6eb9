"""Reference logits in a file, to be carried to a machine that could not compute them.

An .npz with the token ids, the positions, the logits, and the hashes that tie them to weights
and tokens. Needs numpy only.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_models.errors import BadInputError

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Reference:
    """Logits of an oracle: `logits[i]` float32 (len(positions[i]), vocab) for `tokens[i]`.

    `weights_hash` is the precision hash of the weights they were computed with, `precision` that
    precision, `tokens_hash` the sha256 of tokens and positions.
    """

    weights_hash: str
    precision: str
    tokens: tuple[npt.NDArray[np.int64], ...]
    positions: tuple[npt.NDArray[np.int64], ...]
    logits: tuple[npt.NDArray[np.float32], ...]

    @property
    def tokens_hash(self) -> str:
        """sha256 over all token ids and positions with their lengths."""
        return hash_tokens(self.tokens, self.positions)


def hash_tokens(
    tokens: Sequence[npt.NDArray[np.integer[Any]]],
    positions: Sequence[npt.NDArray[np.integer[Any]]],
) -> str:
    """sha256 over the sequences of token ids and the positions asked for."""
    digest = hashlib.sha256()
    for ids, at in zip(tokens, positions, strict=True):
        digest.update(f"{len(ids)} {len(at)}\n".encode())
        digest.update(np.ascontiguousarray(ids, "<i8").data)
        digest.update(np.ascontiguousarray(at, "<i8").data)
    return digest.hexdigest()


def save_reference(path: str | os.PathLike[str], reference: Reference) -> None:
    """Write whole or not at all (a rename at the end); OSError where the folder is not writable."""
    arrays: dict[str, Any] = {
        "version": np.int64(_VERSION),
        "weights_hash": np.str_(reference.weights_hash),
        "precision": np.str_(reference.precision),
        "tokens_hash": np.str_(reference.tokens_hash),
        "n": np.int64(len(reference.tokens)),
    }
    for i, (ids, at, logits) in enumerate(
        zip(reference.tokens, reference.positions, reference.logits, strict=True)
    ):
        arrays |= {f"tokens_{i}": ids, f"positions_{i}": at, f"logits_{i}": logits}
    target = Path(path)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as file:
        try:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def load_reference(path: str | os.PathLike[str], weights_hash: str | None = None) -> Reference:
    """Read and check a reference; nothing is unpickled.

    Raises BadInputError for a broken file, tokens that do not match their hash, or logits of
    other weights than `weights_hash`.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as data:
            if int(data["version"]) != _VERSION:
                raise BadInputError(path, f"is not {_VERSION}", field="version")
            n = int(data["n"])
            reference = Reference(
                str(data["weights_hash"]),
                str(data["precision"]),
                tuple(data[f"tokens_{i}"] for i in range(n)),
                tuple(data[f"positions_{i}"] for i in range(n)),
                tuple(data[f"logits_{i}"] for i in range(n)),
            )
            stored = str(data["tokens_hash"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise BadInputError(path, f"is no reference of logits: {exc}") from exc
    if stored != reference.tokens_hash:
        raise BadInputError(path, "the tokens do not match their hash", field="tokens_hash")
    for i, logits in enumerate(reference.logits):
        if logits.ndim != 2 or len(logits) != len(reference.positions[i]):
            raise BadInputError(path, f"has shape {logits.shape}", field=f"logits_{i}")
    if weights_hash is not None and weights_hash != reference.weights_hash:
        raise BadInputError(path, "are of other weights than the run's", field="weights_hash")
    return reference
