"""The settings of a run: one object from the command to the backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from chipmark.meters.choice import MeterChoice
from chipmark.results.manifest import Slo

GRACE_S = 8.0
"""Over the limit that was given; with what it takes to end a process tree it stays under 10 s."""

IDLE_S = 31.0
"""Idle with the model loaded, before and after: the definition asks for 30 s."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which a child is ended. `each` makes one limit of all."""

    load_s: float = 1200.0
    parity_s: float = 900.0
    run_s: float = 3600.0
    """Of one repeat: the engine stops there, and what is left is unfinished."""
    probe_s: float = 180.0
    """Of the device's roofs, before and after a repeat."""
    clock_s: float = 60.0
    """A child that was just asked something else reads its clock within this, or hangs."""
    close_s: float = 20.0
    oracle_s: float = 3600.0
    """Of each computation of the oracle."""
    grace_s: float = 60.0
    """That a child may take longer than its own deadline to answer: events have to be written."""
    audit_s: float = 120.0
    """That the oracle may take, by its estimate, for the audit of a group of cells; what needs
    more is pending."""

    def each(self, limit_s: float) -> Limits:
        """The same with `limit_s` for loading, parity, a repeat, its probes, closing and each
        computation of the oracle alike; GRACE_S longer where the child has a deadline itself."""
        return replace(
            self,
            load_s=limit_s,
            parity_s=limit_s,
            run_s=limit_s,
            probe_s=min(self.probe_s, limit_s),
            clock_s=min(self.clock_s, limit_s),
            close_s=min(self.close_s, limit_s),
            oracle_s=limit_s,
            grace_s=GRACE_S,
        )


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Choices that hold for all cells of a run."""

    seed: int = 0
    """Of the workload and of synthetic weights."""
    feedback: Literal["forced", "sampled"] = "forced"
    threads: int = 0
    """Of a CPU backend; 0 is its own choice."""
    power_w: float | None = None
    """The unit's power, declared by the user."""
    meters: tuple[MeterChoice, ...] = ()
    """Meters by name, the row's first; none leaves it to what is here."""
    python: str = ""
    """The interpreter of the measured processes; "" is this one."""
    fresh: bool = False
    """A fresh process for every repeat."""
    max_chunk: int = 256
    """Most prompt tokens of one launch."""
    slo: Slo = field(default_factory=Slo)
    """The objective of goodput, attainment and the capacity scenario."""
    idle_s: float = IDLE_S
    """How long idle power is measured before and after, where there is a meter; 0 is not at all."""
    idle_once: bool = False
    """Once for a loaded model and device, and taken over by the cells that come after."""
    limits: Limits = field(default_factory=Limits)
    limit_s: float | None = None
    """Of each step of a cell, given on the command line; None leaves it to the suite."""
    oracle_device: str = ""
    """Torch's name of an accelerator on which the oracle computes what is too much for the CPU,
    once it agreed with the CPU's; "" keeps it on the CPU."""
    references: tuple[Path, ...] = ()
    """Files of reference logits that were computed elsewhere."""

    def of_suite(
        self,
        slo: Slo | None,
        idle_s: float | None,
        limit_s: float | None = None,
        meters: tuple[MeterChoice, ...] = (),
        idle_once: bool = False,
    ) -> RunOptions:
        """The same, with the objective, the idle time, the limit and the meters that a suite (or
        the command line, which goes first) names."""
        limit_s = limit_s if self.limit_s is None else self.limit_s
        return replace(
            self,
            limits=self.limits if limit_s is None else self.limits.each(limit_s),
            slo=self.slo if slo is None else slo,
            idle_s=self.idle_s if idle_s is None else idle_s,
            meters=self.meters or meters,
            idle_once=self.idle_once or idle_once,
        )

    def kept(self, backend_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a record keeps of them, and what makes two cells the same measurement.

        Those that came later are in it only where they differ from the default, so that a run of
        before resumes.
        """
        later: dict[str, Any] = {}
        if backend_options:
            later["backend_options"] = dict(backend_options)
        if self.idle_s != IDLE_S:
            later["idle_s"] = self.idle_s
        if self.meters:
            later["meters"] = [choice.kept for choice in self.meters]
        return {
            "seed": self.seed,
            "feedback": self.feedback,
            "threads": self.threads,
            "power_w": self.power_w,
            "python": self.python,
            "fresh": self.fresh,
            "max_chunk": self.max_chunk,
            **later,
        }
