"""Loading of a cell: checks, graphs and sessions, the KV cache, warm-up, and what to say of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from chipmark.backends.host import chosen_threads
from chipmark.backends.ort import binding, roofs
from chipmark.backends.ort.memory import check_fits
from chipmark.backends.ort.options import check_options
from chipmark.backends.ort.providers import Located, emulation_of
from chipmark.backends.ort.quantised_products import Products, find_products, form_of
from chipmark.backends.ort.runner import LaunchRows, Runner, SessionKey
from chipmark.backends.ort.session import (
    Opened,
    SessionSettings,
    open_plain_session,
    open_session,
    provider_options,
)
from chipmark.backends.ort.slot_cache import SlotCache
from chipmark.backends.ort.weights_file import PlacedWeights, place_weights
from chipmark.codes import NoteCode
from chipmark.engine.computed import Accumulator, ComputedPrecision
from chipmark.engine.contract import Caps, Loaded, LoadSpec
from chipmark.errors import UsageError
from chipmark.log import logger_of
from chipmark_models.config import ModelConfig
from chipmark_models.onnx_graphs.builder import Graph
from chipmark_models.onnx_graphs.decoder_graph import build_graph
from chipmark_models.onnx_graphs.emitter import IN_PLACE, LEVELS, GraphShape, Level
from chipmark_models.onnx_graphs.quantised_linear import QuantisedForm
from chipmark_models.weights.prepared import PrecisionWeights, WeightSpec, open_any

_LOG = logger_of(__name__)

STATIC_CHUNKS = (64, 256)
STATIC_CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Buckets where a graph is static and the provider's data names none."""

_FIRST_CAPACITY = 256


@dataclass(slots=True)
class Engine:
    """A loaded cell."""

    loaded: Loaded
    runner: Runner
    cache: SlotCache
    sessions: dict[SessionKey, Any]
    settings: SessionSettings
    threads: int
    host_device: bool


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """What will be opened: the level, the sizes and the buckets."""

    level: Level
    dtype: str
    n_slots: int
    max_context: int
    max_chunk: int
    static: frozenset[str]
    chunk_buckets: tuple[int, ...]
    context_buckets: tuple[int, ...]
    slot_rows: int
    """Rows of the cache that a slot may come to need."""
    quantised: QuantisedForm | None


def load(spec: LoadSpec, located: Located) -> Engine:
    """Everything that happens before the clock runs. Errors: see OrtBackend.load."""
    started = time.perf_counter()
    _check_options(spec, located)
    weights = open_any(WeightSpec.from_dict(spec.model))
    plan = _plan(spec, located, weights.config)
    threads = spec.threads or chosen_threads()
    scratch = Path(spec.scratch)
    options = provider_options(located, spec.precision, threads, scratch)
    options |= {k: str(v) for k, v in dict(spec.options.get("provider", {})).items()}
    settings = SessionSettings(
        threads=threads,
        options=options,
        prepacking=bool(spec.options.get("prepacking", located.provider.prepacking)),
        spinning=bool(spec.options.get("spinning", True)),
        scratch=scratch,
    )
    check_fits(weights.config, spec, plan.n_slots, plan.dtype)
    opener = _Opener(weights, plan, located, settings)
    host_device = _on_host(located)
    choice = opener.choose_binding()
    products = opener.find_products()
    capacity = _capacity(plan)
    cache = SlotCache(weights.config, plan.n_slots, capacity, plan.dtype, choice.allocate)
    runner = Runner(
        config=weights.config,
        level=plan.level,
        dtype=plan.dtype,
        cache=cache,
        session_of=opener.session,
        static=plan.static,
        chunk_buckets=plan.chunk_buckets,
        context_buckets=plan.context_buckets,
        slot_rows=plan.slot_rows,
        way=choice.way,
        empty_head=located.ep_name == "CPUExecutionProvider" and not plan.static,
        host_device=host_device,
    )
    _LOG.info("graph %s, KV bound by %s", plan.level, choice.way)
    opener.open_all()
    load_s = time.perf_counter() - started - opener.compile_s
    warm_started = time.perf_counter()
    warm(runner, plan, spec.n_seqs)
    compile_s = opener.compile_s + time.perf_counter() - warm_started
    loaded = Loaded(
        caps=_caps(plan, spec),
        load_s=load_s,
        compile_s=compile_s,
        weight_bytes=_weight_bytes(opener.graph, spec.precision),
        kv_bytes=plan.n_slots * plan.max_context * cache.token_bytes,
        precision=products.computed() if products else _precision(spec.precision),
        graph=plan.level,
        ep_coverage=opener.coverage,
        device=located.device_name,
        details=_details(opener, choice.way, settings) | (products.details() if products else {}),
        notes=_notes(opener, located) + (products.notes() if products else ()),
        execution="compiled" if plan.static else "graph",
        bind_is_snapshot=choice.way != "shared",
        emulated=emulation_of(located),
    )
    return Engine(loaded, runner, cache, opener.sessions, settings, threads, host_device)


def _check_options(spec: LoadSpec, located: Located) -> None:
    check_options(spec.options)
    provider = located.provider
    if spec.precision not in provider.precisions:
        raise UsageError(
            f"ort:{provider.name} does not compute {spec.precision}",
            f"it computes {', '.join(provider.precisions)}; a precision is never substituted",
        )


def _plan(spec: LoadSpec, located: Located, config: ModelConfig) -> GraphPlan:
    provider = located.provider
    level = str(spec.options.get("graph", "auto"))
    if level == "auto":
        level = provider.graph
    fixed = spec.options.get("static", bool(provider.static))
    static = (provider.static or ("batch", "chunk", "context")) if fixed else ()
    contexts = provider.context_buckets or (STATIC_CONTEXTS if static else ())
    chunks = provider.chunk_buckets or (STATIC_CHUNKS if static else ())
    chunk_buckets = _buckets(chunks, spec.max_chunk)
    # A graph that writes its rows needs room for those of padding, or of a slot that rides along.
    room = (chunk_buckets[-1] if chunk_buckets else 1) if level in IN_PLACE else 0
    slot_rows = spec.max_context + room
    context_buckets = _buckets(contexts, slot_rows)
    return GraphPlan(
        level=next(known for known in LEVELS if known == level),
        dtype="float16" if spec.precision == "fp16" else "float32",
        n_slots=spec.n_seqs + spec.reserved_slots,
        max_context=spec.max_context,
        max_chunk=chunk_buckets[-1] if chunk_buckets else spec.max_chunk,
        static=frozenset(static),
        chunk_buckets=chunk_buckets,
        context_buckets=context_buckets,
        slot_rows=slot_rows,
        quantised=form_of(spec, provider),
    )


def _buckets(offered: tuple[int, ...], largest: int) -> tuple[int, ...]:
    """Those of `offered` below `largest`, and the first that holds it (or `largest` itself)."""
    if not offered:
        return ()
    below = tuple(size for size in offered if size < largest)
    return (*below, next((size for size in offered if size >= largest), largest))


def _capacity(plan: GraphPlan) -> int:
    """Rows that a slot has at first."""
    if plan.level == "contrib":  # it reads valid rows only, so that the rest costs nothing
        return plan.slot_rows
    if plan.context_buckets:
        return plan.context_buckets[0]
    return min(_FIRST_CAPACITY, plan.slot_rows)


class _Opener:
    """Opens sessions by their static sizes, and remembers what they cost and cover."""

    def __init__(
        self,
        weights: PrecisionWeights,
        plan: GraphPlan,
        located: Located,
        settings: SessionSettings,
    ) -> None:
        self.weights, self.plan, self.located, self.settings = weights, plan, located, settings
        self.sessions: dict[SessionKey, Any] = {}
        self.compile_s = 0.0
        self.coverage = 1.0
        self.problem = ""
        self.graph = self._build((None, None, None))
        self._placed: PlacedWeights | None = None

    def _build(self, key: SessionKey) -> Graph:
        batch, chunk, context = key
        shape = GraphShape(
            batch=batch,
            chunk=chunk,
            context=context,
            n_rows=batch,
            positions=self.plan.max_context + self.plan.max_chunk,
            dtype="float16" if self.plan.dtype == "float16" else "float32",
            quantised=self.plan.quantised,
        )
        return build_graph(self.weights.config, self.plan.level, shape)

    def choose_binding(self) -> binding.BindingChoice:
        """Probe on a small graph how KV may be bound."""
        graph = binding.probe_graph(3 if self.plan.static else None)
        probe = self._open(graph, PlacedWeights(self.settings.scratch, {}, {}))
        if probe.ep_coverage < 1.0:  # it ran elsewhere, and says nothing of this provider
            return binding.BindingChoice("rebind", binding.allocate_host)
        return binding.choose_binding(probe.session, self.located.ep_device)

    def find_products(self) -> Products | None:
        """What products with quantised weights take; None where there are none."""
        form = self.plan.quantised
        if form is None:
            return None

        def run(graph: Graph, arrays: dict[str, Any], x: Any) -> Any:
            opened = self._open(graph, PlacedWeights(self.settings.scratch, {}, arrays))
            return opened.session.run(None, {"x": x})[0]

        return find_products(form, self.weights.config, run, bool(self.plan.static))

    def _open(self, graph: Graph, placed: PlacedWeights) -> Opened:
        sizes = {"batch": 1, "chunk": 1, "context": min(1024, self.plan.max_context)}
        return open_session(graph, placed, self.located, self.settings, self.weights.config, sizes)

    def session(self, key: SessionKey) -> Any:
        """The session for these static sizes, opened at its first use."""
        if key not in self.sessions:
            graph = self.graph if key == (None, None, None) else self._build(key)
            if self._placed is None:
                self._placed = place_weights(graph, self.weights, self.settings.scratch)
            placed = replace(self._placed, inline=self._placed.inline | graph.tables)
            started = time.perf_counter()
            opened = self._open(graph, placed)
            self.compile_s += time.perf_counter() - started
            self.sessions[key] = opened.session
            self.coverage = min(self.coverage, opened.ep_coverage)
            self.problem = self.problem or opened.problem
        return self.sessions[key]

    def open_all(self) -> None:
        """Open every session that the buckets call for."""
        plan = self.plan
        batches = (1, plan.n_slots) if "batch" in plan.static else (None,)
        chunks = (1, *plan.chunk_buckets) if "chunk" in plan.static else (None,)
        contexts = plan.context_buckets if "context" in plan.static else (None,)
        for chunk in chunks:
            for batch in batches:
                if chunk not in (1, None) and batch not in (1, None):
                    continue  # several new tokens are of one sequence
                for context in contexts:
                    self.session((batch, chunk, context))


def warm(runner: Runner, plan: GraphPlan, n_seqs: int) -> None:
    """Run every chunk bucket, and decode at each number of sequences and every context bucket, so
    that no timed launch is the first of its shape; leaves the cache empty and as small as it was.

    A prompt's chunk on a context is run at the smallest context only: their product is hundreds of
    shapes.
    """
    first = runner.cache.capacity
    chunks = plan.chunk_buckets or (min(plan.max_chunk, 32),)
    for chunk in sorted(set(chunks)):
        length = min(chunk, plan.max_context)
        prompt = _rows([0], 0, length)
        runner.ensure_capacity(runner.rows_needed(prompt))
        runner.run(prompt)
    for context in plan.context_buckets or (first,):
        runner.ensure_capacity(min(context, plan.slot_rows))
        for n in range(1, n_seqs + 1):
            runner.run(_rows(list(range(n)), 1, 1))
            runner.run(_rows(list(range(n)), 1, 1))
    for slot in range(plan.n_slots):
        runner.cache.drop(slot)
    runner.shrink(first)
    runner.take_traffic()


def _rows(slots: list[int], start: int, length: int) -> LaunchRows:
    n = len(slots)
    return LaunchRows(
        slot=np.array(slots, np.int32),
        start=np.full(n, start, np.int32),
        length=np.full(n, length, np.int32),
        tokens=np.zeros(n * length, np.int32),
        sample=np.ones(n, np.bool_),
    )


def _caps(plan: GraphPlan, spec: LoadSpec) -> Caps:
    return Caps(
        kv="slots",
        prefix="copy",
        max_context=plan.max_context,
        max_batch=spec.n_seqs,
        max_chunk=plan.max_chunk,
        n_slots=plan.n_slots,
        chunk_buckets=(1, *plan.chunk_buckets) if plan.chunk_buckets else (),
        context_buckets=plan.context_buckets,
        batch_buckets=(1, plan.n_slots) if "batch" in plan.static else (),
        prefill_rows=1,
    )


def _on_host(located: Located) -> bool:
    """Whether the provider's device is the host's CPU."""
    if located.ep_device is not None:
        return str(located.ep_device.device.type).endswith("CPU")
    options = located.provider.classic_options
    return located.ep_name == "CPUExecutionProvider" or options.get("device_type") == "CPU"


def _weight_bytes(graph: Graph, precision: str) -> int:
    """As stored: of bf16 what the provider that is asked for it keeps, else the arrays' own."""
    n_bytes = sum(view.n_bytes for view in graph.weights)
    return n_bytes // 2 if precision == "bf16" else n_bytes


def _precision(precision: str) -> ComputedPrecision:
    kv = "fp32" if precision == "bf16" else precision
    accumulate = Accumulator.FP32 if precision == "fp32" else Accumulator.PROVIDER
    return ComputedPrecision.plain(precision, kv, accumulate)


def _details(opener: _Opener, way: binding.Way, settings: SessionSettings) -> dict[str, Any]:
    located = opener.located
    return {
        "ep_name": located.ep_name,
        "kind": located.provider.kind,
        "library": located.library,
        "options": settings.options,
        "threads": settings.threads,
        "prepacking": settings.prepacking,
        "spinning": settings.spinning,
        "binding": way,
        "graph_level": opener.plan.level,
        "graph_hash": opener.graph.hash,
        "graph_nodes": len(opener.graph.nodes),
        "sessions": len(opener.sessions),
    }


def _notes(opener: _Opener, located: Located) -> tuple[tuple[str, str], ...]:
    notes: list[tuple[str, str]] = []
    if opener.coverage < 1.0 or opener.problem:
        text = f"{located.ep_name} took {opener.coverage:.0%} of the work: {opener.problem}"
        notes.append((NoteCode.EP_COVERAGE, text))
    if not located.provider.verified:
        source = located.provider.origin or "documents"
        text = f"options of {located.provider.name} are from {source}: unverified on hardware"
        notes.append((NoteCode.UNVERIFIED_PROVIDER, text))
    return tuple(notes)


def matmul_rate(engine: Engine, located: Located, precision: str) -> float:
    """Rate of a square product on the provider, FLOP (or integer operations) per second."""
    graph = roofs.matmul_graph(precision)
    return roofs.session_matmul_rate(open_plain_session(graph, located, engine.settings))
