"""Queueing work on a device, copying to and from it, and marking its time: CUDA's, or the CPU's.

The CPU's serves tests: a call computes at once, a mark is the host's time, and what is
captured is called again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from chipmark.engine.contract import I32
from chipmark.log import logger_of

_LOG = logger_of(__name__)

Call = Callable[[], tuple[torch.Tensor, ...]]
Mark = Any
"""A point in the device's work; only the stream that made it reads it."""


class LaunchStream(Protocol):
    """One queue of work, in order."""

    def mark(self) -> Mark:
        """A mark behind everything queued so far."""
        ...

    def seconds(self, first: Mark, last: Mark) -> float:
        """Device time between two marks that were both reached."""
        ...

    def wait(self, mark: Mark) -> None:
        """Return when the device has reached the mark."""
        ...

    def upload(self, values: I32, target: torch.Tensor) -> None:
        """Queue a copy of int32 values into as many of the target's; `values` may change then."""
        ...

    def download(self, source: torch.Tensor) -> torch.Tensor:
        """Queue a copy to the host; it holds once a later mark was waited for."""
        ...

    def capture(self, call: Call, *, kept: bool) -> Call:
        """The same work as one launch, if the device can; its results are overwritten each time.

        kept: it lives as long as the stream and shares memory with others that do; one that is
        tried and dropped has memory of its own.
        """
        ...


class HostStream:
    """The CPU."""

    def mark(self) -> float:
        """The host's time."""
        return time.perf_counter()

    def seconds(self, first: float, last: float) -> float:
        """Wall time between the marks."""
        return last - first

    def wait(self, mark: float) -> None:
        """All is done where it was called."""

    def upload(self, values: I32, target: torch.Tensor) -> None:
        """Copy."""
        target.copy_(torch.from_numpy(values))

    def download(self, source: torch.Tensor) -> torch.Tensor:
        """Copy."""
        return source.clone()

    def capture(self, call: Call, *, kept: bool) -> Call:
        """The call itself."""
        return call


class CudaStream:
    """The current stream of a CUDA device; captured work is a CUDA graph."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side: torch.cuda.Stream | None = None
        self._kept: list[torch.cuda.CUDAGraph] = []
        self._failed: list[torch.cuda.CUDAGraph] = []

    def mark(self) -> torch.cuda.Event:
        """An event that keeps its time."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds(self, first: torch.cuda.Event, last: torch.cuda.Event) -> float:
        """By the device's own counter, which resolves half a microsecond."""
        return float(first.elapsed_time(last)) / 1e3

    def wait(self, mark: torch.cuda.Event) -> None:
        """Block until the event was reached."""
        mark.synchronize()

    def upload(self, values: I32, target: torch.Tensor) -> None:
        """By pinned memory that torch keeps until the copy is done."""
        pinned = torch.empty(values.size, dtype=torch.int32, pin_memory=True)
        pinned.numpy()[:] = values
        target.copy_(pinned, non_blocking=True)

    def download(self, source: torch.Tensor) -> torch.Tensor:
        """Into pinned memory."""
        pinned = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        return pinned.copy_(source, non_blocking=True)

    def capture(self, call: Call, *, kept: bool) -> Call:
        """Warm on a side stream, as capturing demands, then record.

        The side stream is always the same: cuBLAS takes a workspace (32 MiB on Hopper) for each
        stream that it multiplies on, and torch keeps it.

        Kept graphs share one pool of memory, which the first of them holds open: torch refuses a
        capture into a pool whose graphs are all gone while a block of it is alive, and the
        workspace that cuBLAS takes during a capture stays alive (torch 2.11 and before).

        Raises what `call` raises, or the driver at the end of the capture; the next one is then as
        if this had not been.
        """
        if self._side is None:
            self._side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side = self._side
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(2):
                call()
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(side)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        shared = kept and bool(self._kept)
        pool = self._kept[0].pool() if shared else torch.cuda.graph_pool_handle()
        try:
            # Torch does not leave the stream of a capture that the driver ends with an error.
            with torch.cuda.stream(current), torch.cuda.graph(graph, pool=pool):
                results = call()
        except Exception:
            self._end_capture(graph, pool)
            raise
        if kept:
            self._kept.append(graph)

        def replay() -> tuple[torch.Tensor, ...]:
            graph.replay()
            return results

        return replay

    def _end_capture(self, graph: torch.cuda.CUDAGraph, pool: Any) -> None:
        """End a failed capture for torch's allocator.

        Where the driver ends one with an error, torch 2.11 and before does not (pytorch pull
        request 180395), and every later capture and `empty_cache` is an internal error.
        """
        index = self._device.index
        device = torch.cuda.current_device() if index is None else index
        try:
            torch._C._cuda_endAllocateToPool(device, pool)
        except RuntimeError as error:  # it has ended
            _LOG.debug("a capture failed, its memory at rest: %s", error)
            return
        torch._C._cuda_releasePool(device, pool)
        # The allocator of pinned memory has no such call and keeps a pointer to it.
        self._failed.append(graph)


def stream_of(device: torch.device) -> LaunchStream:
    """The stream of a device."""
    return HostStream() if device.type == "cpu" else CudaStream(device)
