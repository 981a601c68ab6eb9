"""What is tried for a product: by everybody, and by those whose weight, rows or device allow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from chipmark.backends.triton_cuda.product_calls import products_of
from chipmark_kernels.device import DeviceFacts
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.ops import FEW_ROWS, Matrix
from chipmark_models.decoder.paged.quantised import QuantisedMatrix

ALWAYS = ("triton", "torch")
"""Tried for a product at any number of rows, where nothing was asked for."""


def _plain(matrix: Matrix) -> bool:
    return isinstance(matrix, torch.Tensor)


def _e4m3(matrix: Matrix) -> bool:
    return isinstance(matrix, QuantisedMatrix) and matrix.precision == "fp8"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An implementation that is tried in some cases, after its own check."""

    many: bool
    """For more than FEW_ROWS rows; else for up to so many."""

    takes: Callable[[Matrix], bool]
    """Whether it multiplies by such a weight."""

    head: bool = True
    """Whether it multiplies by the head, whose columns are a vocabulary."""

    runs_on: Callable[[DeviceFacts], bool] = lambda facts: True
    """Whether a device has what it is written for; the check at load decides in the end."""

    def multiplies(self, decoder: PagedDecoder, operation: str) -> bool:
        """Whether it is for an operation of this decoder."""
        if operation == "head" and not self.head:
            return False
        return self.takes(products_of(decoder, operation)[0].matrix)


SOMETIMES: Mapping[str, Candidate] = MappingProxyType(
    {
        "mixed": Candidate(many=False, takes=_plain),
        "hopper": Candidate(
            many=True,
            takes=_plain,
            head=False,
            runs_on=lambda facts: facts.vendor == "cuda" and facts.arch == 90,
        ),
        "scaled": Candidate(many=True, takes=_e4m3),
    }
)
"""By the name of the implementation."""


def able_at(names: Sequence[str], rows: int) -> list[str]:
    """Those of the candidates that are tried at so many rows."""
    return [
        name for name in names if name not in SOMETIMES or SOMETIMES[name].many == (rows > FEW_ROWS)
    ]
