"""A step of a stage: what it does, how long it takes, and how its figures come back.

Steps run one after another in a process of their own that is ended when it is late. What a step
yields is saved at once, so that a call that is cut loses what was under way and nothing before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any


class Stage(IntEnum):
    """In the order in which a card is met."""

    RUNS = 1
    """Does it run, what are the roofs, where does the time go."""

    DESIGNS = 2
    """Designs against each other in the whole step, and tiles tuned as production launches them."""

    RECORDS = 3
    """Records of whole models for `results/`."""


@dataclass(frozen=True, slots=True)
class StageStep:
    """One step of the plan."""

    key: str
    """Its name, unique in the plan, under which figures are filed and a resumed call finds them."""

    stage: Stage
    about: str
    """What it tells, in a line of at most 60 characters."""

    estimate_s: float
    """Seconds on an H200, compiled kernels at hand; a step is not begun with less time left."""

    limit_s: float
    """Seconds after which one part of it is ended."""

    work: str
    """`module:function` of a `Work`, imported in the measuring process only."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    """As JSON; a step whose parameters or code changed is done anew."""

    repeats_after_failure: bool = False
    """Whether a later call tries again what failed or was late; else only with `--retry`."""

    uses: tuple[str, ...] = ()
    """Modules and packages that its figures depend on, by dotted name; the module of its work is
    always among them. An edit of their sources makes a later call do the step anew, no other."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the measuring process, set before torch is imported there. A step with others
    than the one before it starts a process of its own, which takes about ten seconds."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a work is called with."""

    parameters: Mapping[str, Any]
    """Of the step."""

    have: frozenset[str]
    """Names of parts that an earlier call saved; they need not be made again."""

    folder: Path
    """Where files other than figures go, as a trace; flat, and named after the step."""

    until_s: float
    """`time.monotonic` at which the call's time is over."""

    broke: frozenset[str] = frozenset()
    """Of `have` the parts that were late, killed the process or lost the device: where one does,
    the work is asked again in a new process, without it, so that the parts behind it are made."""


Part = tuple[str, Callable[[], Mapping[str, Any] | None]]
"""Its name, and what makes its figures (JSON; None for nothing to save). A part that raises becomes
`{"error": ...}`, and the next one is made all the same while the device answers. A text under
`MAIN` is what the table at the end of a call shows of the step; the last part's that has one."""

MAIN = "main"
"""Name in a part's figures of the line for people, as "read 4.3 TB/s"; 120 characters at most."""

Work = Callable[[Asked], Iterator[Part]]
"""Yields the parts of a step in order, those in `have` left out."""
