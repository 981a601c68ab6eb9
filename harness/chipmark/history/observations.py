"""What a folder of runs says over time: an observation for each run, benchmark and metric."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from chipmark.errors import BadInputError, ChipmarkError, NothingToJudgeError, UnknownNameError
from chipmark.gate.machine_bounds import fingerprint
from chipmark.gate.stored_series import PYTEST_METRICS, StoredRun, load_run
from chipmark_models.foreign_file import DATA_BYTES, parse_json, read_bytes


@dataclass(frozen=True, slots=True)
class Observation:
    """One value of one run.

    run: hash of what was read. created: ISO 8601 in UTC, the time of the series. machine:
    fingerprint of the identity, as the gate's. work: hash of what must be equal for two values to
    be compared. value: the median of `samples` samples, in `unit`, above zero.
    """

    run: str
    created: str
    commit: str
    machine: str
    work: str
    benchmark: str
    metric: str
    unit: str
    direction: str
    value: float
    samples: int

    @property
    def time_s(self) -> float:
        """Seconds since 1970."""
        return datetime.datetime.fromisoformat(self.created).timestamp()


Key = tuple[str, str, str, str]
"""Machine, work, benchmark and metric: what one series is about."""


@dataclass(frozen=True, slots=True)
class Series:
    """Observations of one machine, work, benchmark and metric, oldest first."""

    key: Key
    points: tuple[Observation, ...]

    @property
    def sign(self) -> int:
        """+1 where larger is worse, -1 where smaller is."""
        return 1 if self.points[0].direction == "lower" else -1

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.points[0].benchmark} ({self.points[0].metric})"


@dataclass(frozen=True, slots=True)
class Collected:
    """What was found, and what was left out and why."""

    observations: tuple[Observation, ...]
    notes: tuple[str, ...]


def collect(folder: Path, metrics: Sequence[str] = ()) -> Collected:
    """Every run under a folder: records, imported runs and JSON files of pytest-benchmark.

    A file that cannot be read is left out with a note. Raises NothingToJudgeError where nothing
    is found, UnknownNameError for a metric that no run can have, BadInputError for a path that is
    not there.
    """
    from chipmark.table.columns import RANKABLE

    for name in metrics:
        if name not in RANKABLE and name not in PYTEST_METRICS:
            raise UnknownNameError("metric", name, [*PYTEST_METRICS, *RANKABLE])
    of_records = tuple(m for m in metrics if m in RANKABLE)
    of_pytest = tuple(m for m in metrics if m in PYTEST_METRICS)
    observations: dict[tuple[str, str, str], Observation] = {}
    notes: list[str] = []
    found = 0
    for path, is_record in _sources(folder):
        wanted = of_records if is_record else of_pytest
        if metrics and not wanted:
            continue
        found += 1
        try:
            run = load_run(path, wanted)
            for observation in _of(run):
                key = (observation.run, observation.benchmark, observation.metric)
                observations[key] = observation
            notes += (*run.notes, *_no_values(run), *_unfit(run))
        except ChipmarkError as error:
            notes.append(f"left out: {error.message}")
    if not found:
        raise NothingToJudgeError(
            f"{folder}: holds no run to look back on",
            "chipmark run -o DIR, or chipmark import FILE -o DIR, more than once",
        )
    return Collected(tuple(observations.values()), tuple(dict.fromkeys(notes)))


def series_of(
    observations: Sequence[Observation], pattern: str = "*", last: int = 0
) -> list[Series]:
    """Observations as series, oldest first. pattern: shell pattern of benchmark names. last: so
    many of the newest runs of each, 0 for all."""
    from fnmatch import fnmatchcase

    grouped: dict[Key, list[Observation]] = {}
    for o in observations:
        if fnmatchcase(o.benchmark, pattern):
            grouped.setdefault((o.machine, o.work, o.benchmark, o.metric), []).append(o)
    return [
        Series(key, tuple(sorted(points, key=lambda o: (o.time_s, o.run))[-last:]))
        for key, points in sorted(grouped.items(), key=lambda item: (item[0][2:], item[0][:2]))
    ]


def _sources(folder: Path) -> list[tuple[Path, bool]]:
    """Paths of runs, and whether each is a record."""
    from chipmark.benchmark_json.store import find_runs
    from chipmark.results.store import find_records

    if not folder.is_dir():
        raise BadInputError(folder, "there is no such folder or Parquet store")
    records = find_records([folder])
    imported = find_runs([folder])
    files = [path for path in _json_outside(folder, {*records, *imported}) if _is_pytest(path)]
    return [*((p, True) for p in records), *((p, False) for p in (*imported, *files))]


def _json_outside(folder: Path, taken: Set[Path]) -> list[Path]:
    """JSON files under a folder that lie in none of the folders that are taken, sorted."""
    found = []
    for root, folders, files in os.walk(folder):
        here = Path(root)
        if here in taken:
            folders.clear()
            continue
        found += [here / name for name in (*folders, *files) if name.endswith(".json")]
    return sorted(path for path in found if path not in taken)


def _is_pytest(path: Path) -> bool:
    """Whether a JSON file is one of pytest-benchmark, by the key that every version has."""
    try:
        document = parse_json(read_bytes(path, DATA_BYTES), path, finite=False)
    except BadInputError:
        return True  # truncated or invalid JSON: reading it adds a note
    return isinstance(document, dict) and "benchmarks" in document


def _of(run: StoredRun) -> list[Observation]:
    created = _utc(run)
    machine = fingerprint(run.identity)
    return [
        Observation(
            run=run.fingerprint,
            created=created,
            commit=run.commit,
            machine=machine,
            work=_hash(dict(value.work)),
            benchmark=benchmark,
            metric=metric,
            unit=value.unit,
            direction=value.direction,
            value=value.value,
            samples=len(value.samples),
        )
        for (benchmark, metric), value in run.values.items()
        if not value.unfit
    ]


def _no_values(run: StoredRun) -> list[str]:
    return [
        f"left out: {run.path}: {benchmark}: {metric}: {found.reason}"
        for (benchmark, metric), found in run.no_values.items()
    ]


def _unfit(run: StoredRun) -> list[str]:
    return [
        f"left out: {run.path}: {benchmark}: {'; '.join(value.unfit)}"
        for (benchmark, _), value in run.values.items()
        if value.unfit
    ]


def _utc(run: StoredRun) -> str:
    try:
        time = datetime.datetime.fromisoformat(run.created)
    except ValueError:
        raise BadInputError(run.path, f"{run.created!r} is not a time", field="created") from None
    if time.tzinfo is None:  # pytest-benchmark before 5.0 writes UTC without saying so
        time = time.replace(tzinfo=datetime.UTC)
    return time.astimezone(datetime.UTC).isoformat(timespec="milliseconds")


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
