"""Prefill of a row by a design, in launches of a chunk, as an engine queues them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from chipmark.backends.triton_cuda.batches import ragged_batch
from chipmark.engine.contract import LaunchPlan, Rows
from chipmark.kernel_bench.step_parity import distance
from chipmark.kernel_bench.whole_step import PLAIN, StepModel, check_runs, operations_of
from chipmark.kernel_bench.worker import error_text
from chipmark_kernels.formats import PAGE_TOKENS
from chipmark_models.decoder.paged import ops as paged_ops

FAR_FROM_TORCH = 0.2
"""Largest distance of a prompt's last logits from plain torch's. Two that round in other orders are
about 0.1 from the exact logits each; a cached row left out moves logits by 0.3 and more."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What contestants took for a prompt."""

    parity: dict[str, Any]
    samples_s: dict[str, list[float]]
    errors: dict[str, str]


def prefill(
    model: StepModel, names: Sequence[str], new: int, context: int, chunk: int, rounds: int
) -> Prefilled:
    """`new` tokens behind context - new cached ones, by each of the contestants in turn.

    The last token's logits are compared with plain torch's before anything is timed. Pages are
    overwritten. Times hold what the host needs to launch.
    """
    plain = prompt_call(model, PLAIN[0], new, context, chunk)().float()
    found = Prefilled({}, {}, {})
    calls: dict[str, Callable[[], torch.Tensor]] = {}
    for name in names:
        try:
            check_runs(name, model.device)
            call = prompt_call(model, name, new, context, chunk)
            far = distance(plain, call())
        except Exception as error:  # it costs this contestant
            found.errors[name] = error_text(error)
            continue
        right = far <= FAR_FROM_TORCH
        found.parity[name] = {"ok": right, "rms_rel_of_torch": far if np.isfinite(far) else None}
        if right:
            calls[name] = call
            found.samples_s[name] = []
        else:
            found.errors[name] = f"logits are rms {far:.1e} from plain torch's"
    for _ in range(rounds):
        for name, call in calls.items():
            first = model.stream.mark()
            call()
            last = model.stream.mark()
            model.stream.wait(last)
            found.samples_s[name].append(model.stream.seconds(first, last))
    return found


def prompt_call(
    model: StepModel, name: str, new: int, context: int, chunk: int
) -> Callable[[], torch.Tensor]:
    """A call that prefills and gives the last token's logits (1, vocab)."""
    decoder = model.by(paged_ops.TABLE.select(operations_of(name)))
    rng = np.random.default_rng(model.seed)
    ids = rng.integers(0, decoder.config.vocab_size, new).astype(np.int32)
    pages = rng.permutation(decoder.kv.k[0].shape[0]).astype(np.int32)
    pages = pages[: -(-context // PAGE_TOKENS)][None]

    @torch.inference_mode()
    def call() -> torch.Tensor:
        for start in range(0, new, chunk):
            part = ids[start : start + chunk]
            begin = context - new + start
            rows = Rows(
                seq=np.zeros(1, np.int32),
                slot=np.full(1, -1, np.int32),
                start=np.full(1, begin, np.int32),
                length=np.full(1, part.size, np.int32),
                tokens=part,
                pages=pages,
                sample=np.full(1, start + part.size == new),
            )
            plan = LaunchPlan("prefill_append", rows, 1, part.size, begin + part.size)
            batch, _ = ragged_batch(plan, PAGE_TOKENS, model.device, model.stream)
            logits = decoder.forward(batch)
        return logits

    return call
