"""What a node of a CUDA graph costs by itself: empty kernels, with and without dependent launch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

MANY, FEW = 1_000, 500
"""Nodes of two graphs: the difference of their times has no share of the launch itself."""

LAUNCH_NODES = 256
"""About what a decode step of qwen3-8b has."""


@triton.jit  # type: ignore[untyped-decorator]
def _empty_kernel(out_ptr, PDL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Reads and writes nothing that counts; one CTA of one warp."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    tl.store(out_ptr + tl.program_id(0), 1)


class Graph(Protocol):
    """What is launched; a CUDA graph or a fake."""

    def replay(self) -> None:
        """Launch it; do not wait."""


class Device(Protocol):
    """As `kernel_bench.timing.Device`, in part."""

    def capture(self, calls: list[Callable[[], Any]]) -> Callable[[], float]:
        """Record the calls; the result plays them and returns seconds."""


@dataclass(frozen=True, slots=True)
class LaunchCost:
    """Seconds, medians. host_s: until the launch is handed over. until_done_s: until the host sees
    the end of it."""

    host_s: float
    until_done_s: float


def empty_launch(where: torch.device, *, pdl: bool) -> Callable[[], None]:
    """Launches one empty kernel on the current stream."""
    out = torch.zeros(1, dtype=torch.int32, device=where)
    options = {"launch_pdl": True} if pdl else {}

    def launch() -> None:
        _empty_kernel[(1,)](out, PDL=pdl, num_warps=1, **options)

    return launch


def node_s(
    device: Device, launch: Callable[[], None], *, repeats: int = 20
) -> tuple[float, list[float]]:
    """Seconds that one node more adds to a graph: median, and each sample."""
    many, few = (device.capture([launch] * n) for n in (MANY, FEW))
    for play in (many, few):
        play()  # the first replay uploads the graph
    samples = [(many() - few()) / (MANY - FEW) for _ in range(repeats)]
    return statistics.median(samples), samples


def launch_cost(
    graph: Graph,
    synchronize: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
    repeats: int = 100,
) -> LaunchCost:
    """Of one replay at a time, the device idle before it."""
    graph.replay()
    host, done = [], []
    for _ in range(repeats):
        synchronize()
        start = clock()
        graph.replay()
        host.append(clock() - start)
        synchronize()
        done.append(clock() - start)
    return LaunchCost(statistics.median(host), statistics.median(done))


def graph_of(launch: Callable[[], None], n: int) -> Graph:
    """A CUDA graph of n launches."""
    cuda: Any = torch.cuda
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        launch()
    cuda.current_stream().wait_stream(side)
    cuda.synchronize()
    graph: Graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        for _ in range(n):
            launch()
    return graph
