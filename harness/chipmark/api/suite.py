"""`Suite`: a named list of cells to measure, and which suite or workload a caller means."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from chipmark.cell.suite import CellPlan, Overrides, load_suite, suite_names
from chipmark.errors import BadInputError, UnknownNameError
from chipmark_models.foreign_file import read_toml

_ANY_BACKEND = ("sim:golden",)
"""Here on every machine: a suite that names no backend is checked with it."""


@dataclass(frozen=True)
class Suite:
    """A suite that comes with chipmark, or one from a TOML file.

        suite = chipmark.Suite.quick()
        suite = chipmark.Suite.read("mine.toml")
        [cell.title for cell in suite.cells("torch:cpu", "ort:cpu")]
        chipmark.run(suite, out="runs/mine")

    Make one by these methods, which check it; the constructor does not.
    """

    name: str
    """What the suite calls itself."""
    source: str
    """The name of a built-in suite, or the path of its TOML file."""
    repeats: int
    """Timed repeats of each cell before any are added."""
    budget_s: float
    """Seconds of a whole run within which repeats are added while intervals are wide."""

    @classmethod
    def quick(cls) -> Suite:
        """One small agent workload; about 4 minutes on 2 cores."""
        return cls.named("quick")

    @classmethod
    def standard(cls) -> Suite:
        """The coding and tool profiles at a quarter of their length, one and four sessions."""
        return cls.named("standard")

    @classmethod
    def full(cls) -> Suite:
        """Agent workloads at full length, in the capacity scenario: hours on a GPU."""
        return cls.named("full")

    @classmethod
    def named(cls, name: str) -> Suite:
        """A built-in suite by its name.

        Args:
            name: quick, standard or full.

        Raises:
            UnknownNameError: there is no such suite; the error lists near names.
        """
        if name not in suite_names():
            raise UnknownNameError("suite", name, suite_names())
        return cls._checked(name)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Suite:
        """A suite from a TOML file of the caller's own.

            chipmark.Suite.read("mine.toml").cells("sim:golden")

        Args:
            path: a file with one table of the suite's name and its `[[NAME.cells]]`.

        Raises:
            BadInputError: there is no such file, or a field of it is wrong.
            UnknownNameError: it names a backend, precision or scenario that does not exist.
        """
        if not Path(path).is_file():
            raise BadInputError(path, "no such suite file")
        return cls._checked(os.fspath(path))

    def cells(self, *backends: str) -> tuple[CellPlan, ...]:
        """The cells on these backends, before anything is looked for on this machine.

        Args:
            backends: KIND:DEVICE each; none keeps those that the suite names, and the simulated
                device `sim:golden` where it names none.

        Raises:
            UsageError: a named backend does not compute a precision of the suite.
        """
        return load_suite(self.source, Overrides(backends=backends), _ANY_BACKEND).cells

    @classmethod
    def _checked(cls, source: str) -> Suite:
        found = load_suite(source, Overrides(), _ANY_BACKEND)
        return cls(found.name, source, found.repeats, found.budget_s)


def suite_and_workload(what: Suite | str | os.PathLike[str]) -> tuple[str, str]:
    """The source of the suite, and the workload that replaces its own ("": none does).

    A workload alone, a profile's name or its TOML file, takes the rest from the suite `quick`.
    Raises UnknownNameError for a name of neither, BadInputError for a file that is not TOML.
    """
    from chipmark.workload.profile import load_profiles

    if isinstance(what, Suite):
        return what.source, ""
    name = os.fspath(what)
    if name in suite_names():
        return name, ""
    if Path(name).is_file() or name.endswith(".toml"):
        return (name, "") if _is_suite(Path(name)) else ("quick", name)
    profiles = load_profiles()
    if name in profiles:
        return "quick", name
    valid = (*suite_names(), *profiles)
    raise UnknownNameError("suite or workload", name, valid, "or give the path of a TOML file")


def _is_suite(path: Path) -> bool:
    tables = read_toml(path).values()
    return any(isinstance(table, dict) and "cells" in table for table in tables)
