"""The steps of all stages, in order of value; who adds steps adds a line to `MODULES`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from chipmark.errors import BadInputError, UnknownNameError
from chipmark.kernel_bench.stages.contract import Stage, StageStep

MODULES = (
    "chipmark.kernel_bench.stages.opening_steps",
    "chipmark.kernel_bench.stages.step_steps",
    "chipmark.kernel_bench.stages.trace_steps",
    "chipmark.kernel_bench.stages.kernel_steps",
    "chipmark.kernel_bench.stages.closing_steps",
    "chipmark.kernel_bench.stages.record_steps",
)
"""Modules with `STEPS`. Inside a stage they come in this order, each with its own order kept: whole
steps and where their time goes before single kernels, which would fill a first call alone."""

START_S = 12.0
"""Seconds in which a call has its measuring process: imports from a slow disk, a context."""


def all_steps(modules: Sequence[str] = MODULES) -> tuple[StageStep, ...]:
    """Every step by stage. Raises ValueError where two have one key."""
    found: list[StageStep] = [step for name in modules for step in import_module(name).STEPS]
    keys = [step.key for step in found]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"several steps are called {', '.join(twice)}")
    return tuple(sorted(found, key=lambda step: step.stage))


def chosen(
    steps: Sequence[StageStep], stage: Stage | None, only: Collection[str]
) -> tuple[StageStep, ...]:
    """Those of one stage, or of all where it is None, and of them those that `only` names, or all.

    Raises UnknownNameError for a key that none of them has.
    """
    of_stage = [step for step in steps if stage in (None, step.stage)]
    known = [step.key for step in of_stage]
    for key in only:
        if key not in known:
            raise UnknownNameError("step", key, known)
    return tuple(step for step in of_stage if not only or step.key in only)


def with_wheels(steps: Sequence[StageStep], folder: Path | None) -> tuple[StageStep, ...]:
    """The steps, those that take carried packages with the folder of them.

    Raises BadInputError for a folder without a wheel: found in the last stage it would be too late.
    """
    if folder is None:
        return tuple(steps)
    if not any(folder.glob("*.whl")):
        raise BadInputError(folder, "holds no wheel", hint="chipmark kernels wheels -o DIR")
    carried = {"wheels": str(folder.resolve())}
    return tuple(
        replace(step, parameters={**step.parameters, **carried})
        if "wheels" in step.parameters
        else step
        for step in steps
    )


def calls_of(needs: Sequence[float], budget_s: float) -> list[int | None]:
    """In which call, from 1, each of several needs of seconds is met by the runner's rule: in
    order, none begun that does not fit what is left. None for what fits no call."""
    found: list[int | None] = [None] * len(needs)
    waiting = [i for i, need in enumerate(needs) if need <= budget_s - START_S]
    call = 1
    while waiting:
        left = budget_s - START_S
        for i in list(waiting):
            if needs[i] <= left:
                found[i], left = call, left - needs[i]
                waiting.remove(i)
        call += 1
    return found
