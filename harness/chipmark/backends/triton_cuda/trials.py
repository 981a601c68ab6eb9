"""Trying implementations of one operation on the device at load, and keeping the fastest."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

from chipmark.backends.torch_device.devices import answers, release
from chipmark.backends.triton_cuda.streams import Call, LaunchStream
from chipmark.errors import CellFailedError
from chipmark_models.plain_text import one_line

REPEATS = 5
MOST_LAYERS = 16
"""Layers over which an operation is tried, so that what it reads comes from memory as in use."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One operation at one size: what was tried, and the fastest."""

    seconds: Mapping[str, float]
    """By implementation."""

    refused: Mapping[str, str] = field(default_factory=dict)
    """Why an implementation was dropped, by its name."""

    @property
    def name(self) -> str:
        """The fastest."""
        return min(self.seconds, key=lambda name: self.seconds[name])


def tried(
    seconds: Callable[[str], float],
    names: Sequence[str],
    operation: str,
    size: str,
    device: torch.device,
    known: Mapping[str, float] = MappingProxyType({}),
) -> Choice:
    """The implementations `names` of `operation` by their seconds; one that raises is dropped.

    size: of the trial, for messages. known: seconds by name that need not be found again.
    CellFailedError where all are dropped, or where the device is lost.
    """
    found = {name: known[name] for name in names if name in known}
    refused = {}
    for name in names:
        if name in found:
            continue
        try:
            found[name] = seconds(name)
        except Exception as error:  # out of shared memory, what cuBLAS has not, a full device
            refused[name] = one_line(f"{type(error).__name__}: {error}", 200)
            if not answers(device):
                raise CellFailedError(
                    f"{operation} by {name} at {size} lost the device: {refused[name]}",
                    f'load again with another: --option triton:ops.{operation}="torch"',
                ) from error
            release(device)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise CellFailedError(f"nothing computes {operation} at {size}: {reasons}")
    return Choice(found, refused)


def median_seconds(call: Call, stream: LaunchStream) -> float:
    """Median seconds of a call on the device, played as it is in use."""
    play = stream.capture(call, kept=False)
    play()
    return statistics.median(queued_seconds(play, stream) for _ in range(REPEATS))


def queued_seconds(play: Call, stream: LaunchStream) -> float:
    """Device seconds of a call behind another of its kind, as an engine queues steps.

    On an idle device the first mark would be reached before the host has launched the call, and
    what a launch costs the host grows with the nodes of a graph.
    """
    play()
    first = stream.mark()
    play()
    last = stream.mark()
    stream.wait(last)
    return stream.seconds(first, last)
