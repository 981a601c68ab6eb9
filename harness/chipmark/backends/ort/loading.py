"""Loading of a cell: checks, graphs and sessions, the KV cache, warm-up, and what to say of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chipmark.backends.host import chosen_threads
from chipmark.backends.ort import roofs
from chipmark.backends.ort.device_memory import device_memory
from chipmark.backends.ort.graph_plan import caps_of, check_asked, plan_of
from chipmark.backends.ort.kv_cache import KvCache
from chipmark.backends.ort.kv_place import KvPlace, place_kv
from chipmark.backends.ort.memory import check_fits
from chipmark.backends.ort.opener import Opener
from chipmark.backends.ort.providers import Located, emulation_of
from chipmark.backends.ort.runner import Runner
from chipmark.backends.ort.session import (
    SessionSettings,
    open_plain_session,
    provider_options,
    refuse_substitute,
)
from chipmark.backends.ort.warm_up import warm
from chipmark.codes import NoteCode
from chipmark.engine.computed import Accumulator, ComputedPrecision
from chipmark.engine.contract import Loaded, LoadSpec
from chipmark.log import logger_of
from chipmark_models.onnx_graphs.builder import Graph
from chipmark_models.weights.prepared import WeightSpec, open_any

_LOG = logger_of(__name__)


@dataclass(slots=True)
class Engine:
    """A loaded cell."""

    loaded: Loaded
    runner: Runner
    cache: KvCache
    settings: SessionSettings
    threads: int
    host_device: bool


def load(spec: LoadSpec, located: Located) -> Engine:
    """Everything that happens before the clock runs. Errors: see OrtBackend.load."""
    started = time.perf_counter()
    check_asked(spec, located)
    weights = open_any(WeightSpec.from_dict(spec.model))
    plan = plan_of(spec, located)
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
    opener = Opener(weights, plan, located, settings)
    place = place_kv(opener, weights.config, host_device=_on_host(located))
    host_device = _on_host(located) and place.way in ("shared", "provider")
    products = opener.find_products()
    runner = Runner(
        level=plan.level,
        cache=place.cache,
        sampler=place.sampler,
        session_of=opener.session,
        still_there=lambda session: refuse_substitute(session, located.ep_name),
        static=plan.static,
        chunk_buckets=plan.chunk_buckets,
        context_buckets=plan.context_buckets,
        slot_rows=plan.slot_rows,
        way=place.way,
        empty_head=located.ep_name == "CPUExecutionProvider"
        and not plan.static
        and place.sampler.place == "host",
    )
    _LOG.info("graph %s, KV bound by %s", plan.level, place.way)
    if not plan.static:
        opener.session((None, None, None))
    load_s = time.perf_counter() - started - opener.open_s
    opened_s = opener.open_s
    warm_started = time.perf_counter()
    shapes = warm(runner, plan)
    compile_s = opened_s + time.perf_counter() - warm_started
    details = _details(opener, place, settings) | {"compile": shapes}
    batches = {1, place.cache.batch_slots} if place.cache.any_range else {place.cache.batch_slots}
    loaded = Loaded(
        caps=caps_of(plan, tuple(sorted(batches)) if "batch" in plan.static else ()),
        load_s=load_s,
        compile_s=compile_s,
        weight_bytes=_weight_bytes(opener.graph, spec.precision),
        kv_bytes=plan.n_slots * plan.max_context * place.cache.token_bytes,
        precision=products.computed() if products else _precision(spec.precision),
        graph=plan.level,
        ep_coverage=opener.coverage,
        device=located.device_name,
        details=details | (products.details() if products else {}),
        notes=_notes(opener, located) + place.notes + (products.notes() if products else ()),
        sampling=place.sampler.place,
        execution="compiled" if plan.static else "graph",
        bind_is_snapshot=place.way in ("provider", "rebind"),
        emulated=emulation_of(located),
        host_operators=opener.host_operators,
    )
    return Engine(loaded, runner, place.cache, settings, threads, host_device)


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


def _details(opener: Opener, place: KvPlace, settings: SessionSettings) -> dict[str, Any]:
    located = opener.located
    return {
        "ep_name": located.ep_name,
        "kind": located.provider.kind,
        "library": located.library,
        "options": settings.options,
        "threads": settings.threads,
        "prepacking": settings.prepacking,
        "spinning": settings.spinning,
        "binding": place.way,
        "graph_level": opener.plan.level,
        "graph_hash": opener.graph.hash,
        "graph_nodes": len(opener.graph.nodes),
        "sessions": len(opener.sessions),
    }


def _notes(opener: Opener, located: Located) -> tuple[tuple[str, str], ...]:
    notes: list[tuple[str, str]] = []
    if opener.coverage is None:
        text = f"what {located.ep_name} took is unknown: {opener.problem}"
        notes.append((NoteCode.EP_COVERAGE, text))
    elif opener.coverage < 1.0:
        # The operators are named by the parent, with their shares.
        text = f"{located.ep_name} took {opener.coverage:.0%} of the work"
        notes.append((NoteCode.EP_COVERAGE, text))
    if not located.provider.verified:
        source = located.provider.origin or "documents"
        text = f"options of {located.provider.name} are from {source}: unverified on hardware"
        notes.append((NoteCode.UNVERIFIED_PROVIDER, text))
    return tuple(notes)


def matmul_rate(engine: Engine, located: Located, precision: str) -> float:
    """Rate of a square product on the provider, FLOP (or integer operations) per second."""
    memory = None if engine.host_device else device_memory(located)
    return roofs.best_matmul_rate(
        lambda graph: open_plain_session(graph, located, engine.settings), precision, memory
    )
