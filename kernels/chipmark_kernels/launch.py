"""The one place where a kernel is launched, so that a launch can be recorded instead of run.

The ahead-of-time compiler replays the real launchers on meta tensors and compiles exactly what
they would have launched: the same tile, the same constants, the same alignment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from chipmark_kernels.device import DeviceFacts, facts_of
from chipmark_kernels.tiles import Tile

MAX_GRID = 65_535
"""Largest grid dimension that every vendor's Triton takes (CUDA's limit for y and z)."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One recorded launch. args: run-time arguments in order. constants: constexprs by name."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: Mapping[str, Any]
    tile: Tile

    @property
    def options(self) -> dict[str, Any]:
        """What Triton's launcher and its compiler are given with arguments and constants; the key
        of a compiled kernel holds them."""
        return launch_options(self.tile, self.constants)


_recorder: ContextVar[list[Launch] | None] = ContextVar("recorder", default=None)
_assumed: ContextVar[DeviceFacts | None] = ContextVar("assumed", default=None)


@contextmanager
def recording(device: DeviceFacts) -> Iterator[list[Launch]]:
    """Collect launches instead of running them, with tiles chosen for `device`."""
    launches: list[Launch] = []
    recorder, assumed = _recorder.set(launches), _assumed.set(device)
    try:
        yield launches
    finally:
        _recorder.reset(recorder)
        _assumed.reset(assumed)


def device_facts(tensor: torch.Tensor) -> DeviceFacts:
    """Facts of the device that `tensor` lies on, or of the one being recorded for."""
    assumed = _assumed.get()
    return facts_of(tensor.device) if assumed is None else assumed


def launch_options(tile: Tile, constants: Mapping[str, Any]) -> dict[str, Any]:
    """Warps and stages of the tile; and programmatic dependent launch for a kernel whose constant
    `PDL` is true, which then waits by itself for the launch before it.

    One constant decides both, for a kernel that does not wait must never start early. The option is
    left out elsewhere: versions of Triton before 3.4 do not know it.
    """
    options: dict[str, Any] = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    if constants.get("PDL"):
        options["launch_pdl"] = True
    return options


def launch(kernel: Any, grid: tuple[int, ...], tile: Tile, *args: Any, **constants: Any) -> None:
    """Launch `kernel` on `grid` by `launch_options`; a grid with a 0 does nothing.

    Raises ValueError where a grid dimension is over MAX_GRID.
    """
    if max(grid) > MAX_GRID:
        raise ValueError(f"{kernel.__name__}: grid {grid} is over {MAX_GRID} in a dimension")
    if min(grid) == 0:
        return
    recorder = _recorder.get()
    if recorder is not None:
        recorder.append(Launch(kernel, grid, args, constants, tile))
        return
    kernel[grid](*args, **constants, **launch_options(tile, constants))
