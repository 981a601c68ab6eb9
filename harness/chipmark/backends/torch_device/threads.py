"""Threads of a decoder on the CPU: the cores, or one where no product is worth a second.

GNU OpenMP's threads wait awake, and a step has a hundred such waits. Where something else runs on
a core that a waiting thread has, each wait lasts until the kernel takes its turn away. Measured on
two cores with GNU OpenMP, a decode step of preset `tiny` at batch 1 and 128 tokens (medians in ms,
300 steps a process): quiet 1.20 to 1.23 with two threads, 1.14 to 1.15 with one; next to two other
busy processes 1.2 to 80 with two threads, by which cores they got, and 1.2 to 1.3 with one.
smollm2-135m, whose products are larger, takes 33 with two threads and 49 with one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chipmark.backends.host import chosen_threads

if TYPE_CHECKING:
    from chipmark_models.config import ModelConfig


def threads_for(config: ModelConfig, item_bytes: int) -> int:
    """One where every matrix is too small to be worth choosing a product for, else the cores.

    item_bytes: of a stored weight.
    """
    from chipmark_models.decoder.slots.linear import TUNE_FROM_BYTES
    from chipmark_models.tensors import expected_shapes

    sizes = [a * b for a, *rest in expected_shapes(config).values() for b in rest]
    return 1 if max(sizes) * item_bytes < TUNE_FROM_BYTES else chosen_threads()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many of torch's threads inside: a roof is the chip's, whatever the model takes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
