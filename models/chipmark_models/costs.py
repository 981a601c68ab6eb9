"""What a model must read and compute, from its shape alone (standard library only).

These are the numerators of `mbu` and `mfu`: necessary bytes and FLOPs, without padding, copies
or over-read, so that a backend's choices can only lower its share of a roof.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from chipmark_models.config import ModelConfig
from chipmark_models.errors import UnknownNameError
from chipmark_models.precision import PRECISIONS, tensor_bytes
from chipmark_models.tensors import EMBEDDING, HEAD, expected_shapes

# Bits a stored element takes where every matrix is quantised, the table too, scales and zero points
# included: int8 and int4 in groups of 32 with an fp16 scale, int4 with a 4-bit zero point too.
_WHOLLY_QUANTISED_BITS: Mapping[str, float] = {
    "int8-g32": 8.0 + 16.0 / 32,
    "int4-g32": 4.0 + (16.0 + 4.0) / 32,
}
WEIGHT_PRECISIONS: tuple[str, ...] = (*PRECISIONS, *_WHOLLY_QUANTISED_BITS)
"""Names of weights' precisions whose bytes are known here."""
KV_BYTES: Mapping[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}


def parameters(config: ModelConfig) -> int:
    """All parameters; a tied head counts once."""
    return sum(math.prod(shape) for shape in expected_shapes(config).values())


def head_parameters(config: ModelConfig) -> int:
    """Parameters that the head multiplies by, tied or not: vocab x hidden."""
    return config.vocab_size * config.hidden_size


def non_embedding_parameters(config: ModelConfig) -> int:
    """Parameters without embedding and head: those of the layers and of the final norm."""
    shapes = expected_shapes(config)
    return sum(math.prod(s) for n, s in shapes.items() if n not in (EMBEDDING, HEAD))


def weight_bytes_stored(config: ModelConfig, precision: str) -> float:
    """Bytes of all weights as stored, scales included. What a quantised precision keeps (vectors,
    and of `w8`, `w4`, `fp8` the table and the head, see `precision`) is 16-bit."""
    return sum(_bytes(n, s, precision) for n, s in expected_shapes(config).items())


def weight_bytes_per_launch(
    config: ModelConfig, precision: str, gathered_rows: int, *, head: bool = True
) -> float:
    """Bytes of weights that one launch must read once.

    Layers and final norm whole; the head once when `head` (a launch of which no row is sampled
    needs none); of an untied embedding `gathered_rows` rows. A tied table is read once as the
    head, and its gathered rows come with that; without a head only they are read.
    """
    shapes = expected_shapes(config)
    layers = sum(_bytes(n, s, precision) for n, s in shapes.items() if n not in (EMBEDDING, HEAD))
    table = _bytes(EMBEDDING, shapes[EMBEDDING], precision)
    gathered = table * min(gathered_rows, config.vocab_size) / config.vocab_size
    if not head:
        return layers + gathered
    return layers + table + (0.0 if config.tied_embeddings else gathered)


def kv_bytes_per_token(config: ModelConfig, kv_precision: str) -> int:
    """Bytes of keys and values that one token keeps: 2 x layers x KV heads x head_dim x size."""
    if kv_precision not in KV_BYTES:
        raise UnknownNameError("KV precision", kv_precision, KV_BYTES)
    return 2 * config.n_layers * config.kv_size * KV_BYTES[kv_precision]


def linear_flops(config: ModelConfig, n_tokens: int, head_rows: int) -> int:
    """2 x non-embedding parameters a token, and 2 x vocab x hidden for each row of the head."""
    return 2 * non_embedding_parameters(config) * n_tokens + 2 * head_parameters(config) * head_rows


def attention_flops(config: ModelConfig, causal_context_sum: int) -> int:
    """4 x layers x heads x head_dim x the sum over new tokens of the tokens each attends to."""
    return 4 * config.n_layers * config.q_size * causal_context_sum


def causal_context_sum(start: int, n_new: int) -> int:
    """Sum over new tokens at start..start+n_new of their contexts, themselves included."""
    return n_new * start + n_new * (n_new + 1) // 2


def prefill_flops(config: ModelConfig, n_new: int, causal_context_sum: int, head_rows: int) -> int:
    """Numerator of `mfu` for a prefill: linear and attention FLOPs of the new tokens.

    `head_rows` counts the rows whose logits are needed: one for each sequence that ends its
    prompt in the launch, none for the chunks before.
    """
    return linear_flops(config, n_new, head_rows) + attention_flops(config, causal_context_sum)


def _bytes(name: str, shape: tuple[int, ...], precision: str) -> float:
    if precision in PRECISIONS:
        return tensor_bytes(precision, name, shape)
    if precision not in _WHOLLY_QUANTISED_BITS:
        raise UnknownNameError("precision", precision, WEIGHT_PRECISIONS)
    bits = 16.0 if len(shape) == 1 else _WHOLLY_QUANTISED_BITS[precision]
    return math.prod(shape) * bits / 8
