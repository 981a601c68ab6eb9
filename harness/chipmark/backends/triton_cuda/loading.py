"""From a `LoadSpec` to a decoder on the device, its kernels checked and its launches warmed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from chipmark.backends.fit import Need, check_fit
from chipmark.backends.torch_device.coverage import Coverage, coverage
from chipmark.backends.torch_device.devices import device_name, synchronize
from chipmark.backends.torch_device.memory import free_bytes
from chipmark.backends.torch_device.sampling import two_largest
from chipmark.backends.triton_cuda.batches import DecodeInputs, ragged_batch
from chipmark.backends.triton_cuda.design_choice import (
    Made,
    Trials,
    choose_design,
    designs_here,
)
from chipmark.backends.triton_cuda.devices import (
    INTERPRETER,
    VERIFIED,
    activation_of,
    check_options,
    check_precision,
)
from chipmark.backends.triton_cuda.kernel_check import failures
from chipmark.backends.triton_cuda.product_choice import Choice, choose_products
from chipmark.backends.triton_cuda.streams import Call, LaunchStream, stream_of
from chipmark.codes import NoteCode
from chipmark.engine.computed import Accumulator, ComputedPrecision, Number, Weights
from chipmark.engine.contract import Caps, LaunchPlan, Loaded, LoadSpec, Rows
from chipmark.errors import UsageError
from chipmark.log import logger_of
from chipmark_kernels.formats import PAGE_TOKENS
from chipmark_models.config import ModelConfig
from chipmark_models.costs import kv_bytes_per_token, weight_bytes_stored
from chipmark_models.decoder.device_made import open_on
from chipmark_models.decoder.op_table import SEPARATE
from chipmark_models.decoder.paged import ops as paged_ops
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.reading import DTYPES
from chipmark_models.weights.prepared import PrecisionWeights, WeightSpec

_LOG = logger_of(__name__)

MOST_ROWS = 256
PREFILL_ROWS = 16
IN_FLIGHT = 2

CANDIDATES = ("triton", "torch")
"""What is tried for a product at any number of rows, where nothing was asked for."""

_CONTEXT_BYTES = 800_000_000
"""The driver's context, cuBLAS's workspaces and what Triton's modules take."""


@dataclass(slots=True)
class Engine:
    """What a loaded backend works with."""

    decoder: PagedDecoder
    inputs: DecodeInputs
    stream: LaunchStream
    decode: dict[int, Call]
    loaded: Loaded
    names: dict[str, str] = field(default_factory=dict)


def batch_buckets(n_seqs: int) -> tuple[int, ...]:
    """Rows that decode is captured for: 1, 2, 4, 8, then every eighth to 64 and every 32nd to
    MOST_ROWS, and the largest that is asked for."""
    most = min(n_seqs, MOST_ROWS)
    steps = (1, 2, 4, *range(8, 65, 8), *range(96, MOST_ROWS + 1, 32))
    return (*(step for step in steps if step < most), most)


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
        warm(decoder, decode, spec, stream, device)
    covered = Coverage(0.0)
    if name != INTERPRETER:
        tokens = min(spec.max_chunk, spec.max_context)
        launches = (
            step_of(design.decoder(buckets[-1]), buckets[-1]),
            partial(_prefill, decoder, tokens, 1, stream, device),
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
        prefill_rows=min(PREFILL_ROWS, buckets[-1]),
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
            **design.details(buckets),
        },
        notes=(
            *_made_note(not_made),
            *_notes(name, device, replaced, choices, design.notes(buckets)),
        ),
        sampling="device",
        clock="device" if device.type != "cpu" else "host",
        execution="graph" if graphed else "eager",
        host_operators=covered.operators,
    )
    return Engine(decoder, inputs, stream, decode, loaded, names)


def need_of(config: ModelConfig, spec: LoadSpec, activation: str, kv_tokens: int) -> Need:
    """Bytes that the cell takes of the device.

    Working memory: activations of a chunk, logits of the widest decode launch with their copy for
    the host, and the float64 pair of the largest matrix that the check of kernels makes.
    """
    c = config
    item = DTYPES[storage_of(activation)].itemsize
    wide = c.q_size + 2 * c.kv_size + 3 * c.intermediate_size + 4 * c.hidden_size
    rows = min(spec.n_seqs, MOST_ROWS)
    matrix = c.hidden_size * max(2 * c.intermediate_size, c.q_size + 2 * c.kv_size)
    work = 2 * spec.max_chunk * wide * item + rows * c.vocab_size * (2 * item + 4) + 16 * matrix
    kv = storage_of(activation)
    return Need(
        weight_bytes=int(weight_bytes_stored(c, spec.precision)),
        bytes_per_token=kv_bytes_per_token(c, kv),
        n_seqs=spec.n_seqs,
        max_context=spec.max_context,
        model_context=c.max_context,
        kv_tokens=kv_tokens,
        work_bytes=work + _CONTEXT_BYTES,
    )


def storage_of(activation: str) -> str:
    """The type of KV and of activations between products: e4m3 is only what products take."""
    return "bf16" if activation == "fp8" else activation


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
    table, plain = paged_ops.TABLE, ("torch", "reference", SEPARATE)
    ours = {op: table.find(op, name) for op, name in names.items() if name not in plain}
    found = failures(decoder, ours, checked_rows(buckets), chunk)
    for operation, reason in found.items():
        if operation in asked:
            raise UsageError(
                f"the kernel of {operation} fails parity on this device: {reason}",
                "leave `ops` out, and another takes its place with a note",
            )
        names[operation] = table.fallback(operation)
        _LOG.info("%s: %s in place of what fails: %s", operation, names[operation], reason)
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
    """Try kernels against cuBLAS, and against Hopper's own product where that is right here."""
    candidates = {
        op: list(CANDIDATES)
        for op, name in names.items()
        if name == "triton" and op in paged_ops.PRODUCTS and op not in asked and op not in replaced
    }
    if chunk > paged_ops.FEW_ROWS:
        hopper = {op: paged_ops.TABLE.find(op, "hopper") for op in candidates if op != "head"}
        wrong = failures(decoder, hopper, (), chunk)
        for op in hopper.keys() - wrong.keys():
            candidates[op].append("hopper")
    return choose_products(decoder, candidates, tried_rows(buckets, chunk), stream)


def checked_rows(buckets: Sequence[int]) -> list[int]:
    """Rows of decode at which kernels are held against their references."""
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


def warm(
    decoder: PagedDecoder,
    decode: Mapping[int, Call],
    spec: LoadSpec,
    stream: LaunchStream,
    device: torch.device,
) -> None:
    """Decode of every bucket, and prefill of every tile: each power of two of tokens, of one row
    and of several."""
    for call in decode.values():
        call()
    most = min(spec.max_chunk, spec.max_context)
    for tokens in sorted({most, *(1 << i for i in range(most.bit_length()) if 1 << i <= most)}):
        for n_rows in sorted({1, min(spec.n_seqs, PREFILL_ROWS, tokens, 3)}):
            _prefill(decoder, tokens, n_rows, stream, device)


def _prefill(
    decoder: PagedDecoder, tokens: int, n_rows: int, stream: LaunchStream, device: torch.device
) -> None:
    batch, _ = ragged_batch(_trial(tokens, n_rows), PAGE_TOKENS, device, stream)
    logits = decoder.forward(batch)
    two_largest(logits, decoder.ops.greedy(logits))


def _trial(tokens: int, n_rows: int) -> LaunchPlan:
    """A launch of so many tokens whose keys are not read later: its pages are written anew."""
    length = np.full(n_rows, tokens // n_rows, np.int32)
    length[-1] += tokens - int(length.sum())
    width = -(-int(length.max()) // PAGE_TOKENS)
    rows = Rows(
        seq=np.arange(n_rows, dtype=np.int32),
        slot=np.full(n_rows, -1, np.int32),
        start=np.zeros(n_rows, np.int32),
        length=length,
        tokens=np.zeros(tokens, np.int32),
        pages=np.tile(np.arange(width, dtype=np.int32), (n_rows, 1)),
        sample=np.ones(n_rows, np.bool_),
    )
    return LaunchPlan("prefill_cold", rows, n_rows, int(length.max()), int(length.max()))


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


def _made_note(reason: str) -> tuple[tuple[str, str], ...]:
    if not reason:
        return ()
    text = f"weights are computed by the host: the kernel that makes them fails here ({reason})"
    return ((NoteCode.KERNEL_REPLACED, text),)


def _notes(
    name: str,
    device: torch.device,
    replaced: Mapping[str, str],
    choices: Mapping[str, Mapping[int, Choice]],
    of_design: Sequence[tuple[str, str]] = (),
) -> tuple[tuple[str, str], ...]:
    fallback = paged_ops.TABLE.fallback
    notes: list[tuple[str, str]] = [
        (
            NoteCode.KERNEL_REPLACED,
            f"{operation} is computed by {fallback(operation)}: the kernel fails here ({reason})",
        )
        for operation, reason in replaced.items()
    ]
    notes += [
        (NoteCode.KERNEL_REPLACED, f"{operation} at {rows} rows: {by} was dropped ({reason})")
        for operation, by_rows in choices.items()
        for rows, choice in by_rows.items()
        for by, reason in choice.refused.items()
    ]
    notes += of_design
    if name == INTERPRETER:
        text = "Triton's interpreter on the CPU: for tests of the path, its time means nothing"
        notes.append((NoteCode.EP_COVERAGE, text))
    elif device_name(device) not in VERIFIED:
        text = f"triton:cuda on {device_name(device)}: unverified on hardware"
        notes.append((NoteCode.UNVERIFIED_PROVIDER, text))
    return tuple(notes)
