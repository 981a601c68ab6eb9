"""The process that draws power on the host: `python -m chipmark.cell.power_work SPEC --fd-in N
--fd-out M`. Products of matrices on all cores, for as long as it is asked to.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from chipmark.cell.checked_json import parse, to_mapping
from chipmark.cell.child import pipes, serve
from chipmark.cell.protocol import Request
from chipmark.errors import UsageError

SIDE = 768
"""Of the matrices: a product takes milliseconds, so that work ends when it is to end."""


@dataclass(frozen=True, slots=True)
class WorkAnswer:
    """When it worked, by its `time.perf_counter`, and how many products it made."""

    start_s: float
    end_s: float
    products: int


@dataclass(frozen=True, slots=True)
class Work(Request[WorkAnswer]):
    """Multiply for `seconds`."""

    name = "work"
    answer = WorkAnswer
    seconds: float


class Worker:
    """Two matrices behind the command loop."""

    def __init__(self) -> None:
        # Random values: constants toggle few wires and draw less.
        made = np.random.default_rng(0)
        self._a, self._b = (made.standard_normal((SIDE, SIDE), np.float32) for _ in "ab")
        self._a @ self._b

    def answer(self, name: str, arguments: str) -> dict[str, Any]:
        """Do one command and return the content of its `ok`."""
        if name == Work.name:
            return to_mapping(self._work(parse(Work, arguments, "work request").seconds))
        if name == "close":
            return {"peak_rss_bytes": 0}
        raise UsageError(f"the power load knows no command {name!r}")

    def _work(self, seconds: float) -> WorkAnswer:
        start_s = time.perf_counter()
        products = 0
        while time.perf_counter() - start_s < seconds:
            np.matmul(self._a, self._b)
            products += 1
        return WorkAnswer(start_s, time.perf_counter(), products)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the load's process."""
    with pipes(arguments) as (_, commands, tell):
        serve(Worker().answer, commands, tell)


if __name__ == "__main__":
    main()
