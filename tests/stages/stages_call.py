"""`chipmark kernels stages` over fake works on a fake card: `stages_call.py OPTIONS`."""

from __future__ import annotations

import sys

from chipmark.kernel_bench.stages import command, plan
from chipmark.kernel_bench.stages.contract import Stage, StageStep

WORK = "fake_works:words"


def step(key, *words, stage=Stage.RUNS, estimate_s=5.0, limit_s=60.0, work=WORK, **more):
    return StageStep(
        key, stage, f"what {key} tells", estimate_s, limit_s, work, {"words": list(words)}, **more
    )


STEPS = (
    step("first", "a ok", "b ok"),
    step("hanging", "c ok", "d hang", "e ok"),
    step("large", "f ok", stage=Stage.RECORDS, estimate_s=10_000.0),
)

if __name__ == "__main__":
    command.missing_device = lambda: ""  # which would import torch
    command.BENCH = "fake_works:Fragile"
    plan.MODULES = ("stages_call",)
    command.all_steps.__defaults__ = (plan.MODULES,)
    sys.exit(command.main(sys.argv[1:]))
