"""One operator at one shape: what it must move and compute, whatever computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from chipmark.workload.kernel_shapes import KernelShape
from chipmark_models.config import ModelConfig
from chipmark_models.costs import causal_context_sum
from chipmark_models.precision import PRECISIONS


class Operator(StrEnum):
    """What a decoder is made of, in the order of a layer."""

    EMBED = "embed"
    RMS_NORM = "rms_norm"
    QKV = "qkv"
    ATTENTION = "attention"
    """From packed projections to the heads' output: norms of heads where the model has them,
    rotation, the new keys and values, and attention over cache and new tokens."""
    OUT = "out"
    GATE_UP = "gate_up"
    SWIGLU = "swiglu"
    DOWN = "down"
    HEAD = "head"
    GREEDY = "greedy"


PRODUCTS = (Operator.QKV, Operator.OUT, Operator.GATE_UP, Operator.DOWN)
"""Matrix products of a layer."""


@dataclass(frozen=True, slots=True)
class OperatorCase:
    """An operator of `config` at `batch` rows of `tokens` new tokens each on `context` cached ones.

    bytes: weights, activations in and out, and the cached rows that must be read, each once.
    flops: of the products. The share of the roof is against the larger of the two limits
    (`bound` "roofline"). kernel, name and the rest are what a row of the document holds.
    """

    operator: Operator
    config: ModelConfig
    batch: int
    tokens: int
    context: int
    precision: str
    bytes: int
    flops: int
    bound: str = "roofline"
    peers: Mapping[str, object] = field(default_factory=dict)

    @property
    def kernel(self) -> str:
        """The operator's name."""
        return self.operator.value

    @property
    def rate(self) -> str:
        """The precision whose matrix rate limits it."""
        return self.precision

    @property
    def rows(self) -> int:
        """Tokens computed."""
        return self.batch * self.tokens

    @property
    def size(self) -> dict[str, int]:
        """The sizes in the name."""
        if self.operator is Operator.ATTENTION:
            return {"seqs": self.batch, "new": self.tokens, "cached": self.context}
        rows = {"rows": self.rows}
        if self.operator in PRODUCTS or self.operator is Operator.HEAD:
            n, k = matrix_of(self.operator, self.config)
            return rows | {"n": n, "k": k}
        return rows

    @property
    def name(self) -> str:
        """Model and sizes, as `key=value`."""
        sizes = " ".join(f"{key}={value}" for key, value in self.size.items())
        return f"{self.config.name} {sizes}"


def matrix_of(operator: Operator, config: ModelConfig) -> tuple[int, int]:
    """(out, in) of the operator's weights."""
    c = config
    return {
        Operator.QKV: (c.q_size + 2 * c.kv_size, c.hidden_size),
        Operator.OUT: (c.hidden_size, c.q_size),
        Operator.GATE_UP: (2 * c.intermediate_size, c.hidden_size),
        Operator.DOWN: (c.hidden_size, c.intermediate_size),
        Operator.HEAD: (c.vocab_size, c.hidden_size),
    }[operator]


def operator_cases(
    config: ModelConfig, shapes: Sequence[KernelShape], precision: str
) -> list[OperatorCase]:
    """Every operator at the shapes of a profile, decode first; each size once.

    Attention depends on context; the rest on the number of tokens alone. The head and sampling run
    on one row of a sequence, so at the batches of decode.
    """
    found: dict[tuple[str, str], OperatorCase] = {}
    for shape in sorted(shapes, key=lambda s: s.kind != "decode"):
        for case in _cases(config, shape, precision):
            found.setdefault((case.kernel, case.name), case)
    return list(found.values())


def _cases(config: ModelConfig, shape: KernelShape, precision: str) -> Iterator[OperatorCase]:
    decode = shape.kind == "decode"
    item = PRECISIONS[precision].bits // 8
    for operator in Operator:
        if operator in (Operator.HEAD, Operator.GREEDY) and not decode:
            continue
        context = shape.context_tokens if operator is Operator.ATTENTION else 0
        n_bytes, flops = _work(operator, config, shape.batch, shape.q_tokens, context, item)
        yield OperatorCase(
            operator, config, shape.batch, shape.q_tokens, context, precision, n_bytes, flops
        )


def _work(
    operator: Operator, config: ModelConfig, batch: int, tokens: int, context: int, item: int
) -> tuple[int, int]:
    """(bytes, FLOPs) that are necessary."""
    c, rows = config, batch * tokens
    if operator in PRODUCTS or operator is Operator.HEAD:
        n, k = matrix_of(operator, c)
        return item * (n * k + rows * (n + k)), 2 * rows * n * k
    if operator is Operator.ATTENTION:
        kept = batch * (context + 2 * tokens) * 2 * c.kv_size  # cache read; new rows in and out
        seen = batch * causal_context_sum(context, tokens)
        return item * (kept + 2 * rows * c.q_size), 4 * c.q_size * seen
    elements = {
        Operator.EMBED: 2 * rows * c.hidden_size,
        Operator.RMS_NORM: 2 * rows * c.hidden_size + c.hidden_size,
        Operator.SWIGLU: 3 * rows * c.intermediate_size,
        Operator.GREEDY: rows * c.vocab_size,
    }[operator]
    return item * elements, 0
