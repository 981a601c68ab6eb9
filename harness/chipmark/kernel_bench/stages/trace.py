"""Where the time of a whole decode step goes: each kernel's time, and the gap before it."""

from __future__ import annotations

import gc
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chipmark.kernel_bench.stages.contract import MAIN, Asked, Part
from chipmark_kernels.device import facts_of
from chipmark_models.decoder.paged.designs import designs_for
from chipmark_models.files import whole_file

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
"""Categories of a trace's events that take time of the device."""

_NAME = 120
_ROWS = 60


def trace(asked: Asked) -> Iterator[Part]:
    """A part a model and design; the trace itself is `trace-MODEL-DESIGN.json.gz`, for
    chrome://tracing or Perfetto.

    parameters: `models`, `context`, `replays`, and `designs`; where that is empty, all that run on
    the device but the portable one.
    """
    from chipmark.kernel_bench.whole_step import PORTABLE

    facts = facts_of(torch.device("cuda"))
    others = [name for name in designs_for(facts) if name != PORTABLE]
    for model in asked.parameters["models"]:
        for design in asked.parameters["designs"] or others:
            make = partial(_traced, model, design, asked.parameters, asked.folder)
            yield f"{model} {design}", make


def _traced(model: str, design: str, parameters: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from chipmark.kernel_bench.whole_step import whole_step

    context, replays = int(parameters["context"]), int(parameters["replays"])
    # The model of the part before is not used any longer.
    gc.collect()
    torch.cuda.empty_cache()
    step = whole_step(model, rows=1, context=context, design=design)
    step.play()
    torch.cuda.synchronize()
    out = folder / f"trace-{model}-{design}.json.gz"
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(replays):
            step.play()
            torch.cuda.synchronize()
    with whole_file(out) as partial_file:
        plain = partial_file.with_suffix(".json")
        try:
            profile.export_chrome_trace(str(plain))
            text = plain.read_bytes()
        finally:
            plain.unlink(missing_ok=True)
        partial_file.write_bytes(gzip.compress(text, 6, mtime=0))
    found = summary(json.loads(text)["traceEvents"], replays)
    return found | {"file": out.name, "design": design}


def summary(events: Sequence[Mapping[str, Any]], replays: int) -> dict[str, Any]:
    """Of a trace's events, a replay: launches, microseconds from the start of the first to the end
    of the last (`span_us`), in kernels and between them, and by kernel its count, time, and the
    gaps before it. Kernels that overlap, as dependent launches do, make a span shorter than the
    sum of their times.

    The gap before the first launch of a replay is the host's and left out. Raises ValueError where
    nothing ran on the device, and where the replays are not of one length.
    """
    ran = sorted(
        (
            (float(e["ts"]), float(e["dur"]), str(e["name"]))
            for e in events
            if e.get("cat") in ON_DEVICE and "dur" in e
        ),
    )
    if not ran:
        raise ValueError("the trace has no event of the device")
    each, rest = divmod(len(ran), replays)
    if rest:
        raise ValueError(f"{len(ran)} events of the device are not {replays} times the same")
    by_kernel: dict[str, list[float]] = {}
    end, span = 0.0, 0.0
    for i, (start, took, name) in enumerate(ran):
        row = by_kernel.setdefault(name[:_NAME], [0, 0.0, 0.0])
        row[0] += 1
        row[1] += took
        if i % each:
            row[2] += max(0.0, start - end)
        else:
            first, end = start, start
        end = max(end, start + took)
        if i % each == each - 1:
            span += end - first
    rows: list[dict[str, Any]] = [
        {"kernel": name, "count": n / replays, "us": took / replays, "gap_us": gap / replays}
        for name, (n, took, gap) in by_kernel.items()
    ]
    rows.sort(key=lambda row: -row["us"])
    busy, idle = (sum(row[i] for row in by_kernel.values()) / replays for i in (1, 2))
    return {
        "launches": each, "span_us": span / replays, "kernels_us": busy, "gaps_us": idle,
        "kernels": rows[:_ROWS],
        "kernels_left_out": max(0, len(rows) - _ROWS),
        MAIN: f"{each} launches in {span / replays:.0f} us, {idle:.0f} us between them",
    }  # fmt: skip
