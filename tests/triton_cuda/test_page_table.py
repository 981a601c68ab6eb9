"""The device's page table after any fills is the host's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chipmark.backends.triton_cuda.page_table import PageTable
from chipmark.backends.triton_cuda.streams import HostStream
from chipmark.engine.contract import I32

CPU = torch.device("cpu")
ROWS, WIDTH = 8, 32


class Counted(HostStream):
    """Keeps the bytes of each upload."""

    def __init__(self) -> None:
        self.uploads: list[int] = []

    def upload(self, values: I32, target: torch.Tensor) -> None:
        assert values.size == target.numel()
        self.uploads.append(values.nbytes)
        super().upload(values, target)


def table_of(held: list[list[int]]) -> I32:
    pages = np.full((len(held), max(map(len, held))), -1, np.int32)
    for row, own in enumerate(held):
        pages[row, : len(own)] = own
    return pages


@pytest.mark.parametrize("seed", range(4))
def test_what_a_row_has_is_on_the_device_over_random_fills(seed: int) -> None:
    random = np.random.default_rng(seed)
    table, stream = PageTable(ROWS, WIDTH, CPU), Counted()
    held = [list(random.integers(0, 999, 3)) for _ in range(3)]
    whole = 0
    for _ in range(200):
        match random.integers(5):
            case 0 if len(held) < ROWS:  # a sequence joins
                held.append(list(random.integers(0, 999, random.integers(1, WIDTH + 1))))
            case 1 if len(held) > 1:  # one ends, and those behind it move up
                del held[random.integers(len(held))]
            case 2:  # two change places
                a, b = random.integers(0, len(held), 2)
                held[a], held[b] = held[b], held[a]
            case 3:  # one is evicted and begins again
                held[random.integers(len(held))] = [int(random.integers(999))]
            case _:  # some get a page more
                for own in held:
                    if len(own) < WIDTH and random.random() < 0.5:
                        own.append(int(random.integers(999)))
        stream.uploads.clear()
        sent = table.send(table_of(held), stream)
        assert sent == sum(stream.uploads) <= len(held) * WIDTH * 4
        whole += sent == len(held) * WIDTH * 4
        for row, own in enumerate(held):
            assert table.on_device[row, : len(own)].tolist() == own
        assert np.array_equal(table.on_device.numpy(), table._sent)
    assert 0 < whole < 100  # both ways were taken


def test_a_page_more_costs_its_place_and_itself_and_nothing_new_costs_nothing() -> None:
    table, stream = PageTable(64, 2048, CPU), Counted()
    pages = np.arange(64 * 2048, dtype=np.int32).reshape(64, 2048) + 1
    pages[:, 1000:] = -1
    assert table.send(pages, stream) == pages.nbytes
    assert table.send(pages, stream) == 0
    pages[5, 1000] = 77
    assert table.send(pages, stream) == 12
    assert table.send(pages[:6, :900], stream) == 0  # fewer rows, and shorter ones
    assert stream.uploads == [pages.nbytes, 12]
