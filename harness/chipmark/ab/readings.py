"""What a process of an arm measured: pytest-benchmark's JSON, chipmark's records, a samples file
of the command's own, or else the wall time of the process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from chipmark.codes import NullReason, meaning
from chipmark.errors import (
    BadInputError,
    CellFailedError,
    NothingToJudgeError,
    UnknownNameError,
    UsageError,
)
from chipmark_models.foreign_file import DATA_BYTES, parse_json, read_json, read_text

Source = Literal["pytest-benchmark", "chipmark", "samples", "wall"]
Direction = Literal["higher", "lower"]

SAMPLES_VARIABLE = "CHIPMARK_AB_SAMPLES"
"""Names a file that a command may write: {name: {"unit", "direction", "samples": [..]}}."""

OUTCOMES_VARIABLE = "CHIPMARK_AB_OUTCOMES"
"""Names a file that pytest's failed tests are written to (`hook/chipmark_ab_outcomes.py`)."""

PYTEST_FILE = "benchmark.json"
OUTCOMES_FILE = "outcomes.jsonl"
RECORDS = "records"
WALL = "wall_s"
PYTEST_METRIC = "time_s"


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
class Lost:
    """A metric of a benchmark that a process named and gave no value of. metric: "" for all of
    them. failed: whether it was not measured; False: its numbers are there and cannot be used."""

    benchmark: str
    metric: str
    reason: str
    failed: bool = True


@dataclass(frozen=True, slots=True)
class Readings:
    """What one process gave."""

    found: tuple[Reading, ...]
    lost: tuple[Lost, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """How an arm's command is asked for its numbers. metrics: columns of the table to read; () for
    what each cell is ranked by.
    by_work: name cells by their work alone, so that backends pair whose model or arithmetic has
    another name (`sim:` has no model, providers accumulate differently)."""

    argv: tuple[str, ...]
    source: Source
    metrics: tuple[str, ...] = ()
    by_work: bool = False

    @classmethod
    def of(cls, argv: Sequence[str], metrics: Sequence[str]) -> Command:
        """Know pytest and `chipmark run` by their names; another command is asked by a file.

        Raises UnknownNameError for a metric that is not a column, UsageError for one of a command
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
            return cls(tuple(argv), "chipmark", tuple(metrics))
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

        decided: benchmarks that need no further rounds, of `all_`. pytest leaves them out, except
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
        found = {SAMPLES_VARIABLE: str(folder / "samples.json")}
        if self.source == "pytest-benchmark":
            found[OUTCOMES_VARIABLE] = str(folder / OUTCOMES_FILE)
        return found

    def survives(self, code: int, folder: Path) -> bool:
        """Whether a process that ended so has measured all the same: a failed test or a failed
        cell costs itself, where it is known which one it was."""
        if code == 1 and self.source == "pytest-benchmark":
            return all((folder / name).is_file() for name in (OUTCOMES_FILE, PYTEST_FILE))
        if code == CellFailedError.exit_code and self.source == "chipmark":
            return _holds_a_failed_cell(folder / RECORDS)
        return code == 0

    def read(self, folder: Path, wall_s: float, what: str) -> Readings:
        """What the process left under `folder`; BadInputError or UsageError names the fault."""
        if self.source == "pytest-benchmark":
            return read_pytest(folder / PYTEST_FILE, what, failed_tests(folder / OUTCOMES_FILE))
        if self.source == "chipmark":
            return read_records(folder / RECORDS, self.metrics, what, by_work=self.by_work)
        own = folder / "samples.json"
        if own.is_file():
            return read_samples(own, what)
        wall = Reading("command", WALL, "s", "lower", wall_s, 1, (wall_s,))
        return Readings((wall,))


def _holds_a_failed_cell(folder: Path) -> bool:
    """Whether a run ended by its failed cells, and not by an error of its own."""
    from chipmark.results.store import load_records

    if not folder.is_dir():
        return False
    return any(record.manifest.status == "failed" for record in load_records([folder]).records)


def failed_tests(path: Path) -> dict[str, str]:
    """Ids of pytest's failed tests, and the first line of each one's first error."""
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    for line in read_text(path, DATA_BYTES).splitlines():
        entry = parse_json(line, path)
        if not isinstance(entry, list) or len(entry) != 2:
            raise BadInputError(path, "is not a list of failed tests")
        found.setdefault(str(entry[0]), str(entry[1]))
    return found


def read_pytest(path: Path, what: str, failed: Mapping[str, str]) -> Readings:
    """Medians of `data`, seconds an iteration, of every benchmark of pytest-benchmark's file,
    named without addresses. One whose test failed is lost, whatever its timings say."""
    from chipmark.benchmark_json.identity import ambiguous, without_addresses
    from chipmark.benchmark_json.read import read_benchmark_json

    if not path.is_file() or path.stat().st_size == 0:
        raise UsageError(
            f"{what}: pytest wrote no benchmark file",
            "is pytest-benchmark installed there, and does the selection hold a benchmark?",
        )
    lost = [Lost(without_addresses(name), "", reason) for name, reason in failed.items()]
    try:
        run = read_benchmark_json(path)
    except NothingToJudgeError:  # every benchmark failed, or none is left
        return Readings((), tuple(lost))
    found = []
    for fault in run.faults:
        reason = f"{fault.field}: {fault.problem}"
        lost.append(Lost(without_addresses(fault.fullname), PYTEST_METRIC, reason, failed=False))
    unclear = ambiguous(run.benchmarks)
    for place, benchmark in enumerate(run.benchmarks):
        name = without_addresses(benchmark.fullname)
        if benchmark.fullname in failed:
            continue
        problem = unclear.get(place) or _problem(benchmark.data)
        if problem:
            lost.append(Lost(name, PYTEST_METRIC, problem, failed=False))
        else:
            found.append(_reading(name, PYTEST_METRIC, "s", "lower", benchmark.data))
    return Readings(tuple(found), tuple(lost))


def read_records(
    folder: Path, metrics: Sequence[str], what: str, *, by_work: bool = False
) -> Readings:
    """Columns of the table, a benchmark a cell. A cell is named without its backend where one name
    is left for each cell, and with `by_work` without model and precision, if that leaves one. A
    failed cell or a null is lost, with the record's own reason; a number of other work than the
    cell's, or that the offered load sets, cannot be used."""
    from chipmark.prices.book import EXAMPLE, load_book
    from chipmark.results.store import load_records
    from chipmark.table.columns import COLUMNS
    from chipmark.table.comparable import MEASURED, work_faults
    from chipmark.table.load import load_refusal, load_words, own_metric
    from chipmark.table.rows import build_rows

    records = load_records([folder]).records
    rows = [r.to_dict() for r in build_rows(records, load_book(EXAMPLE))]
    loads = [load_words(record) for record in records]

    def named(*parts: str) -> list[str]:
        return [
            " ".join([*(str(values[part]) for part in parts), load])
            for values, load in zip(rows, loads, strict=True)
        ]

    names = named("workload", "scale")
    if not by_work or len(set(names)) < len(names):
        parts = ("workload", "model", "precision", "scale")
        names = named(*parts)
        if not by_work and len(set(names)) < len(names):  # one command, several backends
            names = named("backend", *parts)
    found, lost = [], []
    for record, values, name in zip(records, rows, names, strict=True):
        for metric in metrics or (own_metric(record),):
            value, failure = values[metric], record.manifest.failure
            if value is None:
                code = values["null_reasons"].get(metric, NullReason.UNKNOWN)
                reason = meaning(code) if failure is None else failure.text
                lost.append(Lost(name, metric, reason))
                continue
            column = COLUMNS[metric]
            direction: Direction = "higher" if column.direction == "higher" else "lower"
            problem = _problem([value])
            if column.kind == "energy" and values["energy_source"] not in MEASURED:
                problem = f"energy is {values['energy_source']}, not measured"
            problem = problem or load_refusal(record, metric) or "; ".join(work_faults(record))
            if problem:
                lost.append(Lost(name, metric, problem, failed=False))
            else:
                found.append(_reading(name, metric, column.unit, direction, [value]))
    return Readings(tuple(found), tuple(lost))


def read_samples(path: Path, what: str) -> Readings:
    """The file of a command that knows SAMPLES_VARIABLE."""
    found, lost = [], []
    for name, entry in _object(path, what).items():
        if not isinstance(entry, dict) or not isinstance(entry.get("samples"), list):
            raise BadInputError(
                path, f"{what}: must be an object with a list", field=f"{name}.samples"
            )
        direction = entry.get("direction", "lower")
        if direction not in ("higher", "lower"):
            raise BadInputError(
                path, f"{direction!r} is neither higher nor lower", field=f"{name}.direction"
            )
        unit = str(entry.get("unit", "s"))
        metric = str(entry.get("metric", PYTEST_METRIC if unit == "s" else "value"))
        if problem := _problem(entry["samples"]):
            lost.append(Lost(name, metric, problem, failed=False))
        else:
            found.append(_reading(name, metric, unit, direction, entry["samples"]))
    return Readings(tuple(found), tuple(lost))


def _reading(
    name: str, metric: str, unit: str, direction: Direction, samples: Sequence[float]
) -> Reading:
    values = tuple(float(sample) for sample in samples)
    return Reading(name, metric, unit, direction, float(median(values)), len(values), values)


def _problem(samples: Sequence[Any]) -> str:
    """Why samples cannot be compared, "" where they can."""
    if not samples:
        return "has no samples"
    for sample in samples:
        if isinstance(sample, bool) or not isinstance(sample, int | float):
            return f"has a sample that is not a number: {sample!r}"
        if not math.isfinite(sample) or sample <= 0:
            return f"has a sample of {sample}; one must be finite and above zero"
    return ""


def _object(path: Path, what: str) -> Mapping[str, Any]:
    document = read_json(path, DATA_BYTES, finite=False)
    if not isinstance(document, dict):
        raise BadInputError(path, f"{what}: is not a JSON object")
    return document
