"""Work that moves power while meters are calibrated, in a process of its own as a cell's.

On the host products of matrices; on another device the probe of its backend's matrix roof, again
and again, with the smallest model loaded. Leaving the block ends the process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chipmark.cell.parent import ChildProcess
from chipmark.cell.power_work import Work
from chipmark.cell.protocol import ChildSpec, Load, Probe
from chipmark.cell.reporter import Reporter
from chipmark.cell.workloads import find_model, prepare_model
from chipmark.engine.contract import LoadSpec
from chipmark.meters.calibrate import PowerLoad
from chipmark.registry import split_backend

MODEL = "tiny"
PRECISION = "fp32"
LOAD_S = 600.0
"""How long a backend may take to load: some compile."""

_GRACE_S = 120.0
_CONTEXT = 64
_FOLDER = "chipmark-power-"


class HostLoad:
    """All cores of this machine."""

    name = "products of matrices on all cores"

    def __init__(self, child: ChildProcess) -> None:
        self._child = child

    def work(self, seconds: float) -> tuple[float, float]:
        """Work so long; raises CellFailedError where the process ends."""
        answer = self._child.request(Work(seconds), seconds + _GRACE_S)
        return answer.start_s, answer.end_s


class BackendLoad:
    """A device, by its backend's own matrix probe."""

    def __init__(self, backend: str, child: ChildProcess) -> None:
        self.name = f"the matrix probe of {backend}"
        self._child = child

    def work(self, seconds: float) -> tuple[float, float]:
        """Probe until so much time has passed; raises CellFailedError where the process ends."""
        until = time.perf_counter() + seconds
        request = Probe(0, PRECISION)
        first = last = self._child.request(request, _GRACE_S)
        while time.perf_counter() < until:
            last = self._child.request(request, _GRACE_S)
        return first.start_s, last.end_s


@contextmanager
def power_load(backend: str, reporter: Reporter) -> Iterator[PowerLoad]:
    """The load of a backend `KIND:DEVICE`, of the host's processors where its device is "cpu" or
    it is "". Raises what loading raises; the process and its folder are gone afterwards."""
    if backend and split_backend(backend)[1].partition(":")[0] != "cpu":
        with loaded_backend(backend, reporter) as load:
            yield load
        return
    with (
        tempfile.TemporaryDirectory(prefix=_FOLDER) as folder,
        ChildProcess("{}", Path(folder), module="chipmark.cell.power_work") as child,
    ):
        yield HostLoad(child)


@contextmanager
def loaded_backend(backend: str, reporter: Reporter) -> Iterator[BackendLoad]:
    """A backend with the smallest model. Raises what loading raises."""
    model = prepare_model(find_model(MODEL, 0, reporter.stage), PRECISION, backend, reporter.stage)
    with tempfile.TemporaryDirectory(prefix=_FOLDER) as folder:
        spec = ChildSpec(
            backend=backend,
            load=LoadSpec(
                model=model.spec,
                precision=PRECISION,
                n_seqs=1,
                max_context=_CONTEXT,
                kv_tokens=_CONTEXT,
                max_chunk=_CONTEXT,
                scratch=folder,
            ),
            feedback="forced",
        )
        with ChildProcess(spec.to_json(), Path(folder), backend=backend) as child:
            reporter.stage(f"loading {MODEL} on {backend}")
            child.request(Load(), LOAD_S)
            yield BackendLoad(backend, child)
