"""Tensors as both decoders read them: in torch's types, rotary pairs as halves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from chipmark_models.decoder.device_made import DeviceMadeWeights
from chipmark_models.weights.plain import STORED_DTYPE, StoredArray
from chipmark_models.weights.prepared import PrecisionWeights, PreparedWeights

DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""torch's type of each plain precision."""


def read_tensor(weights: PrecisionWeights, name: str) -> torch.Tensor:
    """A tensor that is not quantised, in its stored type, writable and its own memory: on the host,
    or on the device that makes it.

    A prepared file is read, not mapped: mapped pages would count as resident with the copy.
    """
    if isinstance(weights, DeviceMadeWeights):
        return weights.made(name)
    stored = weights.stored_as(name)
    if isinstance(weights, PreparedWeights) and stored in STORED_DTYPE:
        dtype = np.dtype(STORED_DTYPE[stored])
        array: StoredArray = np.fromfile(
            weights.path,
            dtype,
            count=weights.n_bytes(name) // dtype.itemsize,
            offset=weights.offset(name),
        ).reshape(weights.tensor(name).shape)
    else:
        array = np.ascontiguousarray(weights.tensor(name))
    if not array.flags.writeable:
        array = array.copy()
    if stored == "bf16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def split_pairs(rows: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Rows (head, pair, side) of a projection, its bias or a head norm as (head, side, pair)."""
    half = rows.shape[0] // n_heads // 2
    split = rows.view(n_heads, half, 2, *rows.shape[1:])
    return split.transpose(1, 2).reshape(rows.shape)
