"""Every kernel launch of a load, its weights, and the run behind it, recorded without a device.

The very functions that load, check, try and warm are called on meta tensors, so that what they will
launch needs no list of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from chipmark.backends.triton_cuda.batches import DecodeInputs
from chipmark.backends.triton_cuda.design_choice import few_rows
from chipmark.backends.triton_cuda.devices import activation_of
from chipmark.backends.triton_cuda.kernel_check import called, cases
from chipmark.backends.triton_cuda.loading import (
    checked_rows,
    decode_call,
    tried_rows,
    warm,
)
from chipmark.backends.triton_cuda.needed_memory import PREFILL_ROWS, batch_buckets, storage_of
from chipmark.backends.triton_cuda.prefill import Prefill
from chipmark.backends.triton_cuda.product_candidates import ALWAYS, SOMETIMES, able_at
from chipmark.backends.triton_cuda.product_choice import trial
from chipmark.backends.triton_cuda.streams import HostStream
from chipmark.engine.contract import LoadSpec
from chipmark_kernels.device import DeviceFacts
from chipmark_kernels.formats import PAGE_TOKENS
from chipmark_kernels.launch import Launch, recording
from chipmark_kernels.philox_weights import philox_weights
from chipmark_models.config import ModelConfig
from chipmark_models.decoder.device_made import DeviceMadeWeights
from chipmark_models.decoder.op_table import SEPARATE
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.designs import DESIGNS, designs_for
from chipmark_models.decoder.paged.ops import FEW_ROWS, PRODUCTS, TABLE
from chipmark_models.decoder.reading import DTYPES
from chipmark_models.weights.synthetic import SyntheticWeights

_LAYERS = 2
"""The first layer's rows come normed, every other is like the second."""


class _Untimed(HostStream):
    """A queue on which nothing takes time, so that no launch is left out for being slow here."""

    def seconds(self, first: float, last: float) -> float:
        """None."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model is loaded for: sequences at once, tokens of the longest, of a prompt's chunk."""

    n_seqs: int
    max_context: int
    max_chunk: int

    def spec(self, precision: str) -> LoadSpec:
        """As a backend is asked."""
        return LoadSpec(
            model={},
            precision=precision,
            n_seqs=self.n_seqs,
            max_context=self.max_context,
            kv_tokens=self.n_seqs * self.max_context,
            max_chunk=self.max_chunk,
        )


def launches_of(
    config: ModelConfig, precision: str, shape: Shape, facts: DeviceFacts
) -> list[Launch]:
    """What `triton:cuda` launches on such a device for a model, from the check of its kernels to
    its last token; the same launch many times."""
    short = dataclasses.replace(config, n_layers=min(_LAYERS, config.n_layers))
    device = torch.device("meta")
    context = min(shape.max_context, config.max_context)
    spec = dataclasses.replace(shape, max_context=context).spec(precision)
    weights = DeviceMadeWeights(SyntheticWeights(short, 0), precision, device, philox_weights)
    with recording(facts) as launches, torch.inference_mode():
        decoder = PagedDecoder(
            weights,
            device,
            TABLE.select(TABLE.resolve({}, "triton")),
            n_pages=-(-spec.kv_tokens // PAGE_TOKENS) + spec.n_seqs,
            max_context=spec.max_context,
            page_tokens=PAGE_TOKENS,
            activation=DTYPES[storage_of(activation_of("cuda", precision))],
        )
        _check_and_try(decoder, spec, facts)
        buckets = batch_buckets(spec.n_seqs)
        tokens, several = min(spec.max_chunk, context), min(PREFILL_ROWS, buckets[-1])
        prefill = Prefill(decoder, _Untimed())
        prefill.capture(tokens, several, context, limit_s=math.inf)
        for name in designs_for(facts):
            names = TABLE.resolve(dict(DESIGNS[name].operations), "triton")
            decoder.ops = TABLE.select(names)
            inputs = DecodeInputs(spec.n_seqs, spec.max_context, PAGE_TOKENS, device)
            decode = {n: decode_call(decoder, inputs, n) for n in buckets}
            warm(decode, prefill, tokens, min(several, 3))
    return launches


def _check_and_try(decoder: PagedDecoder, spec: LoadSpec, facts: DeviceFacts) -> None:
    """The check of every kernel, and the trials of products."""
    buckets, chunk = batch_buckets(spec.n_seqs), spec.max_chunk
    portable = {op: by for op, by in TABLE.resolve({}, "triton").items() if by != SEPARATE}
    _check(decoder, portable, checked_rows(buckets), chunk)
    checked = few_rows(buckets)
    for name in designs_for(facts):
        own = DESIGNS[name].operations
        _check(decoder, own, checked, checked[-1])
        for operation in own.keys() & set(PRODUCTS):
            for few in (n for n in tried_rows(buckets, chunk) if n <= FEW_ROWS):
                trial(decoder, operation, own[operation], few)()
    candidates = {operation: list(ALWAYS) for operation in PRODUCTS}
    for name, candidate in SOMETIMES.items():
        if not candidate.runs_on(facts) or (candidate.many and chunk <= FEW_ROWS):
            continue
        able = [op for op in PRODUCTS if candidate.multiplies(decoder, op)]
        rows, last = ((), chunk) if candidate.many else (checked, checked[-1])
        _check(decoder, dict.fromkeys(able, name), rows, last)
        for operation in able:
            candidates[operation].append(name)
    for operation, names in candidates.items():
        for n_rows in tried_rows(buckets, chunk):
            for name in able_at(names, n_rows):
                trial(decoder, operation, name, n_rows)()


def _check(
    decoder: PagedDecoder, operations: Mapping[str, str], rows: Sequence[int], chunk: int
) -> None:
    for case in cases(decoder, rows, chunk):
        if name := operations.get(case.operation):
            called(TABLE.find(case.operation, name), case, decoder.device)
