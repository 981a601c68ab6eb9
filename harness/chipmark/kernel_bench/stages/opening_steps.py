"""The first steps of stage 1: what is here, does a kernel run, what are the limits."""

from __future__ import annotations

from chipmark.kernel_bench.stages.contract import Stage, StageStep

_BLOCKING = {"CUDA_LAUNCH_BLOCKING": "1"}
"""A fault shows in the launch that made it, so that the part has the kernel's name."""

STEPS: tuple[StageStep, ...] = (
    StageStep(
        "environment", Stage.RUNS, "card, driver, versions, compiler, carried Triton cache",
        10, 60, "chipmark.kernel_bench.stages.environment:environment",
        uses=("chipmark.kernel_bench.stages.card",), environment=_BLOCKING,
        repeats_after_failure=True,
    ),
    StageStep(
        "smoke", Stage.RUNS, "each kernel once at its smallest shape, checked, one by one",
        25, 60, "chipmark.kernel_bench.stages.smoke:smoke",
        uses=("chipmark_kernels", "chipmark.kernel_bench.cases",
              "chipmark.kernel_bench.measuring"),
        environment=_BLOCKING,
    ),
    StageStep(
        "precompile", Stage.RUNS, "kernels that the Triton cache lacks, by many processes",
        30, 240, "chipmark.kernel_bench.stages.cache:precompile",
        parameters={"models": "qwen3-8b,qwen3-0.6b", "contexts": "1153"},
        uses=("chipmark_kernels",), repeats_after_failure=True,
    ),
    StageStep(
        "roofs", Stage.RUNS, "copy, read, bf16, fp8; gap of graph nodes, PDL; launches",
        40, 60, "chipmark.kernel_bench.stages.limits:limits",
        uses=("chipmark.kernel_bench.stages.nodes", "chipmark.kernel_bench.roofs",
              "chipmark.kernel_bench.timing"),
    ),
)  # fmt: skip
