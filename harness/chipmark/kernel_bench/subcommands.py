"""The subcommands of `chipmark kernels`, which is also `python -m chipmark.kernel_bench`.

Their options are argparse's, so that numpy, rich, torch and triton are enough on a machine with a
GPU: the modules are imported when a subcommand is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True, slots=True)
class Subcommand:
    """A subcommand."""

    module: str
    """The module whose `main(argv)` it is."""
    summary: str
    """What it does, in a line."""

    def main(self) -> Callable[[Sequence[str]], int]:
        """Takes the words after the name, returns the exit code."""
        found: Callable[[Sequence[str]], int] = import_module(self.module).main
        return found


SUBCOMMANDS: Mapping[str, Subcommand] = {
    "stages": Subcommand(
        "chipmark.kernel_bench.stages.command",
        "Use a short stay on a card: does it run, which design is fast, records; resumes.",
    ),
    "run": Subcommand(
        "chipmark.kernel_bench.command",
        "Check every kernel against its reference, then time those that pass, with their peers.",
    ),
    "tune": Subcommand(
        "chipmark.kernel_bench.tune", "Measure tiles on this card and write its table of tiles."
    ),
    "step": Subcommand(
        "chipmark.kernel_bench.step_command",
        "Whole decode steps of a model by each design, next to gpt-fast's recipe, in seconds.",
    ),
    "models": Subcommand(
        "chipmark.kernel_bench.end_to_end", "Measure whole models on this card into results/CHIP."
    ),
    "wheels": Subcommand(
        "chipmark.kernel_bench.collect_wheels",
        "Collect the wheels that `models` needs on a machine without a network.",
    ),
    "ahead": Subcommand(
        "chipmark.kernel_bench.ahead",
        "Compile every launch ahead of time, without a GPU; for Ascend, without the chip.",
    ),
}
"""Subcommands by name, in the order of the help."""
