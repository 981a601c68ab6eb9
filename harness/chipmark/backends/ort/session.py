"""Makes inference sessions: the whole graph on the named provider first, else with a coverage.

Sessions of one cell share the weights' file; the provider's options come from its data, and the
device is always named, never chosen by a policy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chipmark.backends.ort.coverage import (
    Assignment,
    coverage,
    host_operators,
    node_work,
    read_assignment,
)
from chipmark.backends.ort.providers import Located
from chipmark.backends.ort.runtime_errors import onnxruntime_errors
from chipmark.backends.ort.weights_file import PlacedWeights
from chipmark.engine.contract import HostOperator
from chipmark.errors import CellFailedError
from chipmark.log import logger_of
from chipmark_models.config import ModelConfig
from chipmark_models.onnx_graphs.builder import OPSET, Graph
from chipmark_models.plain_text import one_line

_CPU = "CPUExecutionProvider"
_SOURCE = re.compile(
    r"\S+\.(?:cc|cpp|h):\d+ .*?\)(?:::<lambda\(\)>)? (?:\S.{0,200}? was false\. )?"
)
"""`FILE:LINE FUNCTION(ARGUMENTS) CONDITION was false. `, as ONNX Runtime begins its errors."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What all sessions of a cell share. `options`: those given to the provider, as strings."""

    threads: int
    options: dict[str, str]
    prepacking: bool
    spinning: bool
    scratch: Path


@dataclass(frozen=True, slots=True)
class Opened:
    """A session, the share of work on the provider's own device (None where nothing can tell), why
    it is not the whole, and what ran on the CPU."""

    session: Any
    ep_coverage: float | None
    problem: str
    host_operators: tuple[HostOperator, ...] = ()


_LOG = logger_of(__name__)


def provider_options(
    located: Located, precision: str, threads: int, scratch: Path
) -> dict[str, str]:
    """Options of the provider for this precision, with placeholders filled in."""
    provider = located.provider
    options = dict(provider.options)
    if provider.kind == "classic":
        options |= provider.classic_options
    options |= provider.precision_options.get(precision, {})
    filled = {"{threads}": str(threads), "{scratch}": str(scratch)}
    for name, value in options.items():
        for placeholder, text in filled.items():
            value = value.replace(placeholder, text)
        options[name] = value
    return options


def open_session(
    graph: Graph,
    placed: PlacedWeights,
    located: Located,
    settings: SessionSettings,
    config: ModelConfig,
    *sizes: dict[str, int],
) -> Opened:
    """Open `graph` on the provider; `sizes` (batch, chunk, context) weigh its coverage, which is
    the smallest of them.

    Raises CellFailedError with the provider's own words where it loads it neither whole nor in
    part; another level is never tried unasked.
    """
    model = graph.serialize(placed.placements, placed.inline)
    if located.ep_name == _CPU:
        try:
            return Opened(_open(model, placed, located, settings, whole=False), 1.0, "")
        except onnxruntime_errors() as error:
            raise _refusal(graph, located, error) from error
    if _can_refuse_fallback():
        try:
            return Opened(_open(model, placed, located, settings, whole=True), 1.0, "")
        except onnxruntime_errors() as error:
            problem = own_words(error)[:300]
            _LOG.info("%s does not take the whole graph: %s", located.ep_name, problem)
    else:
        problem = "this onnxruntime has no option to refuse the CPU; what ran there is unknown"
    try:
        session = _open(model, placed, located, settings, whole=False)
    except onnxruntime_errors() as error:
        raise _refusal(graph, located, error) from error
    taken: tuple[Assignment, ...] = read_assignment(session)
    if not taken:
        return Opened(session, None, problem)
    works = [node_work(graph, config, **each) for each in sizes]
    share = min(coverage(work, taken, located.ep_name) for work in works)
    return Opened(session, share, problem, host_operators(works, taken, located.ep_name))


class NotTakenWholeError(RuntimeError):
    """A provider leaves a part of a small graph to the CPU, or refuses it; in its own words."""


def open_whole(graph: Graph, located: Located, settings: SessionSettings) -> Any:
    """A session of a small graph without weights, on the provider alone.

    Raises NotTakenWholeError where it does not take all of it, and where nothing can tell.
    """
    if located.ep_name != _CPU and not _can_refuse_fallback():
        raise NotTakenWholeError("this onnxruntime has no option to refuse the CPU")
    placed = PlacedWeights(settings.scratch, {}, {})
    try:
        whole = located.ep_name != _CPU
        return _open(graph.serialize({}, {}), placed, located, settings, whole=whole)
    except onnxruntime_errors() as error:
        raise NotTakenWholeError(own_words(error)) from error


def _refusal(graph: Graph, located: Located, error: Exception) -> CellFailedError:
    """The error for a graph that a provider does not load, and which level asks for less."""
    import onnxruntime as ort

    if graph.level == "plain":
        hint = f"no level of the graph asks for less than plain does (opset {graph.opset})"
    else:
        hint = f"--option ort:graph=plain asks for operators of opset {OPSET} alone"
    return CellFailedError(
        f"{located.ep_name} of onnxruntime {ort.__version__} does not load the graph"
        f" {graph.name} (opset {graph.opset}): {own_words(error)}",
        hint,
    )


def _can_refuse_fallback() -> bool:
    """`session.disable_cpu_ep_fallback` came with 1.15; an older one ignores it silently."""
    import onnxruntime as ort

    major, minor = (int(part) for part in ort.__version__.split(".")[:2])
    return (major, minor) >= (1, 15)


def open_plain_session(graph: Graph, located: Located, settings: SessionSettings) -> Any:
    """A session of a small graph without weights, for probes."""
    placed = PlacedWeights(settings.scratch, {}, {})
    return _open(graph.serialize({}, {}), placed, located, settings, whole=False)


def _open(
    model: bytes,
    placed: PlacedWeights,
    located: Located,
    settings: SessionSettings,
    *,
    whole: bool,
) -> Any:
    import onnxruntime as ort

    so = ort.SessionOptions()
    so.intra_op_num_threads = settings.threads
    so.inter_op_num_threads = 1
    so.log_severity_level = 4 if whole else 3  # a refusal is read from the exception
    so.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(placed.folder)
    )
    so.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if settings.spinning else "0"
    )
    if not settings.prepacking:
        so.add_session_config_entry("session.disable_prepacking", "1")
    if whole:
        so.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    elif located.ep_name != _CPU:
        so.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Without enable_fallback=0 a provider that does not start is replaced by the CPU, there and
    # then or inside a later run, and the reason is lost.
    if located.ep_device is not None:
        so.add_provider_for_devices([located.ep_device], settings.options)
        session = ort.InferenceSession(model, so, enable_fallback=0)
    elif located.ep_name == _CPU:
        session = ort.InferenceSession(model, so, providers=[_CPU], enable_fallback=0)
    else:
        session = ort.InferenceSession(
            model, so, providers=[(located.ep_name, settings.options)], enable_fallback=0
        )
    refuse_substitute(session, located.ep_name)
    return session


def refuse_substitute(session: Any, ep_name: str) -> None:
    """RuntimeError where `session` has left its provider: ONNX Runtime's Python may do so when it
    opens and, later, inside a run."""
    listed = session.get_providers()
    if ep_name not in listed:
        raise RuntimeError(f"{ep_name} did not start: the session runs on {', '.join(listed)}")


def own_words(error: Exception) -> str:
    """One line of what ONNX Runtime or the provider said, without colour codes and without the
    places in its sources, which hide the words."""
    text = " ".join(_COLOUR.sub("", str(error)).split())
    return one_line(_SOURCE.sub("", text))
