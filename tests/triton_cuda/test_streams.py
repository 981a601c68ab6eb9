"""The capture of CUDA graphs, against a pool of memory that asserts as torch's does."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chipmark.backends.triton_cuda.streams import CudaStream


class Pools:
    """Torch's private pools (c10/cuda/CUDACachingAllocator.cpp, begin_allocate_to_pool): a pool
    lives while a graph uses it or a block of it is alive, and a capture into one that no graph
    uses any more is an internal error."""

    def __init__(self) -> None:
        self.users: dict[tuple[int, int], int] = {}
        self.with_workspace: set[tuple[int, int]] = set()
        self._ids = itertools.count(1)

    def begin(self, pool: tuple[int, int] | None) -> tuple[int, int]:
        if pool is None:
            pool = (0, next(self._ids))
        if pool in self.users and self.users[pool] == 0:
            raise RuntimeError("INTERNAL ASSERT FAILED: it->second->use_count > 0")
        self.users[pool] = self.users.get(pool, 0) + 1
        return pool

    def end(self, pool: tuple[int, int]) -> None:
        self.users[pool] -= 1
        if not self.users[pool] and pool not in self.with_workspace:
            del self.users[pool]


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Pools:
    found = Pools()

    class Graph:
        id: tuple[int, int] | None = None

        def pool(self) -> tuple[int, int]:
            assert self.id is not None
            return self.id

        def replay(self) -> None:
            """Nothing is computed here."""

        def __del__(self) -> None:
            if self.id is not None:
                found.end(self.id)

    @contextmanager
    def capture(graph: Graph, pool: Any = None) -> Iterator[None]:
        graph.id = found.begin(pool)
        yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return found


def test_trials_that_are_dropped_leave_the_kept_graphs_a_pool_to_share(pools: Pools) -> None:
    stream = CudaStream(torch.device("cuda"))

    def cublas() -> tuple[torch.Tensor, ...]:
        pools.with_workspace |= {pool for pool, users in pools.users.items() if users}
        return ()

    for _ in range(3):  # each product's candidates: captured, timed, dropped
        stream.capture(cublas, kept=False)()
        gc.collect()
    kept = [stream.capture(cublas, kept=True) for _ in range(3)]
    shared = [pool for pool, users in pools.users.items() if users]
    assert len(shared) == 1
    assert pools.users[shared[0]] == 3
    del kept  # an engine may drop what it plays; the stream holds the pool open
    gc.collect()
    stream.capture(cublas, kept=True)()
    assert pools.users[shared[0]] == 4
