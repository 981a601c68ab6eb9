"""Steps that show where the time of a whole decode step goes."""

from __future__ import annotations

from chipmark.kernel_bench.stages.contract import Stage, StageStep

_TRACED = {"models": ["qwen3-8b", "qwen3-0.6b"], "context": 1024, "replays": 3}
_USES = ("chipmark_kernels", "chipmark_models")

STEPS: tuple[StageStep, ...] = (
    StageStep(
        "trace", Stage.RUNS, "each kernel and gap in 3 replays of a step, 8B and 0.6B",
        45, 120, "chipmark.kernel_bench.stages.trace:trace",
        parameters={**_TRACED, "designs": ["portable"]}, uses=_USES,
    ),
    StageStep(
        "trace-designs", Stage.DESIGNS, "the same of the other designs that run on this card",
        60, 120, "chipmark.kernel_bench.stages.trace:trace",
        parameters={**_TRACED, "designs": []}, uses=_USES,
    ),
)  # fmt: skip
