"""Moves rows of K and V on the device itself, by runs of a small graph (`kv_rows`).

Only the places cross the bus: 48 bytes a row and head, whatever the rows hold. A provider that
compiles fixed shapes moves in blocks of one size, the last one filled up with its own last row,
which is then written several times with the same values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chipmark.backends.ort.device_memory import DeviceTensors
from chipmark.backends.ort.traffic import Traffic
from chipmark_models.onnx_graphs.builder import Graph
from chipmark_models.onnx_graphs.kv_rows import FROM, TO, MoveSizes, fill_graph, move_rows_graph

Places = npt.NDArray[np.int64]
_BLOCK = 256
"""Most rows of one run of a copy."""


class Rows(NamedTuple):
    """Rows `start` .. `start + length` of a slot."""

    slot: int
    start: int
    length: int


@dataclass(slots=True)
class _Move:
    session: Any
    io: Any
    places: tuple[Places, Places]


@dataclass(slots=True)
class RowMover:
    """Moves rows between tensors of one kind; `open_whole` opens a graph on the provider alone.

    static: shapes are fixed, a session each; opened at the first use, which loading makes.
    """

    names: tuple[str, ...]
    heads: int
    width: int
    dtype: str
    open_whole: Callable[[Graph], Any]
    static: bool
    traffic: Traffic = field(default_factory=Traffic)
    _sessions: dict[Any, Any] = field(default_factory=dict)
    _moves: dict[tuple[int, int, int], _Move] = field(default_factory=dict)

    def forget(self, tensors: DeviceTensors | None = None) -> None:
        """Let go of the bindings of these tensors, all where None, and so of the tensors."""
        for key in list(self._moves):
            if tensors is None or id(tensors) in key[:2]:
                del self._moves[key]

    def fill(self, target: DeviceTensors, value: float = 0.0) -> None:
        """Write `value` everywhere."""
        shape = target.shape
        key = ("fill", shape if self.static else None)
        if key not in self._sessions:
            self._sessions[key] = self.open_whole(
                fill_graph(self.dtype, shape if self.static else None)
            )
        session = self._sessions[key]
        for tensor in target.values:
            io = session.io_binding()
            io.bind_cpu_input("x", np.full((1, 1, 1, 1), value, target.dtype))
            if not self.static:
                io.bind_cpu_input("shape", np.array(shape, np.int64))
            io.bind_ortvalue_output("y", tensor)
            session.run_with_iobinding(io)

    def copy(self, source: DeviceTensors, target: DeviceTensors, read: Rows, written: Rows) -> None:
        """Move rows of one slot to another slot or tensor, in blocks."""
        for done in range(0, read.length, _BLOCK):
            n = min(_BLOCK, read.length - done)
            steps = np.arange(done, done + n)
            self.move(
                source,
                target,
                (np.full(n, read.slot), read.start + steps),
                (np.full(n, written.slot), written.start + steps),
                _BLOCK if self.static else n,
            )

    def move(
        self,
        source: DeviceTensors,
        target: DeviceTensors,
        read: tuple[npt.NDArray[Any], npt.NDArray[Any]],
        written: tuple[npt.NDArray[Any], npt.NDArray[Any]],
        size: int,
    ) -> None:
        """One run: rows `read` (slots, rows) of the source to `written` of the target.

        size: rows of the run, at least as many as are given.
        """
        move = self._bound(source, target, size)
        n = len(read[0])
        for places, (slots, rows) in zip(move.places, (read, written), strict=True):
            places[:, :n, 0] = slots
            places[:, :n, 2] = rows
            places[:, n:, 0] = slots[-1]
            places[:, n:, 2] = rows[-1]
        # Host memory may be copied when it is bound: bound anew, or the places stay as they were.
        for name, places in zip((FROM, TO), move.places, strict=True):
            move.io.bind_cpu_input(name, places)
            self.traffic.h2d_bytes += places.nbytes
        move.session.run_with_iobinding(move.io)

    def _bound(self, source: DeviceTensors, target: DeviceTensors, size: int) -> _Move:
        key = (id(source), id(target), size)
        if key not in self._moves:
            session = self._session(source, target, size)
            io = session.io_binding()
            source.bind(io, "source_", 0, source.slots)
            target.bind(io, "target_", 0, target.slots)
            target.bind(io, "moved_", 0, target.slots, output=True)
            places = (self._places(size), self._places(size))
            self._moves[key] = _Move(session, io, places)
        return self._moves[key]

    def _places(self, size: int) -> Places:
        places = np.zeros((self.heads, size, 3), np.int64)
        places[:, :, 1] = np.arange(self.heads)[:, None]
        return places

    def _session(self, source: DeviceTensors, target: DeviceTensors, size: int) -> Any:
        sizes = MoveSizes()
        if self.static:
            sizes = MoveSizes(source.slots, source.rows, target.slots, target.rows, size)
        if sizes not in self._sessions:
            graph = move_rows_graph(self.names, self.heads, self.width, self.dtype, sizes)
            self._sessions[sizes] = self.open_whole(graph)
        return self._sessions[sizes]
