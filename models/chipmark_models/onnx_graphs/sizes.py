"""Sizes of a graph as values inside it: constants where they are fixed, read from inputs else.

`batch` and `chunk` are those of `tokens` (batch, chunk), `context` is the third of `past_key_0`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from chipmark_models.onnx_graphs.builder import GraphBuilder
from chipmark_models.onnx_graphs.emitter import GraphShape
from chipmark_models.onnx_graphs.protobuf import DATA_TYPES

Size = Literal["batch", "chunk", "context"]


@dataclass(slots=True)
class GraphSizes:
    """Hands out the sizes of one graph; each free one is read once."""

    shape: GraphShape
    builder: GraphBuilder
    _free: dict[str, str] = field(default_factory=dict)
    _shapes: dict[str, str] = field(default_factory=dict)

    def read_tokens(self) -> None:
        """Read batch and chunk where one of them is free."""
        if self.shape.batch is None or self.shape.chunk is None:
            sizes = self.builder.op("Shape", ["tokens"])
            self._free["batch"] = self._one(sizes, 0)
            self._free["chunk"] = self._one(sizes, 1)

    def read_context(self) -> None:
        """Read the rows of the cache where they are free; after its inputs are declared."""
        if self.shape.context is None:
            self._free["context"] = self._one(self.builder.op("Shape", ["past_key_0"]), 2)

    def _one(self, sizes: str, axis: int) -> str:
        b = self.builder
        return b.op("Slice", [sizes, b.constant([axis]), b.constant([axis + 1])])

    def free(self, name: Size) -> str:
        """The value int64 (1,) of a free size."""
        return self._free[name]

    def arange(self, name: Size, dtype: Literal["int32", "int64"] = "int64") -> str:
        """0, 1, … up to a size, (size,). A device that computes no int64 leaves what is made from
        it to the CPU, and with it a mask as long as the context."""
        b = self.builder
        size: int | None = getattr(self.shape, name)
        if size is not None:
            return b.constant(np.arange(size), dtype)
        stop = b.op("Squeeze", [self._free[name]])
        if dtype != "int64":
            stop = b.op("Cast", [stop], to=DATA_TYPES[dtype])
        return b.op("Range", [b.constant(0, dtype), stop, b.constant(1, dtype)])

    def of(self, *dims: int | Size) -> str:
        """A shape for Reshape, or sizes for Split; a single free one is -1."""
        s = self.shape
        known = [getattr(s, d) if isinstance(d, str) else d for d in dims]
        if sum(size in (None, -1) for size in known) <= 1:
            return self.builder.constant([-1 if size is None else size for size in known])
        key = f"sizes{dims}"
        if key not in self._shapes:
            parts = [
                self._free[str(dim)] if size is None else self.builder.constant([size])
                for dim, size in zip(dims, known, strict=True)
            ]
            self._shapes[key] = self.builder.op("Concat", parts, axis=0)
        return self._shapes[key]
