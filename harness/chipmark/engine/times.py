"""What the engine's clock and a backend's times of launches may differ by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chipmark.engine.contract import Timed

HOST_SLACK_S = 1e-6
"""Between two readings of the host's own clock: rounding only."""

DEVICE_SLACK_S = 50e-6
DEVICE_SLACK_REL = 1e-3
"""A device counts by a clock of its own: its rate differs by parts in a million, its events resolve
half a microsecond, and the host marks the beginning of a step it was idle before to some 10 us."""


def slack_s(clock: Timed, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much a launch of `seconds` may reach beyond its step by the engine's clock, or into
    its neighbour: `clock` is `Loaded.clock`."""
    if clock == "host":
        return np.full(seconds.shape, HOST_SLACK_S)
    return np.maximum(DEVICE_SLACK_S, DEVICE_SLACK_REL * np.abs(seconds))
