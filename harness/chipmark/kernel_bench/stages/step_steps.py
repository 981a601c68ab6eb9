"""Whole steps of models as steps of a stage: what they cost, then designs next to gpt-fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from chipmark.kernel_bench.stages.contract import MAIN, Asked, Part, Stage, StageStep

_WORK = "chipmark.kernel_bench.stages.step_steps:whole_steps"
_USES = (
    "chipmark_kernels", "chipmark_models.decoder", "chipmark.kernel_bench.step_bench",
    "chipmark.kernel_bench.step_figures", "chipmark.kernel_bench.step_parity",
    "chipmark.kernel_bench.step_prefill", "chipmark.kernel_bench.whole_step",
    "chipmark.kernel_bench.whole_step_peer",
)  # fmt: skip
"""An edit elsewhere leaves what was measured as it is."""

_MODELS = ("qwen3-8b", "qwen3-1.7b", "qwen3-0.6b", "llama-3.2-1b")


def whole_steps(asked: Asked) -> Iterator[Part]:
    """The `Work` of the steps below: parameters are the fields of `StepRequest`."""
    import torch

    from chipmark.kernel_bench.step_bench import StepRequest, step_parts

    device = torch.device("cuda", torch.cuda.current_device())
    request = StepRequest.from_dict(asked.parameters)
    for name, make in step_parts(request, device, asked.have):
        yield name, partial(_for_people, make)


def _for_people(make: Callable[[], Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    """A part's figures, with a line of each contestant's rate where they hold times."""
    figures = make()
    if not figures or "time" not in figures:
        return figures
    return {**figures, MAIN: main_line(figures["time"])}


def main_line(times: Mapping[str, Mapping[str, Any]]) -> str:
    """Tokens a second of each contestant, and its share of the nameplate where it has one."""
    told = []
    for name, time in times.items():
        share = time.get("mbu_nameplate") or time.get("mfu_nameplate")
        of = "" if share is None else f" ({share:.0%} of nameplate)"
        told.append(f"{name} {time['tok_s']:.0f} tok/s{of}" if "tok_s" in time else f"{name} fails")
    return ", ".join(told)


def _step(
    key: str, stage: Stage, about: str, estimate_s: float, limit_s: float, **parameters: Any
) -> StageStep:
    return StageStep(key, stage, about, estimate_s, limit_s, _WORK, parameters, uses=_USES)


def _first() -> Iterator[StageStep]:
    """One row of every model before more rows of any: the targets are of one session."""
    for model in _MODELS:
        large = model == "qwen3-8b"
        yield _step(
            f"step-{model}", Stage.RUNS, f"whole step of {model}, one row of 1k",
            18.0 if large else 10.0, 60.0, model=model, names=["portable"],
        )  # fmt: skip
    yield _step(
        "step-qwen3-8b-rows", Stage.RUNS, "whole step of qwen3-8b, 8 and 64 rows of 1k",
        25.0, 60.0, model="qwen3-8b", rows=[8, 64], names=["portable"],
    )  # fmt: skip
    for model in _MODELS[1:]:
        yield _step(
            f"step-{model}-rows", Stage.RUNS, f"whole step of {model}, 8 and 64 rows of 1k",
            15.0, 60.0, model=model, rows=[8, 64], names=["portable"],
        )  # fmt: skip


def _second() -> Iterator[StageStep]:
    for model in ("qwen3-8b", "qwen3-0.6b"):
        large = model == "qwen3-8b"
        yield _step(
            f"designs-{model}", Stage.DESIGNS, f"designs in the whole step of {model}, one row",
            35.0 if large else 25.0, 90.0, model=model, contexts=[1_024, 16_384],
        )  # fmt: skip
    for model in ("qwen3-8b", "qwen3-0.6b"):
        yield _step(
            f"gpt-fast-{model}", Stage.DESIGNS, f"designs of {model} next to gpt-fast's recipe",
            100.0, 240.0, model=model, names=["designs", "gpt-fast"],
        )  # fmt: skip
    yield _step(
        "designs-qwen3-8b-rows", Stage.DESIGNS, "designs of qwen3-8b at 8 and 64 rows, torch too",
        35.0, 90.0, model="qwen3-8b", rows=[8, 64], names=["designs", "torch"],
    )  # fmt: skip
    yield _step(
        "prefill-qwen3-8b", Stage.DESIGNS, "qwen3-8b: prompt of 8k, 512 tokens behind 16k",
        30.0, 90.0, model="qwen3-8b", rows=[], contexts=[], names=["designs", "torch"],
        prefill=[[8_192, 8_192], [512, 16_896]],
    )  # fmt: skip
    yield _step(
        "w4-qwen3-8b", Stage.DESIGNS, "whole step of qwen3-8b in w4 next to bf16, one row",
        35.0, 90.0, model="qwen3-8b", precisions=["bf16", "w4"], names=["portable"],
    )  # fmt: skip


STEPS: tuple[StageStep, ...] = (*_first(), *_second())
"""In the order of their value within a stage."""
