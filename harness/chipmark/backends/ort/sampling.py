"""Greedy sampling of what a session left: on the host, or by a small graph on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chipmark.backends.ort.binding import Array, bind_output
from chipmark.backends.ort.device_memory import DeviceMemory
from chipmark.backends.ort.traffic import Traffic
from chipmark.engine.contract import F32, I32, Place
from chipmark_models.onnx_graphs.builder import Graph
from chipmark_models.onnx_graphs.sampling import SAMPLINGS, Sampling, sampling_graph


def sample(logits: npt.NDArray[np.float32]) -> tuple[I32, F32]:
    """Ids (n,) of the largest logits of (n, vocab), and the two largest of each row (n, 2).

    The rows are as they were on return; each is written once in between, since a maximum of the
    whole row but one place costs a thirtieth of a partition.
    """
    ids = logits.argmax(axis=1)
    best = np.empty((len(ids), 2), np.float32)
    for row, (values, at) in enumerate(zip(logits, ids.tolist(), strict=True)):
        largest = values[at]
        values[at] = -np.inf
        best[row] = largest, values.max()
        values[at] = largest
    return ids.astype(np.int32), best


class Sampler(Protocol):
    """Where the logits of a launch go, and what is read from them."""

    place: Place

    def bind(self, io: Any, n_rows: int) -> Any:
        """Bind memory for the output `logits` (n_rows, vocab) of a session."""

    def read(self, logits: Any, rows: Array | None) -> tuple[I32, F32]:
        """Ids (n,) and the two largest logits (n, 2) of these rows, all where None. Returns when
        the device has finished what was queued before."""

    def logits(self, logits: Any, row: int) -> F32:
        """The logits (vocab,) of one row, for parity."""


@dataclass(slots=True)
class HostSampler:
    """Logits in host memory. off_host: they were copied there from a device."""

    vocab: int
    traffic: Traffic
    off_host: bool
    place: Place = "host"

    def bind(self, io: Any, n_rows: int) -> F32:
        """Bind host memory."""
        logits = np.empty((n_rows, self.vocab), np.float32)
        bind_output(io, "logits", logits)
        return logits

    def read(self, logits: F32, rows: Array | None) -> tuple[I32, F32]:
        """Sample on the host."""
        if self.off_host:
            self.traffic.d2h_bytes += logits.nbytes
        return sample(logits if rows is None else logits[rows])

    def logits(self, logits: F32, row: int) -> F32:
        """A copy of the row."""
        copied: F32 = logits[row].copy()
        return copied


@dataclass(slots=True)
class _DeviceLogits:
    value: Any
    session: Any
    io: Any
    ids: npt.NDArray[np.int64]
    best: F32


@dataclass(slots=True)
class DeviceSampler:
    """Logits in the device's memory, sampled there: 24 bytes a row cross the bus.

    open_whole: opens a graph on the provider alone. static: a session for each number of rows.
    """

    vocab: int
    traffic: Traffic
    memory: DeviceMemory
    open_whole: Callable[[Graph], Any]
    static: bool
    by: Sampling
    place: Place = "device"
    _sessions: dict[int | None, Any] = field(default_factory=dict)

    def bind(self, io: Any, n_rows: int) -> _DeviceLogits:
        """Bind device memory, which the sampling graph reads."""
        value = self.memory.make((n_rows, self.vocab), np.float32)
        io.bind_ortvalue_output("logits", value)
        return self._reader(value, n_rows)

    def _reader(self, value: Any, n_rows: int) -> _DeviceLogits:
        key = n_rows if self.static else None
        if key not in self._sessions:
            self._sessions[key] = self.open_whole(sampling_graph(self.by, self.vocab, key))
        session = self._sessions[key]
        io = session.io_binding()
        io.bind_ortvalue_input("logits", value)
        ids = np.zeros((n_rows, 2 if self.by == "TopK" else 1), np.int64)
        best = np.zeros((n_rows, 2), np.float32)
        bind_output(io, "ids", ids)
        bind_output(io, "values", best)
        return _DeviceLogits(value, session, io, ids, best)

    def read(self, logits: _DeviceLogits, rows: Array | None) -> tuple[I32, F32]:
        """Sample on the device, and read ids and values."""
        logits.session.run_with_iobinding(logits.io)
        self.traffic.d2h_bytes += logits.ids.nbytes + logits.best.nbytes
        ids, best = logits.ids[:, 0].astype(np.int32), logits.best.copy()
        return (ids, best) if rows is None else (ids[rows], best[rows])

    def logits(self, logits: _DeviceLogits, row: int) -> F32:
        """Read all rows, and give one."""
        values: F32 = logits.value.numpy()
        self.traffic.d2h_bytes += values.nbytes
        copied: F32 = values[row].copy()
        return copied

    def is_right(self) -> bool:
        """Whether it samples as the host does: rows without order, and one of equal logits."""
        logits = np.random.default_rng(3).standard_normal((3, self.vocab), np.float32)
        logits[1] = 0.5
        logits[2, [1, 3]] = 9.0
        for n_rows in (1, 3):
            value = self.memory.make((n_rows, self.vocab), np.float32)
            value.update_inplace(logits[:n_rows])
            found = self.read(self._reader(value, n_rows), None)
            wanted = sample(logits[:n_rows].copy())
            if not all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)):
                return False
        return True


def device_sampler(
    vocab: int,
    traffic: Traffic,
    memory: DeviceMemory,
    open_whole: Callable[[Graph], Any],
    static: bool,
    errors: tuple[type[Exception], ...],
) -> tuple[DeviceSampler | None, str]:
    """The first way of sampling on the device that is right, or None and why there is none."""
    why = ""
    for by in SAMPLINGS:
        made = DeviceSampler(vocab, traffic, memory, open_whole, static, by)
        try:
            if made.is_right():
                return made, ""
            why = f"{by} gives other ids or logits than the host"
        except errors as error:
            why = f"{by}: {error}"
    return None, why
