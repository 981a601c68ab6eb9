"""The rows of one launch, as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class LaunchRows:
    """Rows of one launch: slots (n,), start (n,), length (n,), tokens concatenated, sample (n,)."""

    slot: Array
    start: Array
    length: Array
    tokens: Array
    sample: Array
