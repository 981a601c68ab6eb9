"""What computes operators on one backend; the bench times and judges what it hands over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chipmark.kernel_bench.operators.case import OperatorCase
from chipmark.kernel_bench.operators.reference import Inputs


@dataclass(frozen=True, slots=True)
class Prepared:
    """An operator ready to be called on the device, its inputs there already.

    calls: each runs `operators` of them, on inputs and weights of their own. result: the first
    one's output on the host, after a call. problem: why it is not the device that computes, "".
    """

    calls: Sequence[Callable[[], object]]
    operators: int
    result: Callable[[], npt.NDArray[np.generic]]
    problem: str = ""


class OperatorRunner(Protocol):
    """One backend with its weights."""

    def identity(self) -> dict[str, Any]:
        """What results of another call must agree with: `device`, versions, threads."""

    def prepare(self, case: OperatorCase, inputs: Sequence[Inputs]) -> Prepared:
        """The operator of layer i on inputs i, for every i. Raises what the backend raises."""

    def synchronize(self) -> None:
        """Return when the device has nothing left to do."""

    def cache_bytes(self) -> int | None:
        """Last-level cache of the device; None where it is not known."""

    def read_bytes_per_s(self, n_bytes: int) -> float | None:
        """Read bandwidth of the device's memory, bytes a second; None where nothing measures it."""

    def flops(self) -> float | None:
        """Dense matrix rate in the precision, FLOP a second; None where nothing measures it."""
