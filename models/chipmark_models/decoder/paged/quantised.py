"""Quantised matrices on a device, fused like the plain ones: q, k, v and gate, up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from chipmark_models.decoder.device_made import DeviceMadeWeights
from chipmark_models.precision import group_of
from chipmark_models.weights.prepared import PrecisionWeights
from chipmark_models.weights.quantise import QuantisedTensor, fuse

_PACKED = {"w8": torch.int8, "w4": torch.uint8, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True, slots=True)
class QuantisedMatrix:
    """A matrix (n, k) as `weight_only`, `skinny_gemm` and `fp8_gemm` of the kernels take it."""

    precision: str
    """w8, w4 or fp8."""

    packed: torch.Tensor
    """int8 (n, k) for w8, uint8 (n, k / 2) for w4, float8_e4m3fn (n, k) for fp8."""

    scales: torch.Tensor
    """bfloat16 (n, k / group) for w8 and w4, float32 (n,) for fp8."""

    group: int
    """Weights of a row that share a scale."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k) of the matrix that it stands for."""
        n, width = self.packed.shape
        return n, 2 * width if self.precision == "w4" else width

    @property
    def n_bytes(self) -> int:
        """Bytes on the device, scales included."""
        return sum(t.numel() * t.element_size() for t in (self.packed, self.scales))


def pair_rows(n_rows: int, n_heads: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order that turns rows (head, pair, side) into (head, side, pair), see `split_pairs`."""
    order = np.arange(n_rows).reshape(n_heads, -1, 2)
    return order.swapaxes(1, 2).reshape(-1)


def on_device(tensor: QuantisedTensor, device: torch.device) -> QuantisedMatrix:
    """The arrays as torch tensors of their own types, copied to the device."""
    packed, scales = (
        torch.from_numpy(np.array(array, order="C"))  # a copy: a mapped file is read-only
        for array in (tensor.packed.view(_bytes(tensor)), tensor.scales.view(_scale_bits(tensor)))
    )
    if tensor.precision != "fp8":
        scales = scales.view(torch.bfloat16)
    packed = packed.view(_PACKED[tensor.precision])
    return QuantisedMatrix(tensor.precision, packed.to(device), scales.to(device), tensor.group)


def _bytes(tensor: QuantisedTensor) -> type[np.generic]:
    return np.int8 if tensor.precision == "w8" else np.uint8


def _scale_bits(tensor: QuantisedTensor) -> type[np.generic]:
    return np.float32 if tensor.precision == "fp8" else np.int16


def load_fused(
    weights: PrecisionWeights,
    names: Sequence[str],
    device: torch.device,
    pair_heads: Sequence[int] = (),
) -> QuantisedMatrix:
    """Quantised matrices of `weights` as one on the device, rows one after another.

    pair_heads: heads of each matrix whose rows are interleaved pairs to be split, 0 for none
    (as `reading.split_pairs`). BadInputError for a tensor that is not quantised.
    """
    heads = pair_heads or (0,) * len(names)
    if isinstance(weights, DeviceMadeWeights):
        return _made_fused(weights, names, heads)
    parts = []
    for name, n_heads in zip(names, heads, strict=True):
        part = weights.quantised(name)
        parts.append(part.rows(pair_rows(part.shape[0], n_heads)) if n_heads else part)
    return on_device(parts[0] if len(parts) == 1 else fuse(parts), device)


def _made_fused(
    weights: DeviceMadeWeights, names: Sequence[str], heads: Sequence[int]
) -> QuantisedMatrix:
    packed, scales = [], []
    for name, n_heads in zip(names, heads, strict=True):
        pair = weights.packed(name)
        if n_heads:
            order = torch.from_numpy(pair_rows(pair[0].shape[0], n_heads)).to(pair[0].device)
            # e4m3 has no indexing of its own on every device; a byte has.
            pair = (pair[0].view(torch.uint8)[order].view(pair[0].dtype), pair[1][order])
        packed.append(pair[0])
        scales.append(pair[1])
    stored = weights.stored_as(names[0])
    whole = torch.cat([part.view(torch.uint8) for part in packed]).view(packed[0].dtype)
    group = group_of(stored, weights.shape(names[0])[1])
    assert group is not None
    return QuantisedMatrix(stored, whole, torch.cat(scales), group)
