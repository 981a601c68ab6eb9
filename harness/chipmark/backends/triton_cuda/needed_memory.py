"""What a cell takes of the device's memory, before anything is allocated."""

from __future__ import annotations

from chipmark.backends.fit import Need
from chipmark.backends.triton_cuda.prefill import graph_bytes
from chipmark.engine.contract import LoadSpec
from chipmark_models.config import ModelConfig
from chipmark_models.costs import kv_bytes_per_token, weight_bytes_stored
from chipmark_models.decoder.paged.designs import DESIGNS
from chipmark_models.decoder.reading import DTYPES

MOST_ROWS = 256
"""Rows of the widest decode launch."""

PREFILL_ROWS = 16
"""Rows of the widest prefill launch."""

_CONTEXT_BYTES = 800_000_000
"""The driver's context, cuBLAS's workspaces and what Triton's modules take."""


def batch_buckets(n_seqs: int) -> tuple[int, ...]:
    """Rows that decode is captured for: 1, 2, 4, 8, then every eighth to 64 and every 32nd to
    MOST_ROWS, and the largest that is asked for."""
    most = min(n_seqs, MOST_ROWS)
    steps = (1, 2, 4, *range(8, 65, 8), *range(96, MOST_ROWS + 1, 32))
    return (*(step for step in steps if step < most), most)


def need_of(config: ModelConfig, spec: LoadSpec, activation: str, kv_tokens: int) -> Need:
    """Bytes that the cell takes of the device.

    Working memory: activations of a chunk, logits of the widest decode launch with their copy for
    the host, and the float64 pair of the largest matrix that the check of kernels makes, or what
    the trial of designs holds behind it. Of captured decode the logits of every bucket; of captured
    prefill what its graphs hold.
    """
    c = config
    item = DTYPES[storage_of(activation)].itemsize
    wide = c.q_size + 2 * c.kv_size + 3 * c.intermediate_size + 4 * c.hidden_size
    rows = min(spec.n_seqs, MOST_ROWS)
    matrix = c.hidden_size * max(2 * c.intermediate_size, c.q_size + 2 * c.kv_size)
    logits = c.vocab_size * item
    work = 2 * spec.max_chunk * wide * item + rows * (2 * logits + 4 * c.vocab_size)
    captured = spec.options.get("graphs", True)
    # Each design is captured on its own, and all are held while they are played in turn.
    tried = len(DESIGNS) * rows * (2 * logits + wide * item)
    work += max(16 * matrix, tried) if captured else 16 * matrix
    kv = storage_of(activation)
    if captured:
        work += sum(batch_buckets(spec.n_seqs)[:-1]) * logits
    if captured and spec.options.get("prefill_graphs", True):
        tokens = min(spec.max_chunk, spec.max_context)
        work += graph_bytes(tokens, min(rows, PREFILL_ROWS), c.vocab_size, wide * item, item)
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
