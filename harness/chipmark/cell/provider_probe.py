"""What one backend makes of one model, without a suite: loaded as a cell loads it, in its child.

Every level of the ONNX graph is tried by a load of its own, so that a refusal, a crash or a hang
of one says nothing of the others.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chipmark.cell import stages
from chipmark.cell.computes import computed_pairs
from chipmark.cell.inputs import CellInputs
from chipmark.cell.measure import MeasuredCell
from chipmark.cell.names import check_backend, check_python
from chipmark.cell.parent import ChildProcess
from chipmark.cell.protocol import LoadAnswer
from chipmark.cell.reference import References
from chipmark.cell.reporter import Reporter
from chipmark.cell.settings import RunOptions
from chipmark.cell.suite import CellPlan
from chipmark.cell.workloads import check_source, find_model, prepare_model
from chipmark.chips.detect import chip_of
from chipmark.errors import UsageError
from chipmark.meters.pick import Picked
from chipmark.registry import is_simulated, split_backend
from chipmark.results.manifest import ParityResult
from chipmark.workload.scale import Scale
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace
from chipmark_models.cache import writable_cache
from chipmark_models.onnx_graphs.emitter import LEVELS

_LOG_LINES = 12
_TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What is probed."""

    backend: str
    """`KIND:DEVICE`."""
    model: str = "smollm2-135m"
    precision: str = "fp32"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    context: int = 2048
    """Tokens of the longest sequence, at most the model's."""
    sequences: int = 1
    parity: bool = True
    settings: RunOptions = dataclasses.field(default_factory=RunOptions)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One load: what the child answered, or why there is no answer."""

    graph: str
    """Level of the graph that was asked for, or that the backend chose."""
    answer: LoadAnswer | None
    failure: str = ""
    """The provider's own words where it did not load."""
    log: tuple[str, ...] = ()
    """The last lines that a child that failed printed."""

    @property
    def taken(self) -> str:
        """`whole`, `part` or `refused`; `loaded` where nothing can tell what ran where."""
        if self.answer is None:
            return "refused"
        coverage = self.answer.ep_coverage
        if coverage is None:
            return "loaded"
        return "whole" if coverage == 1 and not self.answer.host_operators else "part"


@dataclass(frozen=True, slots=True)
class ProviderProbe:
    """What was found."""

    request: ProbeRequest
    own: Attempt
    """With the options as given."""
    parity: ParityResult
    levels: tuple[Attempt, ...]
    """Every level of the graph, `own` among them; () of a backend without one."""


def probe(request: ProbeRequest, reporter: Reporter) -> ProviderProbe:
    """Load the model with the options as given, check parity, then try every level of the graph.

    Raises UnknownNameError or UsageError for names, and ModelUnavailableError; what happens in a
    child is in the answer.
    """
    _check(request)
    settings = request.settings
    ref = find_model(request.model, settings.seed, reporter.stage)
    check_source(ref)
    in_use = prepare_model(ref, request.precision, request.backend, reporter.stage)
    context = min(request.context, in_use.config.max_context)
    inputs = CellInputs(
        plan=_plan(request, request.options),
        trace=_held(in_use.config.vocab_size, context),
        model=in_use.identity,
        in_use=in_use,
        chip=chip_of(request.backend),
        meters=Picked(),
        repeats=1,
        settings=settings,
    )
    with (
        tempfile.TemporaryDirectory(prefix="chipmark-probe-") as scratch,
        References(
            writable_cache(), Path(scratch, "oracle"), limit_s=settings.limits.oracle_s
        ) as references,
    ):
        own, parity = _own(inputs, Path(scratch, "own"), references, request, reporter)
        levels = []
        for level in _levels(request.backend):
            if level == own.graph:
                levels.append(own)
                continue
            reporter.stage(f"{request.backend}: loading the {level} graph")
            tried = replace(inputs, plan=_plan(request, {**request.options, "graph": level}))
            with _loading(tried, Path(scratch, level), references) as (_, attempt):
                levels.append(replace(attempt, graph=level))
            reporter.step()
    return ProviderProbe(request, own, parity, tuple(levels))


def _check(request: ProbeRequest) -> None:
    if is_simulated(request.backend):
        raise UsageError(
            f"{request.backend} has no provider to be probed",
            "`chipmark run quick -b sim:golden` tries a simulated device",
        )
    check_python(request.settings.python)
    check_backend(request.backend, request.options, request.settings.python)
    computed_pairs([request.backend], [request.precision], named=True)


def _own(
    inputs: CellInputs,
    folder: Path,
    references: References,
    request: ProbeRequest,
    reporter: Reporter,
) -> tuple[Attempt, ParityResult]:
    """The load as the options say, and its parity."""
    reporter.steps(2 + len(_levels(request.backend)))
    reporter.stage(f"{request.backend}: loading {request.model}, compiling, warming")
    with _loading(inputs, folder, references) as (cell, own):
        reporter.step()
        if own.answer is None:
            return own, ParityResult(verdict="unchecked", reason="not loaded")
        if not request.parity:
            return own, ParityResult(verdict="unchecked", reason="not asked for")
        reporter.stage(f"{request.backend}: parity against the oracle")
        child = cell.child
        cell.guard(partial(stages.parity, cell))
        if cell.failure is not None:
            own = replace(own, failure=cell.failure.text, log=_last_lines(child))
        reporter.step()
        return own, cell.parity


@contextmanager
def _loading(
    inputs: CellInputs, folder: Path, references: References
) -> Iterator[tuple[MeasuredCell, Attempt]]:
    """A cell whose child has loaded, or failed to; it is ended afterwards."""
    cell = MeasuredCell(inputs, folder, references)
    graph = str(inputs.plan.options.get("graph", ""))
    try:
        cell.guard(cell.prepare)
        cell.guard(cell.start)
        started = cell.child
        cell.guard(cell.finish_load)  # a provider may refuse, crash, hang or flood
        if cell.failure is None:
            yield cell, Attempt(cell.loaded.graph, cell.loaded)
        else:
            yield cell, Attempt(graph, None, cell.failure.text, _last_lines(started))
    finally:
        cell.end()
        cell.kill()


def _last_lines(child: ChildProcess | None) -> tuple[str, ...]:
    """What a child printed last, without the traceback of its error, whose words are known."""
    if child is None:
        return ()
    lines = child.log.tail().decode(errors="replace").splitlines()
    own = lines[: lines.index(_TRACEBACK)] if _TRACEBACK in lines else lines
    return tuple(own[-_LOG_LINES:])


def _levels(backend: str) -> tuple[str, ...]:
    return LEVELS if split_backend(backend)[0] == "ort" else ()


def _plan(request: ProbeRequest, options: Mapping[str, Any]) -> CellPlan:
    return CellPlan(
        backend=request.backend,
        model=request.model,
        precision=request.precision,
        workload="probe",
        kind="profile",
        scale="quick",
        sessions=1,
        concurrency=request.sequences,
        scenario="equal_n",
        options_json=json.dumps(dict(options), sort_keys=True),
    )


def _held(vocab_size: int, context: int) -> Trace:
    """A trace that says only how long the longest sequence is."""
    turn = Turn(0, context - 1, context - 1, 0, 1, 0, context - 1)
    session = Session(0, 0, 0, None, np.zeros(context, np.int32), (turn,))
    return Trace((session,), vocab_size, "probe", Scale(), 0, "closed")
