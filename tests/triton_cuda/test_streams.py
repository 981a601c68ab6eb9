"""The capture of CUDA graphs, against a pool of memory that asserts as torch's does."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chipmark.backends.triton_cuda.streams import CudaStream


class Pools:
    """Torch's private pools (c10/cuda/CUDACachingAllocator.cpp, begin_allocate_to_pool): a pool
    lives while a graph uses it or a block of it is alive, and a capture into one that no graph
    uses any more is an internal error. A capture begins by `empty_cache`, which is one while the
    allocator believes that another is underway."""

    def __init__(self) -> None:
        self.users: dict[tuple[int, int], int] = {}
        self.with_workspace: set[tuple[int, int]] = set()
        self.underway: set[tuple[int, int]] = set()
        self.current = "own"
        self.invalid = False
        self._ids = itertools.count(1)

    def handle(self) -> tuple[int, int]:
        return (0, next(self._ids))

    def begin(self, pool: tuple[int, int] | None) -> tuple[int, int]:
        if self.underway:
            raise RuntimeError("INTERNAL ASSERT FAILED: captures_underway.empty()")
        pool = pool or self.handle()
        if pool in self.users and self.users[pool] == 0:
            raise RuntimeError("INTERNAL ASSERT FAILED: it->second->use_count > 0")
        self.users[pool] = self.users.get(pool, 0) + 1
        self.underway.add(pool)
        return pool

    def end_capture(self, device: int, pool: tuple[int, int]) -> None:
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

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
            if self.id is None:
                raise RuntimeError("pool() without a preceding successful capture")
            return self.id

        def replay(self) -> None:
            """Nothing is computed here."""

        def __del__(self) -> None:
            if self.id is not None:
                found.end(self.id)

    @contextmanager
    def capture(graph: Graph, pool: Any = None) -> Iterator[None]:
        pool = found.begin(pool)
        before, found.current, found.invalid = found.current, "capture", False
        try:
            yield
        finally:
            if found.invalid:  # as torch's `__exit__` and `capture_end`, which stop here
                raise RuntimeError("operation failed due to a previous error during capture")
            found.end_capture(0, pool)
            found.current, graph.id = before, pool

    class On:
        """Selects no stream, and goes back to the one that was."""

        def __init__(self, stream: Any) -> None:
            pass

        def __enter__(self) -> None:
            self._before = found.current

        def __exit__(self, *_: object) -> None:
            found.current = self._before

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", On)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", found.handle)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", found.end_capture, raising=False)
    monkeypatch.setattr(
        torch._C, "_cuda_releasePool", lambda device, pool: found.end(pool), raising=False
    )
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


@pytest.mark.parametrize("invalidated", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_after_a_capture_that_fails_the_next_is_as_if_it_had_not_been(
    pools: Pools, kept: bool, invalidated: bool
) -> None:
    stream = CudaStream(torch.device("cuda"))
    stream.capture(lambda: (), kept=True)

    def refused() -> tuple[torch.Tensor, ...]:
        if pools.underway:  # warmed without a fault, captured with one
            pools.invalid = invalidated
            raise RuntimeError("operation not permitted when stream is capturing")
        return ()

    message = "previous error during capture" if invalidated else "not permitted"
    with pytest.raises(RuntimeError, match=message):
        stream.capture(refused, kept=kept)
    gc.collect()
    assert pools.current == "own"
    assert not pools.underway
    stream.capture(lambda: (), kept=True)()
    assert list(pools.users.values()) == [2]  # both kept ones, in one pool


def test_every_capture_warms_on_one_stream(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def side(device: torch.device) -> Any:
        made.append(SimpleNamespace(wait_stream=lambda other: None))
        return made[-1]

    monkeypatch.setattr(torch.cuda, "Stream", side)
    stream = CudaStream(torch.device("cuda"))
    for kept in (False, False, True):
        stream.capture(lambda: (), kept=kept)
    assert len(made) == 1  # a workspace of cuBLAS each
