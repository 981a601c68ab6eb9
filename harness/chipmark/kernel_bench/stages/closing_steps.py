"""The last steps of stage 1: where the time of a step goes, and the compiled kernels to carry."""

from __future__ import annotations

from chipmark.kernel_bench.stages.contract import Stage, StageStep

STEPS: tuple[StageStep, ...] = (
    StageStep(
        "trace", Stage.RUNS, "each kernel and gap in 3 replays of a step, 8B and 0.6B",
        45, 120, "chipmark.kernel_bench.stages.trace:trace",
        parameters={"models": ["qwen3-8b", "qwen3-0.6b"], "context": 1024, "replays": 3},
        uses=("chipmark_kernels", "chipmark_models"),
    ),
    StageStep(
        "cache", Stage.RUNS, "the Triton cache as one file to carry along",
        10, 60, "chipmark.kernel_bench.stages.cache:pack_cache", repeats_after_failure=True,
    ),
)  # fmt: skip
