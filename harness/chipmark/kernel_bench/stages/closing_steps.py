"""The last step of stage 1: the compiled kernels, to be carried along."""

from __future__ import annotations

from chipmark.kernel_bench.stages.contract import Stage, StageStep

STEPS: tuple[StageStep, ...] = (
    StageStep(
        "cache", Stage.RUNS, "the Triton cache as one file to carry along",
        10, 60, "chipmark.kernel_bench.stages.cache:pack_cache", repeats_after_failure=True,
    ),
)  # fmt: skip
