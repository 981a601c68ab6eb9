"""What a process of an arm measured: pytest-benchmark's JSON, chipmark's records, a samples file
of the command's own, or else the wall time of the process."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from chipmark.errors import BadInputError, UnknownNameError, UsageError

Source = Literal["pytest-benchmark", "chipmark", "samples", "wall"]
Direction = Literal["higher", "lower"]

SAMPLES_VARIABLE = "CHIPMARK_AB_SAMPLES"
"""Names a file that a command may write: {name: {"unit", "direction", "samples": [..]}}."""

PYTEST_FILE = "benchmark.json"
RECORDS = "records"
WALL = "wall_s"
PYTEST_METRIC = "time_s"
DEFAULT_METRIC = "total_tok_s"


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric of one benchmark in one process. value: median of its `samples` samples, in
    `unit`; direction: which way is better; raw: the samples themselves."""

    benchmark: str
    metric: str
    unit: str
    direction: Direction
    value: float
    samples: int
    raw: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What pairs it with the other arm's."""
        return self.benchmark, self.metric


@dataclass(frozen=True, slots=True)
class Command:
    """How an arm's command is asked for its numbers. metrics: columns of the table to read.
    by_work: name cells by their work alone, so that backends pair whose model or arithmetic has
    another name (`sim:` has no model, providers accumulate differently)."""

    argv: tuple[str, ...]
    source: Source
    metrics: tuple[str, ...] = ()
    by_work: bool = False

    @classmethod
    def of(cls, argv: Sequence[str], metrics: Sequence[str]) -> Command:
        """Know pytest and `chipmark run` by their names; another command is asked by a file.

        Raises UnknownNameError for a metric that is no column, UsageError for one of a command
        that has no table.
        """
        from chipmark.table.columns import RANKABLE

        words = [Path(argv[0]).name, *argv[1:]]
        if words[0].startswith("python") and words[1:2] == ["-m"]:
            words = words[2:]
        if words[0] in ("chipmark", "chipmark.cli.main") and words[1:2] == ["run"]:
            for name in metrics:
                if name not in RANKABLE:
                    raise UnknownNameError("metric", name, RANKABLE, "see `chipmark table --help`")
            return cls(tuple(argv), "chipmark", tuple(metrics) or (DEFAULT_METRIC,))
        known = (PYTEST_METRIC,) if words[0] in ("pytest", "py.test") else ()
        if metrics and tuple(metrics) != known:
            raise UnknownNameError(
                "metric", next(m for m in metrics if m not in known), known or (WALL,),
                "metrics of the table are those of `-- chipmark run ...`",
            )  # fmt: skip
        return cls(tuple(argv), "pytest-benchmark" if known else "samples")

    def words(
        self, folder: Path, decided: Sequence[str] = (), all_: Sequence[str] = ()
    ) -> list[str]:
        """The command line of one process whose results go under `folder`.

        decided: benchmarks that need no more rounds, of `all_`. pytest leaves them out, except
        one whose name another one still needed begins with, since pytest deselects by prefix.
        """
        words = list(self.argv)
        if self.source == "pytest-benchmark":
            words.append(f"--benchmark-json={folder / PYTEST_FILE}")
            needed = set(all_) - set(decided)
            for name in decided:
                if not any(other.startswith(name) for other in needed):
                    words.append(f"--deselect={name}")
        elif self.source == "chipmark":
            words += ["-o", str(folder / RECORDS), "--format", "json"]
        return words

    def env(self, folder: Path) -> dict[str, str]:
        """Variables of one process."""
        return {SAMPLES_VARIABLE: str(folder / "samples.json")}

    def read(self, folder: Path, wall_s: float, what: str) -> list[Reading]:
        """What the process left under `folder`; BadInputError or UsageError names the fault."""
        if self.source == "pytest-benchmark":
            return read_pytest(folder / PYTEST_FILE, what)
        if self.source == "chipmark":
            return read_records(folder / RECORDS, self.metrics, what, by_work=self.by_work)
        own = folder / "samples.json"
        if own.is_file():
            return read_samples(own, what)
        return [Reading("command", WALL, "s", "lower", _checked(wall_s, what, "command"), 1)]


def read_pytest(path: Path, what: str) -> list[Reading]:
    """Medians of `data`, seconds an iteration, of every benchmark of pytest-benchmark's file."""
    from chipmark.benchmark_json.read import read_benchmark_json

    if not path.is_file() or path.stat().st_size == 0:
        raise UsageError(
            f"{what}: pytest wrote no benchmark file",
            "is pytest-benchmark installed there, and does the selection hold a benchmark?",
        )
    found = []
    for benchmark in read_benchmark_json(path).benchmarks:
        if not benchmark.data:
            raise BadInputError(
                path, f"{what}: {benchmark.fullname} has no samples", field="stats.data"
            )
        found.append(
            _reading(benchmark.fullname, PYTEST_METRIC, "s", "lower", benchmark.data, what)
        )
    return found


def read_records(
    folder: Path, metrics: Sequence[str], what: str, *, by_work: bool = False
) -> list[Reading]:
    """Columns of the table, a benchmark a cell. A cell is named without its backend, and with
    `by_work` without model and precision where one name is left for each cell. A failed cell or a
    null is a UsageError with the record's own reason."""
    from chipmark.prices.book import EXAMPLE, load_book
    from chipmark.results.store import load_records
    from chipmark.table.columns import COLUMNS
    from chipmark.table.rows import build_rows

    records = load_records([folder]).records
    rows = [r.to_dict() for r in build_rows(records, load_book(EXAMPLE), None, DEFAULT_METRIC)]
    names = [_cell_name(values, ("workload", "scale", "scenario")) for values in rows]
    if not by_work or len(set(names)) < len(names):
        parts = ("workload", "model", "precision", "scale", "scenario")
        names = [_cell_name(values, parts) for values in rows]
    found = []
    for values, name in zip(rows, names, strict=True):
        for metric in metrics:
            value = values[metric]
            if value is None:
                reason = values["null_reasons"].get(metric, "unknown")
                raise UsageError(f"{what}: {name} has no {metric}: {reason}")
            column = COLUMNS[metric]
            direction: Direction = "higher" if column.direction == "higher" else "lower"
            found.append(_reading(name, metric, column.unit, direction, [value], what))
    return found


def _cell_name(values: Mapping[str, Any], parts: Sequence[str]) -> str:
    return " ".join([*(str(values[part]) for part in parts), f"N={values['concurrency']}"])


def read_samples(path: Path, what: str) -> list[Reading]:
    """The file of a command that knows SAMPLES_VARIABLE."""
    found = []
    for name, entry in _object(path, what).items():
        if not isinstance(entry, dict) or not isinstance(entry.get("samples"), list):
            raise BadInputError(path, f"{what}: is no object with a list", field=f"{name}.samples")
        direction = entry.get("direction", "lower")
        if direction not in ("higher", "lower"):
            raise BadInputError(
                path, f"{direction!r} is neither higher nor lower", field=f"{name}.direction"
            )
        unit = str(entry.get("unit", "s"))
        metric = str(entry.get("metric", PYTEST_METRIC if unit == "s" else "value"))
        if not entry["samples"]:
            raise BadInputError(path, f"{what}: has no samples", field=f"{name}.samples")
        found.append(_reading(name, metric, unit, direction, entry["samples"], what))
    return found


def _reading(
    name: str, metric: str, unit: str, direction: Direction, samples: Sequence[Any], what: str
) -> Reading:
    values = [_checked(sample, what, name) for sample in samples]
    return Reading(name, metric, unit, direction, float(median(values)), len(values), tuple(values))


def _checked(value: Any, what: str, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{what}: {name} has a sample that is no number: {value!r}")
    if not math.isfinite(value) or value <= 0:
        raise UsageError(
            f"{what}: {name} has a sample of {value}",
            "a sample must be finite and above zero; nothing was written",
        )
    return float(value)


def _object(path: Path, what: str) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInputError(path, f"{what}: is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise BadInputError(path, f"{what}: is not a JSON object")
    return document
