"""Suites: the built-in ones and TOML files, checked, and unfolded into cells."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from chipmark.cell.computes import computed_pairs
from chipmark.cell.given import GivenOption, check_idle_s, check_kinds, merged, options_for
from chipmark.cell.suite_fields import (
    absent_modules,
    estimate_field,
    flag_field,
    idle_field,
    limit_field,
    meters_field,
    replicas_field,
    slo_field,
)
from chipmark.errors import BadInputError, UnknownNameError, UsageError
from chipmark.meters.choice import MeterChoice
from chipmark.registry import split_backend
from chipmark.results.manifest import Slo
from chipmark.workload.replay_files import MOONCAKE_BLOCK
from chipmark_models.foreign_file import read_toml
from chipmark_models.precision import precision_named

OLD_SCENARIO = "lane"
"""What `scenario` was called in suite files of chipmark 0.1; read with a warning."""

SUITES_FILE = Path(__file__).with_name("suites.toml")
DEFAULT_BUDGET_S = 3600.0
"""Seconds of a run within which repeats may be added, where a suite names none."""

Scenario = Literal["equal_n", "capacity"]
SCENARIOS: tuple[Scenario, ...] = ("equal_n", "capacity")

_SUITE = (
    "title", "repeats", "budget_s", "limit_s", "slo", "idle_s", "idle_once", "meters", "cells",
)  # fmt: skip
_LISTS = ("workload", "scale", "model", "precision", "backend", "concurrency")
_SINGLE = ("sessions", "scenario", "options", "replicas", "estimate_s", "needs", OLD_SCENARIO)


@dataclass(frozen=True, slots=True)
class CellPlan:
    """One cell: workload x model x precision x backend x concurrency.

    workload: a profile, or the path of a transcript or a recorded trace, as `kind` says.
    concurrency: lanes; in the capacity scenario, the most that the sweep tries.
    block_tokens: prompt tokens of one hash id of a recorded trace.
    """

    backend: str
    model: str
    precision: str
    workload: str
    kind: Literal["profile", "transcript", "trace"]
    scale: str
    sessions: int
    concurrency: int
    scenario: Scenario
    block_tokens: int = MOONCAKE_BLOCK
    options_json: str = "{}"
    """Options of the backend as JSON, so that a plan can be a key."""
    replicas: int = 0
    """Engines that share the sessions, each on a device of the unit; 0 is one on each device."""
    estimate_s: float = field(default=0.0, compare=False)
    """Seconds that the cell is expected to take, idle power apart; 0 where nothing says."""

    @property
    def options(self) -> dict[str, Any]:
        """Options of the backend (`LoadSpec.options`)."""
        found: dict[str, Any] = json.loads(self.options_json)
        return found

    @property
    def group(self) -> tuple[object, ...]:
        """Cells that differ in nothing but the backend are measured in turns."""
        return (
            self.kind,
            self.workload,
            self.scale,
            self.sessions,
            self.model,
            self.precision,
            self.scenario,
            self.concurrency,
        )

    @property
    def title(self) -> str:
        """For people: what tells this cell from its neighbours."""
        up_to = "up to " if self.scenario == "capacity" else ""
        return f"{self.backend} {self.precision} {self.workload} {up_to}N={self.concurrency}"


@dataclass(frozen=True, slots=True)
class Suite:
    """Cells and how often each is repeated. left_out: backends with precisions of the suite that
    they do not compute."""

    name: str
    repeats: int
    cells: tuple[CellPlan, ...]
    left_out: tuple[str, ...] = ()
    budget_s: float = DEFAULT_BUDGET_S
    """Seconds of the whole run; repeats are added only within it."""
    renamed: tuple[str, ...] = ()
    """Old names of fields that were read, each as a sentence for the user."""
    slo: Slo | None = None
    """The objective that the suite or the command line names; None is the default."""
    idle_s: float | None = None
    """Seconds of idle before and after, likewise."""
    idle_once: bool = False
    """Idle power is measured once for a loaded model and device."""
    limit_s: float | None = None
    """Seconds after which each step of a cell is ended; None is the default of each."""
    meters: tuple[MeterChoice, ...] = ()
    """Meters by name, the row's first; none leaves it to what is here."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line puts in place of a suite's axes; empty or None leaves them."""

    backends: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    concurrency: tuple[int, ...] = ()
    scale: str = ""
    sessions: int | None = None
    scenario: str = ""
    repeats: int | None = None
    budget_s: float | None = None
    transcript: str = ""
    trace: str = ""
    block_tokens: int | None = None
    options: tuple[GivenOption, ...] = ()
    """Over the suite's."""
    slo: Slo | None = None
    idle_s: float | None = None
    replicas: int | None = None


MOST_REPEATS = 10_000
MOST_CELLS = 100_000
MOST_AT_ONCE = 1 << 20
"""Bounds of what a suite may ask for, far above what is ever measured: a slip of the finger in a
file must not fill the memory with plans."""


def load_suite(name: str, overrides: Overrides, here: Sequence[str]) -> Suite:
    """A built-in suite by name or a TOML file by path, with overrides.

    `here` are the backends used where a suite names none. Raises UnknownNameError for a suite or
    a backend, BadInputError with file and field for a file, UsageError for what does not fit (a
    precision that the backend does not compute among it).
    """
    path, names = _find(name)
    tables = _read(path)
    if path != SUITES_FILE and len(tables) != 1:
        raise BadInputError(path, f"holds {len(tables)} suites; a file is one suite")
    chosen = name if path == SUITES_FILE else next(iter(tables))
    if chosen not in tables:
        raise UnknownNameError("suite", name, names, "or give the path of a TOML file")
    table = tables[chosen]
    _known_fields(path, chosen, table, _SUITE)
    repeats = overrides.repeats if overrides.repeats is not None else table.get("repeats", 3)
    if isinstance(repeats, bool) or not isinstance(repeats, int) or not 0 < repeats <= MOST_REPEATS:
        raise BadInputError(path, f"{repeats!r} is not a count", field=f"{chosen}.repeats")
    budget_s = overrides.budget_s
    if budget_s is None:
        budget_s = table.get("budget_s", DEFAULT_BUDGET_S)
    if isinstance(budget_s, bool) or not isinstance(budget_s, int | float) or not budget_s >= 0:
        raise BadInputError(path, f"{budget_s!r} is not seconds", field=f"{chosen}.budget_s")
    blocks = table.get("cells")
    if not isinstance(blocks, list) or not blocks:
        raise BadInputError(path, "a suite needs at least one [[cells]]", field=f"{chosen}.cells")
    cells: dict[CellPlan, None] = {}
    left_out: dict[str, None] = {}
    renamed: list[str] = []
    for number, block in enumerate(blocks):
        unfolded, left = _unfold(path, f"{chosen}.cells[{number}]", block, overrides, here)
        cells |= dict.fromkeys(unfolded)
        left_out |= dict.fromkeys(left)
        if OLD_SCENARIO in block:
            field = f"{chosen}.cells[{number}].{OLD_SCENARIO}"
            renamed.append(f"{path}: {field} is now called scenario")
    return Suite(
        chosen,
        repeats,
        tuple(cells),
        tuple(left_out),
        float(budget_s),
        tuple(renamed),
        slo_field(path, chosen, table) if overrides.slo is None else overrides.slo,
        idle_field(path, chosen, table)
        if overrides.idle_s is None
        else check_idle_s(overrides.idle_s),
        flag_field(path, chosen, table, "idle_once"),
        limit_field(path, chosen, table),
        meters_field(path, chosen, table),
    )


def suite_names() -> list[str]:
    """The built-in suites."""
    return list(_read(SUITES_FILE))


def groups(suite: Suite) -> list[list[CellPlan]]:
    """Cells in the order of measurement, those of one group together."""
    found: dict[tuple[object, ...], list[CellPlan]] = {}
    for cell in suite.cells:
        found.setdefault(cell.group, []).append(cell)
    return list(found.values())


def order_of(repeat: int, cells: int) -> list[int]:
    """Which cell goes when: A B C, then C B A, then A B C."""
    forward = list(range(cells))
    return forward if repeat % 2 == 0 else forward[::-1]


def _find(name: str) -> tuple[Path, list[str]]:
    names = suite_names()
    if name in names:
        return SUITES_FILE, names
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path, names
    raise UnknownNameError("suite", name, names, "or give the path of a TOML file")


def _read(path: Path) -> dict[str, Any]:
    return read_toml(path)


def _known_fields(path: Path, where: str, table: object, known: Sequence[str]) -> None:
    if not isinstance(table, dict):
        raise BadInputError(path, "is not a table", field=where)
    for key in table:
        if key not in known:
            raise BadInputError(path, UnknownNameError(f"field of {where}", key, known).message)


def _unfold(
    path: Path, where: str, block: object, overrides: Overrides, here: Sequence[str]
) -> tuple[list[CellPlan], tuple[str, ...]]:
    _known_fields(path, where, block, (*_LISTS, *_SINGLE))
    table = cast("Mapping[str, Any]", block)
    axes = {name: _axis(path, where, name, table) for name in _LISTS}
    replaced: dict[str, tuple[Any, ...]] = {
        "workload": overrides.workloads,
        "model": overrides.models,
        "precision": overrides.precisions,
        "backend": overrides.backends,
        "concurrency": overrides.concurrency,
        "scale": (overrides.scale,) if overrides.scale else (),
    }
    for name, values in replaced.items():
        if values:
            axes[name] = list(values)
    sessions = overrides.sessions if overrides.sessions is not None else table.get("sessions", 4)
    scenario = overrides.scenario or table.get("scenario", table.get(OLD_SCENARIO, "equal_n"))
    _check(path, where, axes, sessions, scenario)
    kind: Literal["profile", "transcript", "trace"] = "profile"
    if overrides.transcript and overrides.trace:
        raise UsageError("--transcript and --trace are two workloads", "give one of them")
    if overrides.transcript or overrides.trace:
        kind = "transcript" if overrides.transcript else "trace"
        axes["workload"] = [overrides.transcript or overrides.trace]
        sessions = overrides.sessions or 0
    block_tokens = overrides.block_tokens
    if block_tokens is not None and kind != "trace":
        raise UsageError("--block-tokens is the size of a recorded trace's blocks", "add --trace")
    if absent := absent_modules(path, where, table):
        named = axes["backend"] or ["cells"]
        return [], tuple(f"{name}: {', '.join(absent)} is not installed" for name in named)
    backends = axes["backend"] or list(here)
    if not backends:
        raise UsageError(
            "no backend was found here", "`chipmark doctor` says what is missing; or name one: -b"
        )
    own = table.get("options", {})
    if not isinstance(own, dict):
        raise BadInputError(path, "must be a table", field=f"{where}.options")
    try:
        json.dumps(own)
    except TypeError as error:  # TOML has dates, which no option is
        raise BadInputError(path, str(error), field=f"{where}.options") from error

    check_kinds(overrides.options, sorted({split_backend(name)[0] for name in backends}))

    def options_of(backend: str) -> str:
        given = options_for(split_backend(backend)[0], overrides.options)
        return json.dumps(merged(own, given), sort_keys=True)

    computed = computed_pairs(backends, axes["precision"], named=bool(axes["backend"]))
    base = CellPlan("", "", "", "", kind, "", sessions, 0, cast("Scenario", scenario))
    base = replace(base, estimate_s=estimate_field(path, where, table))
    given = overrides.replicas
    base = replace(base, replicas=replicas_field(path, where, table) if given is None else given)
    if block_tokens is not None:
        base = replace(base, block_tokens=block_tokens)
    if math.prod(len(axis) for axis in (*axes.values(), backends) if axis) > MOST_CELLS:
        raise BadInputError(path, f"asks for more than {MOST_CELLS:,} cells", field=where)
    cells = [
        replace(
            base,
            workload=workload,
            scale=scale,
            model=model,
            precision=precision,
            concurrency=concurrency,
            backend=backend,
            options_json=options_of(backend),
        )
        for workload, scale, model, precision, concurrency, backend in itertools.product(
            axes["workload"],
            axes["scale"],
            axes["model"],
            axes["precision"],
            axes["concurrency"],
            backends,
        )
        if (backend, precision) in computed.pairs
    ]
    return cells, computed.left_out


def _axis(path: Path, where: str, name: str, table: Mapping[str, Any]) -> list[Any]:
    defaults: dict[str, list[Any]] = {
        "scale": ["quick"],
        "precision": ["fp32"],
        "concurrency": [1],
        "backend": [],
        "model": ["smollm2-135m"],
    }
    if name not in table:
        if name in defaults:
            return defaults[name]
        raise BadInputError(path, "is missing", field=f"{where}.{name}")
    value = table[name]
    values = value if isinstance(value, list) else [value]
    kind = int if name == "concurrency" else str
    for item in values:
        if not isinstance(item, kind) or isinstance(item, bool):
            raise BadInputError(path, f"{item!r} is not a {kind.__name__}", field=f"{where}.{name}")
    return list(values)


def _check(
    path: Path, where: str, axes: Mapping[str, list[Any]], sessions: object, scenario: object
) -> None:
    for backend in axes["backend"]:
        split_backend(backend)
    for precision in axes["precision"]:
        precision_named(precision)
    for concurrency in axes["concurrency"]:
        if not 0 < concurrency <= MOST_AT_ONCE:
            text = f"{where}: concurrency is {concurrency}; from 1 to {MOST_AT_ONCE:,} sessions run"
            raise UsageError(text)
    if not isinstance(scenario, str) or scenario not in SCENARIOS:
        raise UnknownNameError("scenario", str(scenario), SCENARIOS)
    if isinstance(sessions, bool) or not isinstance(sessions, int) or not 0 < sessions < 1 << 20:
        raise BadInputError(path, f"{sessions!r} is not a count", field=f"{where}.sessions")
