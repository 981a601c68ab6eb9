"""Synthetic weights made on the device that computes with them, bit for bit those of the host.

The host takes 10 ns a weight and thread, and the bus after it: a minute for eight billion. Before a
device's weights are used some are compared with the host's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from chipmark_kernels.formats import E4M3_MAX
from chipmark_kernels.reference.philox_weights import philox_weights_reference
from chipmark_models.plain_text import one_line
from chipmark_models.precision import PLAIN, group_of, precision_named
from chipmark_models.weights.plain import round_to
from chipmark_models.weights.prepared import ComputedWeights, PrecisionWeights, WeightSpec, open_any
from chipmark_models.weights.quantise import QuantisedTensor
from chipmark_models.weights.source import WeightRef
from chipmark_models.weights.synthetic import SyntheticWeights

Maker = Callable[[torch.Tensor, int, int], torch.Tensor]
"""`philox_weights`, by a kernel or by torch: (table, key, weights) -> values."""

_CHECKED = 1 << 22
"""Weights of a tensor that is compared with the host's, at most: table and head take seconds."""

_TOP = {"w8": 127.0, "w4": 7.0}
_LEAST_SCALE = 2.0**-126
_REASON = 200


class DeviceMadeWeights(ComputedWeights):
    """Weights of a synthetic model; `made` and `packed` give tensors that lie on the device.

    All else is the host's, so that hashes are the same.
    """

    def __init__(
        self, source: SyntheticWeights, precision: str, device: torch.device, make: Maker
    ) -> None:
        super().__init__(source, precision)
        self._rule, self._device, self._make = source, device, make

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._rule.shape(name)

    def made(self, name: str) -> torch.Tensor:
        """A tensor that is not quantised, on the device in its stored type."""
        return self._tensor(name, self.stored_as(name))

    def packed(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Packed values and scales of a quantised matrix on the device, in the types and by the
        rule of `weights.quantise`: correctly rounded operations, so that the bits are the same."""
        stored = self.stored_as(name)
        wide = self._tensor(name, "fp32")
        group = group_of(stored, wide.shape[1])
        assert group is not None
        return _quantised(wide.view(wide.shape[0], -1, group), stored)

    def _tensor(self, name: str, stored: str) -> torch.Tensor:
        table = torch.from_numpy(round_to(self._rule.values(name), stored).view(_BITS[stored]))
        table = table.view(_TORCH[stored]).to(self._device)
        shape = self._rule.shape(name)
        return self._make(table, self._rule.key(name), math.prod(shape)).view(shape)


_BITS = {"fp32": "f4", "bf16": "i2", "fp16": "f2"}
_TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _quantised(grouped: torch.Tensor, stored: str) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (n, groups, group) by `weights.quantise.quantise`."""
    most = grouped.abs().amax(-1)
    top = E4M3_MAX if stored == "fp8" else _TOP[stored]
    # By a tensor: CUDA divides by a number of the host by multiplying with its reciprocal, which is
    # not rounded correctly (aten/src/ATen/native/cuda/BinaryDivTrueKernel.cu).
    scales = torch.where(
        most > 0, (most / torch.full_like(most, top)).clamp(min=_LEAST_SCALE), 1.0
    ).bfloat16()
    scaled = grouped / scales.float()[:, :, None]
    if stored == "fp8":
        codes = scaled.clamp(-top, top).to(torch.float8_e4m3fn)
        return codes.flatten(1), scales.float()[:, 0].contiguous()
    whole = scaled.round_().clamp_(-top, top)
    if stored == "w8":
        return whole.to(torch.int8).flatten(1), scales
    codes = (whole + 8).to(torch.uint8)
    half = codes.shape[-1] // 2
    return (codes[..., :half] | (codes[..., half:] << 4)).flatten(1), scales


def open_on(spec: WeightSpec, device: torch.device) -> tuple[PrecisionWeights, str]:
    """The weights of a spec, made on the device where they are synthetic and it is a CUDA device;
    and why the host makes them although they are and it is, or "".

    A prepared file of synthetic weights holds the same bits and is not read then.
    """
    if spec.ref.kind != "synthetic" or device.type != "cuda":
        return open_any(spec), ""
    weights = made_on(spec.ref, spec.precision, device, maker_for(device))
    reason = difference(weights)
    return (open_any(spec), reason) if reason else (weights, "")


def maker_for(device: torch.device) -> Maker:
    """The kernel on a CUDA device, torch elsewhere."""
    if device.type != "cuda":
        return philox_weights_reference
    from chipmark_kernels.philox_weights import philox_weights

    return philox_weights


def made_on(ref: WeightRef, precision: str, device: torch.device, make: Maker) -> DeviceMadeWeights:
    """The synthetic model of `ref`, made by `make`."""
    from chipmark_models.weights.open import open_weights

    source = open_weights(ref)
    assert isinstance(source, SyntheticWeights)
    return DeviceMadeWeights(source, precision, device, make)


def difference(weights: DeviceMadeWeights) -> str:
    """What differs from the host's bits, or why nothing can be made; "" where all is the same.

    One tensor of each kind that is stored (a vector, a plain and a quantised matrix) that has
    one of at most _CHECKED weights.
    """
    for name in _examples(weights):
        try:
            same = _same(weights, name)
        except Exception as error:  # a compiler or a driver may raise anything
            return one_line(f"{name}: {type(error).__name__}: {error}", _REASON)
        if not same:
            return f"{name} has other bits than the host's"
    return ""


def _examples(weights: DeviceMadeWeights) -> list[str]:
    """The smallest tensor of each kind, by number of dimensions and storage."""
    found: dict[tuple[int, str], str] = {}
    sizes = {name: math.prod(weights.shape(name)) for name in weights.names()}
    for name in sorted(sizes, key=lambda n: sizes[n]):
        found.setdefault((len(weights.shape(name)), weights.stored_as(name)), name)
    return [name for name in found.values() if sizes[name] <= _CHECKED]


def _same(weights: DeviceMadeWeights, name: str) -> bool:
    if precision_named(weights.stored_as(name)).quantised:
        expected: QuantisedTensor = weights.quantised(name)
        mine = [part.cpu().view(torch.uint8).numpy().tobytes() for part in weights.packed(name)]
        return mine == [expected.packed.tobytes(), expected.scales.tobytes()]
    assert weights.stored_as(name) in PLAIN
    mine_plain = weights.made(name).cpu().view(torch.uint8).numpy().tobytes()
    return mine_plain == weights.tensor(name).tobytes()
