"""The whole decode step of a model as a bench: forward and greedy ids in one captured launch.

Weights are synthetic and keys and values random: a step costs the same whatever they are. Weights
are read cold by themselves wherever the model is larger than the cache. No workload, engine or
record is needed, so that designs are compared in seconds.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from chipmark.backends.fit import Need, check_fit
from chipmark.backends.torch_device.memory import free_bytes
from chipmark.backends.triton_cuda.batches import DecodeInputs
from chipmark.backends.triton_cuda.streams import Call, LaunchStream, stream_of
from chipmark.engine.contract import Rows
from chipmark.errors import UnknownNameError, UsageError
from chipmark_kernels.device import facts_of
from chipmark_kernels.formats import PAGE_TOKENS
from chipmark_models.costs import kv_bytes_per_token, weight_bytes_stored
from chipmark_models.decoder.device_made import open_on
from chipmark_models.decoder.paged import ops as paged_ops
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.designs import DESIGNS
from chipmark_models.precision import precision_named
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import PrecisionWeights, WeightSpec
from chipmark_models.weights.source import WeightRef

PORTABLE = "portable"
PLAIN = ("torch", "reference")
"""Implementations of all operations that are not designs: plain torch and cuBLAS, and the kernels'
references."""

_WORK_BYTES = 3_000_000_000
"""Logits, the float32 head of the exact step, cuBLAS's workspaces and the driver's context."""

LEAST_TOKENS = 64
"""Tokens that pages hold at least: a prompt for the oracle has room."""

I32 = npt.NDArray[np.int32]


def contestants() -> tuple[str, ...]:
    """Names that `StepModel.step` takes: designs, then PLAIN."""
    return (*DESIGNS, *PLAIN)


def operations_of(name: str) -> dict[str, str]:
    """Implementations by operation of a design, or one of PLAIN for all; UnknownNameError."""
    if name in PLAIN:
        return paged_ops.TABLE.resolve(None, name)
    if name not in DESIGNS:
        raise UnknownNameError("design", name, contestants())
    return paged_ops.TABLE.resolve(DESIGNS[name].operations, "triton")


def check_runs(name: str, device: torch.device) -> None:
    """UnknownNameError for an unknown contestant; UsageError for one that the device cannot run."""
    operations_of(name)
    if name in PLAIN:
        return
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise UsageError(
            f"{name}: the kernels need a card",
            f"on a CPU: {' or '.join(PLAIN)}, or Triton's interpreter by TRITON_INTERPRET=1",
        )
    if not DESIGNS[name].runs_on(facts_of(device)):
        raise UsageError(
            f"{name} does not run on {facts_of(device).name}", f"{PORTABLE} runs everywhere"
        )


@dataclass(frozen=True, slots=True)
class WholeStep:
    """A decode step that is ready to be played."""

    name: str
    """Who computes it."""

    rows: int
    context: int
    """Tokens that each row attends to, the new one among them."""

    play: Call
    """One step: (logits (rows, vocab), ids int32 (rows,)), overwritten by the next. On a card a
    replay of a graph."""

    eager: Call
    """The same without a graph."""

    stream: LaunchStream


@dataclass(slots=True)
class StepModel:
    """A model on a device with synthetic weights and random pages, shared by all contestants."""

    device: torch.device
    decoder: PagedDecoder
    weights: PrecisionWeights
    stream: LaunchStream
    seed: int
    host_made: str = ""
    """Why the host computed the weights although a card could make them, or ""."""

    _inputs: dict[tuple[int, int], DecodeInputs] = field(default_factory=dict)

    def step(self, rows: int, context: int, name: str = PORTABLE) -> WholeStep:
        """Capture the step of `rows` rows by a design (or one of PLAIN), its inputs set to
        `context` tokens a row. Raises as `check_runs`, and UsageError for too many pages."""
        check_runs(name, self.device)
        decoder = self.by(paged_ops.TABLE.select(operations_of(name)))
        inputs = self.inputs(rows, context)
        self.set_lengths(rows, context, np.full(rows, context, np.int32))
        batch = inputs.batch(rows)

        def eager() -> tuple[torch.Tensor, ...]:
            logits = decoder.forward(batch)
            return logits, decoder.ops.greedy(logits)

        with torch.inference_mode():
            play = self.stream.capture(eager, kept=True)
        return WholeStep(name, rows, context, play, eager, self.stream)

    def by(self, ops: paged_ops.PagedOps) -> PagedDecoder:
        """The decoder with other operations; weights, keys and values are the same memory."""
        decoder = copy.copy(self.decoder)
        decoder.ops = ops
        return decoder

    def inputs(self, rows: int, context: int) -> DecodeInputs:
        """The memory that steps of so many rows and tokens read, one for all contestants."""
        kept = self._inputs.get((rows, context))
        if kept is None:
            kept = self._inputs[rows, context] = DecodeInputs(
                rows, context, PAGE_TOKENS, self.device
            )
        return kept

    @torch.inference_mode()
    def set_lengths(self, rows: int, context: int, lengths: I32) -> Rows:
        """Let the step of (rows, context) attend to `lengths` tokens a row, each 1 to context, by
        pages in random order; what was set."""
        width = -(-context // PAGE_TOKENS)
        n_pages = self.decoder.kv.k[0].shape[0]
        if rows * width > n_pages:
            raise UsageError(f"{rows} rows of {context} tokens need {rows * width} pages, not "
                             f"{n_pages}")  # fmt: skip
        rng = np.random.default_rng(self.seed)
        pages = rng.permutation(n_pages)[: rows * width].reshape(rows, width).astype(np.int32)
        held = Rows(
            seq=np.arange(rows, dtype=np.int32),
            slot=np.full(rows, -1, np.int32),
            start=(lengths - 1).astype(np.int32),
            length=np.ones(rows, np.int32),
            tokens=rng.integers(0, self.decoder.config.vocab_size, rows).astype(np.int32),
            pages=pages,
            sample=np.ones(rows, np.bool_),
        )
        self.inputs(rows, context).fill(held, self.stream)
        return held


def step_model(
    model: str,
    device: torch.device,
    *,
    rows: int = 1,
    context: int = 1_024,
    precision: str = "bf16",
    seed: int = 0,
    activation: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> StepModel:
    """The preset `model` on a device, with pages for `rows` rows of `context` tokens, at least
    LEAST_TOKENS.

    Raises UnknownNameError for a model or precision, DoesNotFitError with what would fit.
    """
    config = preset(model)
    precision_named(precision)
    context = max(context, LEAST_TOKENS)
    n_pages = rows * -(-context // PAGE_TOKENS)
    kv = precision_named(precision).kv
    need = Need(
        weight_bytes=int(weight_bytes_stored(config, precision)),
        bytes_per_token=kv_bytes_per_token(config, kv),
        n_seqs=rows,
        max_context=context,
        model_context=config.max_context,
        kv_tokens=n_pages * PAGE_TOKENS,
        work_bytes=0 if device.type == "cpu" else _WORK_BYTES,
    )
    check_fit(need, free_bytes(device), f"{model} on {device}")
    spec = WeightSpec(WeightRef("synthetic", model, None, seed), precision, None)
    weights, not_made = open_on(spec, device)
    decoder = PagedDecoder(
        weights, device, paged_ops.TABLE.select(operations_of(PLAIN[0])),
        n_pages=n_pages, max_context=context, activation=activation, progress=progress,
    )  # fmt: skip
    generator = torch.Generator(device).manual_seed(seed)
    with torch.inference_mode():
        for cache in (*decoder.kv.k, *decoder.kv.v):
            cache.normal_(generator=generator)
    return StepModel(device, decoder, weights, stream_of(device), seed, not_made)


def whole_step(
    model: str,
    *,
    rows: int = 1,
    context: int = 1_024,
    precision: str = "bf16",
    design: str = PORTABLE,
    device: torch.device | None = None,
    seed: int = 0,
) -> WholeStep:
    """A whole decode step of a preset, ready to be played, as a profiler wants it: `.play()`.

    device: the current CUDA device by default. Raises as `step_model` and `StepModel.step`.
    """
    device = device or torch.device("cuda", torch.cuda.current_device())
    made = step_model(model, device, rows=rows, context=context, precision=precision, seed=seed)
    return made.step(rows, context, design)
