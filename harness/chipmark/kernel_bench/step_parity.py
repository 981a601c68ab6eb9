"""Whether a whole step computes what it should: its logits against the same step in float32.

The exact step has the weights, keys and values of the timed one and activations in float32. Plain
torch with rounded activations is some way from it; ours may be `ROUNDED_FACTOR` times as far, which
is the rule of `results.tolerance`. A small model is checked against the oracle too, prompt and all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from chipmark.backends.triton_cuda.batches import ragged_batch
from chipmark.engine.contract import LaunchPlan, Rows
from chipmark.kernel_bench.whole_step import (
    I32,
    LEAST_TOKENS,
    PLAIN,
    StepModel,
    WholeStep,
    operations_of,
)
from chipmark.results.tolerance import tolerance_of
from chipmark_kernels.formats import PAGE_TOKENS
from chipmark_kernels.reference.attention import (
    decode_attention_reference,
    prefill_attention_reference,
)
from chipmark_kernels.reference.gemm import skinny_gemm_reference
from chipmark_kernels.reference.rmsnorm import rmsnorm_reference
from chipmark_kernels.reference.rope_kv import qknorm_rope_kvwrite_reference
from chipmark_models.costs import weight_bytes_stored
from chipmark_models.decoder.paged import ops as paged_ops
from chipmark_models.decoder.paged.ops import PRODUCTS, Matrix, PagedOps
from chipmark_models.decoder.paged.quantised import QuantisedMatrix
from chipmark_models.decoder.paged.torch_ops import greedy, widened
from chipmark_models.oracle import Oracle, exact_products
from chipmark_models.precision import precision_named
from chipmark_models.rounding import ROUNDINGS

MOST_TOKENS = 1 << 17
"""Cached tokens over all rows of a checked step: the exact one widens them to float32."""

MOST_OWN = 0.13
"""Largest distance of plain torch that a tolerance is made of: a cached row left out moves logits
by 0.3 and more (`results.tolerance`)."""

ORACLE_BYTES = 400_000_000
"""Weights up to which a model is checked against the oracle."""

_PROMPT = 33
assert _PROMPT < LEAST_TOKENS


def _wide(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.float()


def _embed_norm(
    ids: torch.Tensor, table: torch.Tensor, norm: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = table.index_select(0, ids).float()
    return hidden, rmsnorm_reference(hidden, norm.float(), eps)[0]


def _product(
    x: torch.Tensor,
    matrix: Matrix,
    bias: torch.Tensor | None = None,
    *,
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    weight = widened(matrix, torch.float32) if isinstance(matrix, QuantisedMatrix) else matrix
    return skinny_gemm_reference(
        x, weight, _wide(bias), norm_weight=_wide(norm), eps=eps, swiglu=swiglu, residual=residual
    )


def _rope_kv(*args: Any, q_norm: Any = None, k_norm: Any = None, eps: float) -> torch.Tensor:
    return qknorm_rope_kvwrite_reference(*args, q_norm=_wide(q_norm), k_norm=_wide(k_norm), eps=eps)


def _rows_as_they_are(x: torch.Tensor, norm: torch.Tensor | None, eps: float) -> Any:
    raise NotImplementedError("a decode step quantises no rows")


EXACT = PagedOps(
    embed_norm=_embed_norm,
    quantise_rows=_rows_as_they_are,
    rope_kv=_rope_kv,
    prefill_attention=prefill_attention_reference,
    decode_attention=decode_attention_reference,
    greedy=greedy,
    **dict.fromkeys(PRODUCTS, _product),
)
"""The step in float32, over weights, keys and values as they are stored."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What steps of (rows, context) are checked against."""

    rows: int
    context: int
    lengths: I32
    """Tokens that each row attends to: unlike, from 1 to the most that is checked."""

    exact: torch.Tensor
    """float32 (rows, vocab)."""

    own: float
    """Distance of plain torch in the activations' type."""

    tolerance: float


def distance(exact: torch.Tensor, got: torch.Tensor) -> float:
    """rms of the difference over rms of the exact centred logits, of the worst row; infinite where
    a value is not finite."""
    got = got.float()
    if got.shape != exact.shape or not bool(torch.isfinite(got).all()):
        return float("inf")
    spread = (exact - exact.mean(-1, keepdim=True)).square().mean(-1).sqrt()
    return float(((got - exact).square().mean(-1).sqrt() / spread).max())


@torch.inference_mode()
def reference_of(model: StepModel, rows: int, context: int) -> Reference:
    """The exact logits of a step of unlike lengths, and how far plain torch is from them."""
    exact_products()
    most = max(1, min(context, MOST_TOKENS // rows))
    lengths = np.linspace(most, 1, rows).astype(np.int32)
    model.set_lengths(rows, context, lengths)
    batch = model.inputs(rows, context).batch(rows)
    exact = model.by(EXACT).forward(batch)
    plain = model.by(paged_ops.TABLE.select(operations_of(PLAIN[0]))).forward(batch)
    own = distance(exact, plain)
    if model.decoder.activation == torch.float32:
        return Reference(rows, context, lengths, exact, own, tolerance_of("fp32"))
    return Reference(rows, context, lengths, exact, own, tolerance_of("", min(own, MOST_OWN)))


@torch.inference_mode()
def step_parity(model: StepModel, step: WholeStep, reference: Reference) -> dict[str, Any]:
    """Play the step once at the reference's lengths: `ok`, distances and what is wrong. Lengths are
    set back to the step's context afterwards."""
    model.set_lengths(step.rows, step.context, reference.lengths)
    logits, ids = (t.clone() for t in step.play())
    model.set_lengths(step.rows, step.context, np.full(step.rows, step.context, np.int32))
    return judged(logits, ids, reference)


def judged(logits: torch.Tensor, ids: torch.Tensor, reference: Reference) -> dict[str, Any]:
    """`step_parity` of logits and ids that were computed already."""
    found = distance(reference.exact, logits)
    wrong_ids = int((ids.long() != logits.float().argmax(-1)).sum())
    problems = []
    if not found <= reference.tolerance:
        problems.append(f"logits are rms {found:.1e} from the exact step's, over "
                        f"{reference.tolerance:.1e}")  # fmt: skip
    if wrong_ids:
        problems.append(f"{wrong_ids} of {reference.rows} ids are not the largest logit's")
    return {
        "ok": not problems,
        "rms_rel": found if np.isfinite(found) else None,
        "tolerance": reference.tolerance,
        "torch_rms_rel": reference.own,
        "lengths": [int(reference.lengths.min()), int(reference.lengths.max())],
        "problems": problems,
    }


@torch.inference_mode()
def oracle_parity(model: StepModel, name: str) -> dict[str, Any] | None:
    """A prompt and one decoded token by a design against the oracle; None for a larger model.

    The pages that it takes are overwritten. UsageError as `StepModel.step`.
    """
    c, weights = model.decoder.config, model.weights
    if weight_bytes_stored(c, weights.precision) > ORACLE_BYTES:
        return None
    ids = np.random.default_rng(model.seed).integers(0, c.vocab_size, _PROMPT + 1)
    prompt = _launch(model, name, ids[:-1], 0)
    decoded = _launch(model, name, ids[-1:], _PROMPT)
    got = torch.cat((prompt, decoded)).float().cpu()
    last = [np.arange(_PROMPT - 1, _PROMPT + 1)]
    exact = torch.from_numpy(Oracle(c, weights.float32).logits([ids], last)[0])
    kept = precision_named(weights.precision).kept
    tolerance, own = tolerance_of("fp32"), None
    if model.decoder.activation != torch.float32:
        rounded = Oracle(c, weights.float32, rounding=ROUNDINGS[kept]).logits([ids], last)[0]
        own = distance(exact, torch.from_numpy(rounded))
        # Of two rows alone what rounding does is no more than a guess.
        tolerance = max(tolerance_of("16-bit"), tolerance_of("", own))
    found = distance(exact, got)
    return {"ok": found <= tolerance, "rms_rel": found, "tolerance": tolerance, "own": own}


def _launch(model: StepModel, name: str, ids: npt.NDArray[np.int64], start: int) -> torch.Tensor:
    """Logits of the last of `ids` behind `start` cached tokens, in the first pages."""
    width = -(-(_PROMPT + 1) // PAGE_TOKENS)
    rows = Rows(
        seq=np.zeros(1, np.int32),
        slot=np.full(1, -1, np.int32),
        start=np.full(1, start, np.int32),
        length=np.full(1, len(ids), np.int32),
        tokens=ids.astype(np.int32),
        pages=np.arange(width, dtype=np.int32)[None],
        sample=np.ones(1, np.bool_),
    )
    decoder = model.by(paged_ops.TABLE.select(operations_of(name)))
    if len(ids) == 1:
        inputs = model.inputs(1, width * PAGE_TOKENS)
        inputs.fill(rows, model.stream)
        return decoder.forward(inputs.batch(1))
    plan = LaunchPlan("prefill_cold", rows, 1, len(ids), len(ids))
    batch, _ = ragged_batch(plan, PAGE_TOKENS, model.device, model.stream)
    return decoder.forward(batch)
