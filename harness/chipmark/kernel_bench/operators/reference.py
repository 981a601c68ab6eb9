"""Inputs of an operator and what it must give, in float64 by NumPy; imports no backend.

Inputs are rounded to the precision first and widened again, so that every backend gets the same
values and only its arithmetic is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chipmark.kernel_bench.operators.case import PRODUCTS, Operator, OperatorCase, matrix_of
from chipmark_models.config import ModelConfig
from chipmark_models.rope import cos_sin_tables
from chipmark_models.tensors import EMBEDDING, HEAD, layer_prefix
from chipmark_models.weights.plain import round_to, widen
from chipmark_models.weights.prepared import PrecisionWeights

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Inputs = Mapping[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]

MOST_ROWS = 64
"""Rows of a long prompt whose attention is checked against the reference, first and last in it."""

RMS_LIMIT: Mapping[str, float] = {"fp32": 5e-5, "bf16": 4e-3, "fp16": 4e-3}
"""Largest rms-relative error of an operator. fp32: sums of some thousand products in any order
stay under 5e-6, and products in TF32 or fp16 are 3e-4 and more away. 16-bit: the limit of
`chipmark_kernels.parity`, a few roundings of bf16 (2^-9 each)."""

MAX_LIMIT: Mapping[str, float] = {"fp32": 1e-3, "bf16": 2e-2, "fp16": 2e-2}
"""Largest single error, relative to the value or to the rms of all."""


@dataclass(frozen=True, slots=True)
class Expected:
    """`values` (rows, width), float64, or ids (rows,); `rows` of the result that they are."""

    values: F64 | npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


def make_inputs(case: OperatorCase, seed: int) -> Inputs:
    """Activations and cached rows of a case, normal values.

    `x` (rows, width) of most operators; `ids` (rows,) of EMBED; `qkv` (rows, (heads + 2 kv_heads)
    x head_dim), `past_key` and `past_value` (batch, kv_heads, context, head_dim) of ATTENTION.
    """
    rng, c = np.random.default_rng(seed), case.config

    def normal(*shape: int) -> F32:
        return rounded(rng.standard_normal(shape, np.float32), case.precision)

    if case.operator is Operator.EMBED:
        return {"ids": rng.integers(0, c.vocab_size, case.rows)}
    if case.operator is Operator.ATTENTION:
        past = (case.batch, c.n_kv_heads, case.context, c.head_dim)
        return {
            "qkv": normal(case.rows, c.q_size + 2 * c.kv_size),
            "past_key": normal(*past),
            "past_value": normal(*past),
        }
    width = {
        Operator.RMS_NORM: c.hidden_size,
        Operator.SWIGLU: 2 * c.intermediate_size,
        Operator.GREEDY: c.vocab_size,
    }
    if case.operator in width:
        return {"x": normal(case.rows, width[case.operator])}
    return {"x": normal(case.rows, matrix_of(case.operator, c)[1])}


def rounded(array: F32, precision: str) -> F32:
    """The values of `array` as the precision holds them, float32."""
    return widen(round_to(array, precision), precision)


def expected(case: OperatorCase, inputs: Inputs, weights: PrecisionWeights, layer: int) -> Expected:
    """What the operator of this layer gives on the inputs."""
    every = np.arange(case.rows)
    if case.operator is Operator.EMBED:
        return Expected(weights.float32(EMBEDDING)[inputs["ids"]].astype(np.float64), every)
    if case.operator is Operator.ATTENTION:
        return _attention(case, inputs, weights, layer)
    x = inputs["x"].astype(np.float64)
    if case.operator is Operator.RMS_NORM:
        return Expected(_normed(x, _vector(weights, layer, "input_layernorm"), case.config), every)
    if case.operator is Operator.SWIGLU:
        gate, up = np.split(x, 2, axis=1)
        return Expected(gate / (1 + np.exp(-gate)) * up, every)
    if case.operator is Operator.GREEDY:
        return Expected(x.argmax(axis=1), every)
    return Expected(x @ matrix(case, weights, layer).T + bias(case, weights, layer), every)


def parts(case: OperatorCase, layer: int) -> tuple[str, ...]:
    """Names of the modules that the product stacks, without `.weight`."""
    prefix = layer_prefix(layer)
    names = {
        Operator.QKV: tuple(f"self_attn.{n}_proj" for n in "qkv"),
        Operator.OUT: ("self_attn.o_proj",),
        Operator.GATE_UP: ("mlp.gate_proj", "mlp.up_proj"),
        Operator.DOWN: ("mlp.down_proj",),
    }[case.operator]
    return tuple(prefix + name for name in names)


def has_bias(case: OperatorCase) -> bool:
    """Whether the product adds a bias."""
    c = case.config
    given = {Operator.QKV: c.qkv_bias, Operator.OUT: c.attn_out_bias, Operator.HEAD: False}
    return given.get(case.operator, c.mlp_bias)


def matrix(case: OperatorCase, weights: PrecisionWeights, layer: int) -> F64:
    """The product's weights (out, in)."""
    if case.operator in PRODUCTS:
        found = [weights.float32(f"{name}.weight") for name in parts(case, layer)]
        return np.concatenate(found).astype(np.float64)
    name = EMBEDDING if case.config.tied_embeddings else HEAD
    return weights.float32(name).astype(np.float64)


def bias(case: OperatorCase, weights: PrecisionWeights, layer: int) -> F64:
    """The product's bias (out,), zeros without one."""
    if not has_bias(case):
        return np.zeros(matrix_of(case.operator, case.config)[0])
    found = [weights.float32(f"{name}.bias") for name in parts(case, layer)]
    return np.concatenate(found).astype(np.float64)


def _vector(weights: PrecisionWeights, layer: int, name: str) -> F64:
    return weights.float32(f"{layer_prefix(layer)}{name}.weight").astype(np.float64)


def _normed(x: F64, weight: F64, config: ModelConfig) -> F64:
    found: F64 = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + config.rms_eps) * weight
    return found


def _attention(
    case: OperatorCase, inputs: Inputs, weights: PrecisionWeights, layer: int
) -> Expected:
    c, n = case.config, case.tokens
    heads = inputs["qkv"].astype(np.float64).reshape(case.batch, n, -1, c.head_dim)
    q, k, v = np.split(heads, [c.n_heads, c.n_heads + c.n_kv_heads], axis=2)
    if c.qk_norm:
        q = _normed(q, _vector(weights, layer, "self_attn.q_norm"), c)
        k = _normed(k, _vector(weights, layer, "self_attn.k_norm"), c)
    q, k = (rotate(x, c, case.context) for x in (q, k))
    tokens = np.unique(np.linspace(0, n - 1, min(n, MOST_ROWS)).round().astype(np.int64))
    group = c.n_heads // c.n_kv_heads
    out = np.empty((case.batch, len(tokens), c.n_heads, c.head_dim))
    ahead = np.arange(case.context + n) > case.context + tokens[:, None]
    for row in range(case.batch):
        for head in range(c.n_heads):
            kv = head // group
            past = (inputs[name][row, kv] for name in ("past_key", "past_value"))
            keys, values = (
                np.concatenate([old, new[row, :, kv]])
                for old, new in zip(past, (k, v), strict=True)
            )
            scores = q[row, tokens, head] @ keys.T * c.head_dim**-0.5
            scores[ahead] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            out[row, :, head] = scores / scores.sum(-1, keepdims=True) @ values
    rows = (np.arange(case.batch)[:, None] * n + tokens).reshape(-1)
    return Expected(out.reshape(len(rows), c.q_size), rows)


def rotate(x: F64, config: ModelConfig, start: int) -> F64:
    """Rotary positions from `start` on x (batch, tokens, heads, head_dim)."""
    cos, sin = (
        t.astype(np.float64)[:, None] for t in cos_sin_tables(config, x.shape[1], start=start)
    )
    half = config.head_dim // 2
    first = np.arange(0, config.head_dim, 2) if config.rope_interleaved else np.arange(half)
    second = first + (1 if config.rope_interleaved else half)
    out = np.empty_like(x)
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out


def errors(got: npt.NDArray[np.generic], wanted: Expected, precision: str) -> dict[str, object]:
    """A row's parity: `rms_relative` and `max_relative`, `problems` and `ok`.

    got: the operator's whole result; ids must be equal, all else within the limits.
    """
    found = got.reshape(-1, *wanted.values.shape[1:])
    if found.shape[0] <= wanted.rows.max():
        return _judged(None, None, [f"shape {got.shape}"])
    found = found[wanted.rows]
    if wanted.values.dtype.kind == "i":
        wrong = int((found.astype(np.int64) != wanted.values).sum())
        return _judged(0.0, 0.0, [f"{wrong} wrong of {len(found)}"] if wrong else [])
    wide = found.astype(np.float64)
    if not np.isfinite(wide).all():
        return _judged(None, None, ["not finite"])
    error = np.abs(wide - wanted.values)
    rms = float(np.sqrt(np.square(wanted.values).mean())) or 1.0
    rms_relative = float(np.sqrt(np.square(error).mean())) / rms
    max_relative = float((error / np.maximum(np.abs(wanted.values), rms)).max())
    problems = [
        f"{name} {value:.2e} over {limit:g}"
        for name, value, limit in (
            ("rms-relative", rms_relative, RMS_LIMIT[precision]),
            ("max-relative", max_relative, MAX_LIMIT[precision]),
        )
        if not value <= limit
    ]
    return _judged(rms_relative, max_relative, problems)


def _judged(rms: float | None, most: float | None, problems: list[str]) -> dict[str, object]:
    return {"rms_relative": rms, "max_relative": most, "problems": problems, "ok": not problems}
