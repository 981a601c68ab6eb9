"""Greedy sampling on the host, from the logits that a session left there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chipmark.engine.contract import F32, I32


def sample(logits: npt.NDArray[np.float32]) -> tuple[I32, F32]:
    """Ids (n,) of the largest logits of (n, vocab), and the two largest of each row (n, 2).

    The rows are as they were on return; each is written once in between, since a maximum of the
    whole row but one place costs a thirtieth of a partition.
    """
    ids = logits.argmax(axis=1)
    best = np.empty((len(ids), 2), np.float32)
    for row, (values, at) in enumerate(zip(logits, ids.tolist(), strict=True)):
        largest = values[at]
        values[at] = -np.inf
        best[row] = largest, values.max()
        values[at] = largest
    return ids.astype(np.int32), best
