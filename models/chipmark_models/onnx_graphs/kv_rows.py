"""Small graphs that change a cache where it lies: rows moved between tensors, and zeros.

For memory that the host cannot write. Both are standard operators of opset 17, taken by what takes
the `plain` graph. The output of `move_rows_graph` is bound to the memory of its target: ONNX
Runtime's own ScatterND copies nothing then, and writes the rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chipmark_models.onnx_graphs.builder import Graph, GraphBuilder
from chipmark_models.onnx_graphs.protobuf import Dim

FROM, TO = "from", "to"
"""Inputs int64 (heads, moved, 3): slot, head and row of each row that is read, and written."""


@dataclass(frozen=True, slots=True)
class MoveSizes:
    """Sizes of one graph; None is a free dimension. `moved`: rows that one run moves."""

    source_slots: int | None = None
    source_rows: int | None = None
    target_slots: int | None = None
    target_rows: int | None = None
    moved: int | None = None

    def dim(self, name: str) -> Dim:
        """The size, or the name as a free dimension."""
        size: int | None = getattr(self, name)
        return name if size is None else size


def move_rows_graph(
    names: Sequence[str], heads: int, width: int, dtype: str, sizes: MoveSizes
) -> Graph:
    """target[to] = source[from] for each of `names`.

    Inputs `source_NAME` (source_slots, heads, source_rows, width), `target_NAME` likewise, `from`
    and `to`; outputs `moved_NAME`, which have the shape of the target and are its memory.
    """
    b = GraphBuilder()
    places = [b.input(name, "int64", (heads, sizes.dim("moved"), 3)) for name in (FROM, TO)]
    for name in names:
        of_source = (sizes.dim("source_slots"), heads, sizes.dim("source_rows"), width)
        of_target = (sizes.dim("target_slots"), heads, sizes.dim("target_rows"), width)
        source = b.input(f"source_{name}", dtype, of_source)
        target = b.input(f"target_{name}", dtype, of_target)
        rows = b.op("GatherND", [source, places[0]])
        b.output(
            b.op("ScatterND", [target, places[1], rows], out=f"moved_{name}"), dtype, of_target
        )
    return b.build("move-rows", "plain", dtype)


def fill_graph(dtype: str, shape: tuple[int, int, int, int] | None) -> Graph:
    """y = the value x (1, 1, 1, 1) everywhere; its shape is an input int64 (4,) where None."""
    b = GraphBuilder()
    x = b.input("x", dtype, (1, 1, 1, 1))
    sizes = b.input("shape", "int64", (4,)) if shape is None else b.constant(shape)
    b.op("Expand", [x, sizes], out="y")
    b.output("y", dtype, shape or ("slots", "heads", "rows", "width"))
    return b.build("fill", "plain", dtype)
