"""What is measured: one kernel at one shape, with its reference and its peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from chipmark_kernels.manifest import ModelShape
from chipmark_kernels.parity import Parity
from chipmark_kernels.tiles import Tile

Inputs = tuple[Any, ...]
Call = Callable[..., Any]
TINY = ModelShape("tiny", 512, 128, 256, 6, 2, 16)


@dataclass(frozen=True, slots=True)
class PreparedPeer:
    """A peer that takes other inputs than the kernel; `prepare` is done before the clock starts."""

    prepare: Callable[[Inputs], Inputs]
    call: Call


Peer = Call | PreparedPeer


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one shape. make(rng, device, dtype): its inputs; ours, reference and peers take
    them. bytes: necessary bytes of a call; flops: necessary products and sums; bound: which roof,
    memory, matrix (of `rate`: bf16 or fp8) or latency. kernel: the launcher's name. name: sizes as
    `key=value`, which targets.toml speaks of.
    oracle: the float64 reference where the widened inputs alone do not make `reference` one.
    check(inputs, results): parity by another rule than `parity.compare`'s. again(inputs, rng): one
    more copy of the inputs, where it may share what a call reads a small part of.
    tiled(tile): ours by another tile than the chosen one; tile_shape: the sizes by which
    `tiles.choose` finds that.
    """

    kernel: str
    name: str
    make: Callable[[torch.Generator, torch.device, torch.dtype], Inputs]
    ours: Call
    reference: Call
    bytes: int
    flops: int = 0
    bound: str = "memory"
    peers: Mapping[str, Peer] = field(default_factory=dict)
    oracle: Call | None = None
    rate: str = "bf16"
    check: Callable[[Inputs, list[torch.Tensor]], Sequence[Parity]] | None = None
    again: Callable[[Inputs, torch.Generator], Inputs] | None = None
    tiled: Callable[[Tile], Call] | None = None
    tile_shape: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> dict[str, int]:
        """The sizes in the name."""
        pairs = (part.split("=") for part in self.name.split() if "=" in part)
        return {key: int(value) for key, value in pairs if value.isdigit()}

    @property
    def swiglu(self) -> bool:
        """Whether a product ends with SwiGLU, as its name says."""
        return "swiglu" in self.name.split()


def random(
    rng: torch.Generator, device: torch.device, dtype: torch.dtype, *shape: int, scale: float = 1.0
) -> torch.Tensor:
    """Normal values, made on the generator's device."""
    return (torch.randn(*shape, generator=rng, device=rng.device) * scale).to(device, dtype)
