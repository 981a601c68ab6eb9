"""A decode step that runs anywhere: `python -m chipmark.ab.decode_step --layers 100`.

One token through a stack of distinct weight matrices, as a decoder at batch 1 reads them: bound by
memory, one vector at a time. A layer more is exactly one per cent more work at 100 layers, which
is how a slowdown of a known size is injected. The default workload of `chipmark aa`. Samples go
to the file that $CHIPMARK_AB_SAMPLES names, else to stdout. Standard library and NumPy.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

_WIDTH = 384


def step_seconds(layers: int, steps: int, warm_up: int = 5) -> list[float]:
    """Seconds of each step after the warm-up; `layers` matrices of 384 x 384 float32."""
    if layers < 1 or steps < 1:
        raise ValueError(f"{layers} layers, {steps} steps: at least one of each")
    weights = [np.full((_WIDTH, _WIDTH), (1 + i % 7) / 2048, np.float32) for i in range(layers)]
    seconds = []
    for number in range(warm_up + steps):
        hidden = np.ones(_WIDTH, np.float32)
        start = time.perf_counter()
        for matrix in weights:
            hidden = matrix @ hidden
            hidden /= np.float32(1.0) + abs(hidden[0])
        end = time.perf_counter()
        if not np.isfinite(hidden).all():
            raise ArithmeticError("the step overflowed")
        if number >= warm_up:
            seconds.append(end - start)
    return seconds


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    chosen = parser.parse_args()
    samples = step_seconds(chosen.layers, chosen.steps)
    document = json.dumps({"decode_step": {"unit": "s", "direction": "lower", "samples": samples}})
    target = os.environ.get("CHIPMARK_AB_SAMPLES")
    if target:
        Path(target).write_text(document, encoding="utf-8")
    else:
        sys.stdout.write(document + "\n")


if __name__ == "__main__":
    main()
