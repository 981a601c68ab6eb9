"""The limits of this card: memory, matrix units, nodes and launches of graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from chipmark.kernel_bench.roofs import roof_steps
from chipmark.kernel_bench.stages.contract import MAIN, Asked, Part
from chipmark.kernel_bench.stages.nodes import (
    LAUNCH_NODES,
    empty_launch,
    graph_of,
    launch_cost,
    node_s,
)
from chipmark.kernel_bench.timing import CudaDevice, Device


def limits(asked: Asked) -> Iterator[Part]:
    """copy, read, bf16, fp8, then nodes, pdl_nodes and launches; each with its samples."""
    where = torch.device("cuda", torch.cuda.current_device())
    device = CudaDevice()
    said: list[str] = []
    for name, make in roof_steps(device, where):
        yield name, partial(_roof, make, said)
    for name, pdl in (("nodes", False), ("pdl_nodes", True)):
        yield name, partial(_nodes, device, where, pdl, said)
    yield "launches", partial(_launches, where, said)


_TEXTS: dict[str, tuple[str, float, str]] = {
    "copy_bytes_per_s": ("copy", 1e12, "TB/s"),
    "read_bytes_per_s": ("read", 1e12, "TB/s"),
    "bf16_flops": ("bf16", 1e12, "TFLOP/s"),
    "fp8_flops": ("fp8", 1e12, "TFLOP/s"),
}
"""Of a roof the name, the size of its unit and the unit, as people read it."""


def _roof(make: Callable[[], dict[str, Any]], said: list[str]) -> dict[str, Any]:
    with torch.inference_mode():
        found = make()
    for field, (name, size, unit) in _TEXTS.items():
        if field in found:
            said.append(f"{name} {found[field] / size:.3g} {unit}")
    return found | {MAIN: ", ".join(said)}


def _nodes(device: Device, where: torch.device, pdl: bool, said: list[str]) -> dict[str, Any]:
    seconds, samples = node_s(device, empty_launch(where, pdl=pdl))
    said.append(f"node{' with PDL' * pdl} {seconds * 1e6:.2f} us")
    return {"node_s": seconds, "samples_s": samples, "pdl": pdl, MAIN: ", ".join(said)}


def _launches(where: torch.device, said: list[str]) -> dict[str, Any]:
    graph = graph_of(empty_launch(where, pdl=False), LAUNCH_NODES)
    cost = launch_cost(graph, torch.cuda.synchronize)
    said.append(f"launch {cost.host_s * 1e6:.0f} us")
    return {
        "nodes": LAUNCH_NODES, "host_s": cost.host_s, "until_done_s": cost.until_done_s,
        MAIN: ", ".join(said),
    }  # fmt: skip
