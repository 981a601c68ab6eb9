"""Device time of a call in the regime of use: inside a CUDA graph, its inputs cold in the L2."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

HEAD_START_CYCLES = 4_000_000
"""About 2 ms at a GPU's clock; a graph of `rotation.MOST_COPIES` nodes is launched in less
(unverified)."""


class Device(Protocol):
    """What timing needs of a device; tests have a fake one."""

    l2_bytes: int

    def capture(self, calls: Sequence[Callable[[], Any]]) -> Callable[[], float]:
        """Record the calls, in order; the result plays them once and returns seconds."""


class CudaDevice:
    """The current CUDA device."""

    def __init__(self) -> None:
        self.l2_bytes = int(torch.cuda.get_device_properties().L2_cache_size)

    def capture(self, calls: Sequence[Callable[[], Any]]) -> Callable[[], float]:
        """Warm up outside, record into one graph, and time a replay by events.

        A spin goes first: the device reads the start event when the graph is queued already, so
        what the host needs to launch a thousand nodes is not in the time.
        """
        cuda: Any = torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for call in (calls[0], calls[0], *calls):
                call()
        cuda.current_stream().wait_stream(side)
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            kept = [call() for call in calls]

        def play() -> float:
            start, end = (cuda.Event(enable_timing=True) for _ in range(2))
            cuda._sleep(HEAD_START_CYCLES)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            assert kept is not None  # the results' memory belongs to the graph
            return float(start.elapsed_time(end)) / 1e3

        return play


@dataclass(frozen=True, slots=True)
class Timed:
    """Raw seconds a call, a value for each replay; `copies` inputs were rotated over."""

    samples_s: tuple[float, ...]
    copies: int

    @property
    def median_s(self) -> float:
        """Median of the samples, seconds."""
        return statistics.median(self.samples_s)


def measure(
    device: Device,
    call: Callable[..., Any],
    copies: Sequence[Sequence[Any]],
    *,
    repeats: int = 20,
) -> Timed:
    """Time `call(*inputs)` over the rotating copies; the first replay warms up and is left out."""
    play = device.capture([partial(call, *inputs) for inputs in copies])
    play()
    samples = tuple(play() / len(copies) for _ in range(repeats))
    return Timed(samples, len(copies))
