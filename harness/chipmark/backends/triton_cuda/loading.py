"""From a `LoadSpec` to a decoder on the device, its kernels checked and its launches warmed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from chipmark.backends.fit import check_fit
from chipmark.backends.torch_device.coverage import Coverage, coverage
from chipmark.backends.torch_device.devices import device_name, synchronize
from chipmark.backends.torch_device.memory import free_bytes
from chipmark.backends.torch_device.sampling import two_largest
from chipmark.backends.triton_cuda.attention_choice import chosen_cold
from chipmark.backends.triton_cuda.batches import DecodeInputs
from chipmark.backends.triton_cuda.design_choice import (
    Made,
    Trials,
    choose_design,
    designs_here,
    few_rows,
)
from chipmark.backends.triton_cuda.devices import (
    INTERPRETER,
    activation_of,
    check_options,
    check_precision,
)
from chipmark.backends.triton_cuda.kernel_check import failures
from chipmark.backends.triton_cuda.needed_memory import (
    PREFILL_ROWS,
    batch_buckets,
    need_of,
    storage_of,
)
from chipmark.backends.triton_cuda.notes import notes_of, prefill_notes
from chipmark.backends.triton_cuda.prefill import Prefill
from chipmark.backends.triton_cuda.product_candidates import ALWAYS, SOMETIMES
from chipmark.backends.triton_cuda.product_choice import choose_products
from chipmark.backends.triton_cuda.streams import Call, LaunchStream, stream_of
from chipmark.backends.triton_cuda.trials import Choice
from chipmark.engine.computed import Accumulator, ComputedPrecision, Number, Weights
from chipmark.engine.contract import Caps, Loaded, LoadSpec
from chipmark.errors import UsageError
from chipmark.log import logger_of
from chipmark_kernels.formats import PAGE_TOKENS
from chipmark_models.decoder.device_made import open_on
from chipmark_models.decoder.op_table import SEPARATE
from chipmark_models.decoder.paged import ops as paged_ops
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.reading import DTYPES
from chipmark_models.weights.prepared import PrecisionWeights, WeightSpec

_LOG = logger_of(__name__)

IN_FLIGHT = 2

ASKS_HOST = ("torch", "reference")
"""Implementations of prefill_attention that read lengths on the host: no graph can hold them."""


@dataclass(slots=True)
class Engine:
    """What a loaded backend works with."""

    decoder: PagedDecoder
    inputs: DecodeInputs
    stream: LaunchStream
    decode: dict[int, Call]
    prefill: Prefill
    loaded: Loaded
    names: dict[str, str] = field(default_factory=dict)


def load(spec: LoadSpec, name: str, device: torch.device) -> Engine:
    """Everything of `Backend.load`; `name` is the device's as the user wrote it.

    Raises DoesNotFitError before anything is allocated, UsageError for a precision that is not
    computed here, and UnknownNameError for an option or operation that does not exist.
    """
    check_options(spec.options)
    check_precision(name, device, spec.precision)
    asked = dict(spec.options.get("ops") or {})
    names = paged_ops.TABLE.resolve(asked, "triton")
    designs = designs_here(name, device, spec.options.get("design"))
    begin = time.perf_counter()
    weights, not_made = open_on(WeightSpec.from_dict(spec.model), device)
    if weights.precision != spec.precision:
        raise UsageError(
            f"the weights are prepared in {weights.precision}, asked is {spec.precision}"
        )
    activation = activation_of(name, spec.precision)
    n_pages = -(-spec.kv_tokens // PAGE_TOKENS) + spec.n_seqs
    need = need_of(weights.config, spec, activation, n_pages * PAGE_TOKENS)
    check_fit(need, free_bytes(device), f"triton:{name}")
    decoder = _decoder(weights, spec, device, names, activation, n_pages)
    synchronize(device)
    load_s = time.perf_counter() - begin
    begin = time.perf_counter()
    stream = stream_of(device)
    buckets = batch_buckets(spec.n_seqs)
    replaced: dict[str, str] = {}
    if spec.options.get("kernel_check", name != INTERPRETER):
        replaced = _replace_failing(decoder, names, asked, buckets, spec.max_chunk)
    choices: dict[str, dict[int, Choice]] = {}
    if name != INTERPRETER:
        choices = _choose(decoder, names, asked, replaced, buckets, spec.max_chunk, stream)
    tokens, rows = min(spec.max_chunk, spec.max_context), min(PREFILL_ROWS, buckets[-1])
    cold = chosen_cold(decoder, names, asked, tokens, stream, tried=name != INTERPRETER)
    prefill = Prefill(decoder, stream, cold.least)
    inputs = DecodeInputs(buckets[-1], spec.max_context, PAGE_TOKENS, device)
    capture = spec.options.get("graphs", True)

    def step_of(decoder: PagedDecoder, rows: int) -> Call:
        return decode_call(decoder, inputs, rows)

    design = choose_design(
        Made(decoder, names, choices),
        designs,
        asked,
        buckets,
        Trials(stream, step_of, partial(inputs.fill, stream=stream)),
    )
    decode = {rows: step_of(design.decoder(rows), rows) for rows in buckets}
    if capture:  # the largest first: the others then fit into its memory
        decode = {rows: stream.capture(decode[rows], kept=True) for rows in reversed(buckets)}
    if name != INTERPRETER:  # where nothing is compiled there is nothing to warm
        warm(decode, prefill, tokens, min(rows, 3))
    graphs = spec.options.get("prefill_graphs", name != INTERPRETER)
    if capture and graphs and names["prefill_attention"] not in ASKS_HOST:
        prefill.capture(tokens, rows, spec.max_context)
    covered = Coverage(0.0)
    if name != INTERPRETER:
        launches = (
            step_of(design.decoder(buckets[-1]), buckets[-1]),
            partial(prefill.warm, tokens, 1),
        )
        covered = coverage(device, launches)
    synchronize(device)
    graphed = capture and device.type != "cpu"
    caps = Caps(
        kv="paged",
        prefix="share",
        max_context=spec.max_context,
        max_batch=buckets[-1],
        max_chunk=spec.max_chunk,
        page_tokens=PAGE_TOKENS,
        n_pages=n_pages,
        in_flight=IN_FLIGHT,
        batch_buckets=buckets,
        prefill_rows=rows,
    )
    loaded = Loaded(
        caps=caps,
        load_s=load_s,
        compile_s=time.perf_counter() - begin,
        weight_bytes=decoder.weights.n_bytes,
        kv_bytes=decoder.kv.n_bytes,
        precision=_precision(spec.precision, activation),
        graph="none",
        ep_coverage=covered.share,
        device="Triton's interpreter" if name == INTERPRETER else device_name(device),
        details={
            "operations": names,
            "kernels_replaced": replaced,
            "products": {
                operation: {str(rows): choice.name for rows, choice in by_rows.items()}
                for operation, by_rows in choices.items()
            },
            "product_trials_s": {
                operation: {str(rows): dict(choice.seconds) for rows, choice in by_rows.items()}
                for operation, by_rows in choices.items()
            },
            "cold_attention": cold.details,
            "prefill_graphs": prefill.details,
            **design.details(buckets),
        },
        notes=(
            *notes_of(
                name == INTERPRETER, device, replaced, choices, design.notes(buckets), not_made
            ),
            *prefill_notes(cold, prefill),
        ),
        sampling="device",
        clock="device" if device.type != "cpu" else "host",
        execution="graph" if graphed else "eager",
        host_operators=covered.operators,
    )
    return Engine(decoder, inputs, stream, decode, prefill, loaded, names)


def _decoder(
    weights: PrecisionWeights,
    spec: LoadSpec,
    device: torch.device,
    names: Mapping[str, str],
    activation: str,
    n_pages: int,
) -> PagedDecoder:
    return PagedDecoder(
        weights,
        device,
        paged_ops.TABLE.select(names),
        n_pages=n_pages,
        max_context=spec.max_context,
        page_tokens=PAGE_TOKENS,
        activation=DTYPES[storage_of(activation)],
    )


def _replace_failing(
    decoder: PagedDecoder,
    names: dict[str, str],
    asked: Mapping[str, str],
    buckets: tuple[int, ...],
    chunk: int,
) -> dict[str, str]:
    """Take kernels that fail on this device out of `names`, for what the table falls back to; the
    reasons by operation.

    What the user asked for by name is never replaced: UsageError.
    """
    table, ours = paged_ops.TABLE, {}
    for op, name in names.items():
        if name not in ("torch", "reference", SEPARATE):
            ours[op] = table.find(op, name)
    found = failures(decoder, ours, checked_rows(buckets), chunk)
    for operation, reason in found.items():
        if operation in asked:
            raise UsageError(
                f"the kernel of {operation} fails parity on this device: {reason}",
                "leave `ops` out, and another takes its place with a note",
            )
        instead = table.fallback(operation)
        _LOG.info("%s: %s in place of a kernel that fails: %s", operation, instead, reason)
        names[operation] = instead
    decoder.ops = paged_ops.TABLE.select(names)
    return found


def _choose(
    decoder: PagedDecoder,
    names: Mapping[str, str],
    asked: Mapping[str, str],
    replaced: Mapping[str, str],
    buckets: tuple[int, ...],
    chunk: int,
    stream: LaunchStream,
) -> dict[str, dict[int, Choice]]:
    """Try kernels against cuBLAS, and against those of `product_candidates` that are right here."""
    candidates = {
        op: list(ALWAYS)
        for op, name in names.items()
        if name == "triton" and op in paged_ops.PRODUCTS and op not in asked and op not in replaced
    }
    few = few_rows(buckets)
    for name, candidate in SOMETIMES.items():
        if candidate.many and chunk <= paged_ops.FEW_ROWS:
            continue
        functions = {
            op: paged_ops.TABLE.find(op, name)
            for op in candidates
            if candidate.multiplies(decoder, op)
        }
        rows, last = ((), chunk) if candidate.many else (few, few[-1])
        wrong = failures(decoder, functions, rows, last)
        for op in functions.keys() - wrong.keys():
            candidates[op].append(name)
    return choose_products(decoder, candidates, tried_rows(buckets, chunk), stream)


def checked_rows(buckets: Sequence[int]) -> list[int]:
    """Rows of decode at which kernels are checked against their references."""
    return sorted({1, buckets[len(buckets) // 2], buckets[-1]})


def tried_rows(buckets: Sequence[int], chunk: int) -> list[int]:
    """Rows at which the candidates of a product are timed."""
    return sorted({*(b for b in buckets if b in (1, 8, 16, 32, 64)), buckets[-1], chunk})


def decode_call(decoder: PagedDecoder, inputs: DecodeInputs, rows: int) -> Call:
    """A decode launch of so many rows with the sampling behind it."""
    batch = inputs.batch(rows)

    def call() -> tuple[torch.Tensor, ...]:
        logits = decoder.forward(batch)
        ids = decoder.ops.greedy(logits)
        return logits, ids, two_largest(logits, ids)

    return call


def warm(decode: Mapping[int, Call], prefill: Prefill, most: int, several: int) -> None:
    """Decode of every bucket, and prefill of every tile: each power of two of tokens, of one row
    and of several."""
    for call in decode.values():
        call()
    for tokens in sorted({most, *(1 << i for i in range(most.bit_length()) if 1 << i <= most)}):
        for n_rows in sorted({1, min(several, tokens)}):
            prefill.warm(tokens, n_rows)


def _precision(precision: str, activation: str) -> ComputedPrecision:
    kept = Number(storage_of(activation))
    return ComputedPrecision(
        weights=Weights(precision),
        activation=kept,
        linear_input=Number(activation),
        kv=kept,
        accumulate=Accumulator.FP32,
        linear_from_rows=0 if kept == activation else paged_ops.FEW_ROWS,
    )
