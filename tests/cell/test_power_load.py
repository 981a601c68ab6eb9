from __future__ import annotations

import time

import psutil
import pytest

from chipmark.cell.power_load import BackendLoad, HostLoad, loaded_backend, power_load
from chipmark.cell.power_work import Worker
from chipmark.errors import BadInputError, CellFailedError, UsageError


class Quiet:
    """A reporter that keeps the stages."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def say(self, text: str) -> None: ...

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def steps(self, total: int) -> None: ...

    def step(self) -> None: ...


def test_the_host_works_when_it_is_asked_to_and_its_process_ends() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with power_load("", Quiet()) as load:
        assert isinstance(load, HostLoad)
        begin = time.perf_counter()
        start, end = load.work(0.2)
        assert begin <= start <= end <= time.perf_counter()
        assert end - start >= 0.2
        family = {child.pid for child in psutil.Process().children(recursive=True)} - before
        assert family
    assert not family & {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_load_that_dies_is_an_error() -> None:
    with power_load("torch:cpu", Quiet()) as load:
        assert isinstance(load, HostLoad)
        load._child.stop()
        with pytest.raises(CellFailedError, match="work"):
            load.work(0.1)


def test_the_worker_refuses_what_it_does_not_know() -> None:
    worker = Worker()
    assert worker.answer("work", '{"seconds": 0.0}')["products"] == 0
    with pytest.raises(UsageError, match="sleep"):
        worker.answer("sleep", "{}")
    with pytest.raises(BadInputError, match="seconds"):
        worker.answer("work", '{"second": 1}')


@pytest.mark.long
def test_a_backend_works_by_its_matrix_probe() -> None:
    pytest.importorskip("torch")
    with loaded_backend("torch:cpu", Quiet()) as load:
        assert isinstance(load, BackendLoad)
        begin = time.perf_counter()
        start, end = load.work(0.1)
        assert begin <= start < end <= time.perf_counter()
        assert "torch:cpu" in load.name
