"""What a cell will open: the level of its graph, its sizes and buckets, and its options."""

from __future__ import annotations

from dataclasses import dataclass

from chipmark.backends.ort.options import check_options
from chipmark.backends.ort.providers import Located
from chipmark.backends.ort.quantised_products import form_of
from chipmark.engine.contract import Caps, LoadSpec
from chipmark.errors import UsageError
from chipmark_models.onnx_graphs.emitter import IN_PLACE, LEVELS, Level
from chipmark_models.onnx_graphs.quantised_linear import QuantisedForm

STATIC_CHUNKS = (64, 256)
STATIC_CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Buckets where a graph is static and the provider's data names none."""

_FIRST_CAPACITY = 256


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """What will be opened: the level, the sizes and the buckets."""

    level: Level
    dtype: str
    n_slots: int
    n_seqs: int
    """Slots that launches run on, the first ones; the others are reserved for prefixes."""
    max_context: int
    max_chunk: int
    static: frozenset[str]
    chunk_buckets: tuple[int, ...]
    context_buckets: tuple[int, ...]
    slot_rows: int
    """Rows of the cache that a slot may come to need."""
    quantised: QuantisedForm | None


def check_asked(spec: LoadSpec, located: Located) -> None:
    """UnknownNameError for an option or a level that does not exist, UsageError for a precision
    that the provider does not compute."""
    check_options(spec.options)
    provider = located.provider
    if spec.precision not in provider.precisions:
        raise UsageError(
            f"ort:{provider.name} does not compute {spec.precision}",
            f"it computes {', '.join(provider.precisions)}; a precision is never substituted",
        )


def plan_of(spec: LoadSpec, located: Located) -> GraphPlan:
    """The plan of a cell, from the provider's data and the options given."""
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
        n_seqs=spec.n_seqs,
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


def first_capacity(plan: GraphPlan) -> int:
    """Rows that a slot has at first."""
    if plan.level == "contrib":  # it reads valid rows only, so that the rest costs nothing
        return plan.slot_rows
    if plan.context_buckets:
        return plan.context_buckets[0]
    return min(_FIRST_CAPACITY, plan.slot_rows)


def caps_of(plan: GraphPlan, batches: tuple[int, ...]) -> Caps:
    """What the engine plans by. `batches`: numbers of slots that a step of one token runs on, ()
    for any."""
    return Caps(
        kv="slots",
        prefix="copy",
        max_context=plan.max_context,
        max_batch=plan.n_seqs,
        max_chunk=plan.max_chunk,
        n_slots=plan.n_slots,
        chunk_buckets=(1, *plan.chunk_buckets) if plan.chunk_buckets else (),
        context_buckets=plan.context_buckets,
        batch_buckets=batches,
        prefill_rows=1,
    )
