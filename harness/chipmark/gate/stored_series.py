"""Stored runs as series to judge: folders of chipmark records, or pytest-benchmark's JSON.

Two files of one `chipmark ab` are paired again by what `ab` writes into them (`INTERLEAVED`,
`ROUNDS`); all other files are of different sessions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from chipmark.benchmark_json.document import NAMESPACE, Benchmark, BenchmarkRun
from chipmark.benchmark_json.identity import ambiguous, cpu_identity, without_addresses
from chipmark.codes import NullReason, meaning
from chipmark.errors import BadInputError, NothingToJudgeError, UnknownNameError

Key = tuple[str, str]
"""Benchmark and metric."""

INTERLEAVED = "interleaved"
"""Key of the top-level `chipmark` block of a JSON file: {"run": id, "arm": "A" or "B", "unfit":
why the machine was not fit, [] where it was}."""

ROUNDS = "rounds"
"""Key of a benchmark's `extra_info["chipmark"]`: [[session, round], ..], one for each of `data`."""

TIME = "time_s"
"""The metric of a pytest-benchmark file: seconds a round, by `data`."""

PYTEST_METRICS = (TIME,)
_PYTEST_IDENTITY = ("machine", "system", "python_implementation")
_PYTEST_CONTEXT = ("node", "release", "python_version", "python_compiler")


@dataclass(frozen=True, slots=True)
class Value:
    """One benchmark and metric of a run. samples: above zero, in `unit`. rounds: (session, round)
    of each sample where `ab` interleaved it. unfit: why the run itself says that this must not be
    compared. work: what must be equal on both sides. meter: the source of an energy, "" of
    anything else; meter_error: its stated relative bound, None where none is known."""

    unit: str
    direction: Literal["higher", "lower"]
    samples: tuple[float, ...]
    rounds: tuple[tuple[int, int], ...] = ()
    unfit: tuple[str, ...] = ()
    work: Mapping[str, Any] = field(default_factory=dict)
    meter: str = ""
    meter_error: float | None = None

    @property
    def value(self) -> float:
        """The median of its samples."""
        return float(median(self.samples))


@dataclass(frozen=True, slots=True)
class NoValue:
    """A benchmark and metric that a run names and has no value of. lost: whether it was not
    measured at all (a failed cell, a null); False: its numbers are there and cannot be used."""

    unit: str
    direction: Literal["higher", "lower"]
    reason: str
    lost: bool


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A side. fingerprint: hash of what was read; sides that share it are the same run. identity
    must match, context is warned about. no_values: what the run names without a value of it.
    interleaved: (run, arm) of `ab`; unfit: why its machine was not fit then. notes: what was left
    out, and why. created: ISO 8601, as the run says; commit: its id, "" where it is not said."""

    path: Path
    fingerprint: str
    identity: Mapping[str, Any]
    context: Mapping[str, Any]
    values: Mapping[Key, Value]
    interleaved: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()
    created: str = ""
    commit: str = ""
    no_values: Mapping[Key, NoValue] = field(default_factory=dict)
    unfit: tuple[str, ...] = ()


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What both sides know and differ in, in words."""
    for name, value in before.items():
        other = after.get(name)
        if value is not None and other is not None and value != other:
            yield f"{name} {value!r} and {other!r}"


def load_run(path: Path, metrics: Sequence[str] = ()) -> StoredRun:
    """A file of pytest-benchmark, a folder that holds one, a record or a folder of records.

    metrics: columns of the table for records, `time_s` for pytest-benchmark; () is the default:
    of records what each is ranked by.
    Raises BadInputError for what cannot be read, UnknownNameError for a metric that does not
    exist, NothingToJudgeError for a folder without anything.
    """
    if path.is_file() and path.name != "record.json":
        return _of_benchmarks(_read_runs(path), path, metrics)
    if not path.exists():
        raise NothingToJudgeError(
            f"{path}: there is no such file or folder",
            "a first run has no baseline: --ci stores this one, or copy it there yourself",
        )
    from chipmark.results.many_records import many_objects
    from chipmark.results.store import find_records

    if folders := find_records([path]):
        with many_objects():
            return _of_records(path, folders, metrics)
    runs = _read_runs(path)
    if not runs:
        raise NothingToJudgeError(
            f"{path}: holds neither a record nor a stored run of pytest-benchmark",
            "chipmark run quick -o DIR, or pytest --benchmark-json FILE and chipmark import",
        )
    return _of_benchmarks(runs, path, metrics)


def _read_runs(path: Path) -> Sequence[BenchmarkRun]:
    from chipmark.benchmark_json.store import read_runs

    return read_runs(path)


def _of_benchmarks(runs: Sequence[BenchmarkRun], path: Path, metrics: Sequence[str]) -> StoredRun:
    if len(runs) > 1:
        raise BadInputError(
            path, f"holds {len(runs)} runs of pytest-benchmark", hint="name the folder of one"
        )
    run = runs[0]
    for name in metrics:
        if name not in PYTEST_METRICS:
            raise UnknownNameError(
                "metric", name, PYTEST_METRICS, "columns of the table are those of records"
            )
    values, no_values, notes = {}, {}, []
    for fault in run.faults:
        if fault.fullname:
            key = (without_addresses(fault.fullname), TIME)
            no_values[key] = _unusable(f"{fault.field}: {fault.problem}")
        else:
            notes.append(f"{run.path}: left out: {fault.field}: {fault.problem}")
    unclear = ambiguous(run.benchmarks)
    for place, benchmark in enumerate(run.benchmarks):
        key = (without_addresses(benchmark.fullname), TIME)
        rounds: tuple[tuple[int, int], ...] = ()
        reason = unclear.get(place, "")
        if not benchmark.data:
            reason = "saved without samples; add --benchmark-save-data"
        elif min(benchmark.data) <= 0:
            reason = "stats.data: a time must be above zero"
        elif not reason:
            try:
                rounds = _rounds(run.path, benchmark)
            except BadInputError as error:
                reason = f"{error.field}: {error.problem}"
        if reason:
            no_values[key] = _unusable(reason)
            continue
        work = {"params": without_addresses(benchmark.params)}
        values[key] = Value("s", "lower", benchmark.data, rounds, work=work)
    info = run.machine_info
    cpu = info.get("cpu")
    identity: dict[str, Any] = {name: info.get(name) for name in _PYTEST_IDENTITY}
    if isinstance(cpu, Mapping):
        identity |= {f"cpu {name}": value for name, value in cpu_identity(cpu).items()}
    for index, accelerator in enumerate(run.accelerators or ()):
        own = accelerator.get("identity")
        named = {n: accelerator.get(n) for n in ("name", "vendor", "unit", "used", "of")}
        identity |= {f"accelerator {index} {n}": v for n, v in named.items()}
        identity |= {f"accelerator {index} {n}": v for n, v in (own or {}).items()}
    context = {name: info.get(name) for name in _PYTEST_CONTEXT}
    interleaved, faults = _interleaved(run)
    return StoredRun(
        path, run.sha256, identity, context, values, interleaved, tuple(notes), run.datetime,
        str(run.commit_info.get("id") or ""), no_values, faults,
    )  # fmt: skip


def _unusable(reason: str) -> NoValue:
    return NoValue("s", "lower", reason, lost=False)


def _interleaved(run: BenchmarkRun) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    """(run, arm) of `ab`, None of another run; and why the machine was not fit."""
    block = run.raw.get(NAMESPACE)
    found = block.get(INTERLEAVED) if isinstance(block, Mapping) else None
    if not isinstance(found, Mapping):
        return None, ()
    name, arm, unfit = found.get("run"), found.get("arm"), found.get("unfit", [])
    if not isinstance(unfit, list) or not all(isinstance(reason, str) for reason in unfit):
        raise BadInputError(
            run.path, "must be a list of reasons", field=f"{NAMESPACE}.{INTERLEAVED}.unfit"
        )
    if not isinstance(name, str) or arm not in ("A", "B"):
        raise BadInputError(
            run.path, "must name the run and arm A or B", field=f"{NAMESPACE}.{INTERLEAVED}"
        )
    return (name, arm), tuple(unfit)


def _rounds(path: Path, benchmark: Benchmark) -> tuple[tuple[int, int], ...]:
    listed = (benchmark.chipmark or {}).get(ROUNDS)
    if listed is None:
        return ()
    where = f"{benchmark.fullname}: extra_info.{NAMESPACE}.{ROUNDS}"
    whole = isinstance(listed, list) and all(
        isinstance(p, list) and len(p) == 2 and all(type(i) is int for i in p) for p in listed
    )
    if not whole or len(listed) != len(benchmark.data):
        raise BadInputError(path, "must have [session, round] for each sample", field=where)
    rounds = tuple((p[0], p[1]) for p in listed)
    if len(set(rounds)) != len(rounds):
        raise BadInputError(path, "names a round twice", field=where)
    return rounds


def _of_records(path: Path, folders: Sequence[Path], metrics: Sequence[str]) -> StoredRun:
    from chipmark.gate.energy import of_energy
    from chipmark.results.store import Skipped, each_record
    from chipmark.table.columns import COLUMNS, RANKABLE
    from chipmark.table.comparable import own_refusals, perf_identity
    from chipmark.table.load import load_refusal, load_words, own_metric

    for name in metrics:
        if name not in RANKABLE:
            raise UnknownNameError("metric", name, RANKABLE)
        if COLUMNS[name].kind == "cost" or name == "ep_coverage":
            raise BadInputError(
                path, f"{name} is not measured a repeat", field="metric",
                hint="cost follows from sessions_per_hour and joule_per_session: gate those",
            )  # fmt: skip
    skipped: list[Skipped] = []
    twice = ""
    hashes: list[str] = []
    created = ""
    values: dict[Key, Value] = {}
    no_values: dict[Key, NoValue] = {}
    identity: dict[str, Any] = {}
    context: dict[str, Any] = {}
    for record in each_record(folders, skipped):
        m = record.manifest
        hashes.append(record.self_sha256)
        created = max(created, m.created)
        scale = ",".join(m.workload.scale)
        name = f"{m.backend} {m.workload.name} {m.model.name} {m.precision.requested} "
        name += f"({scale}) {load_words(record)}"
        machine = {"chip": m.chip.name, "unit": m.chip.unit, "used": m.chip.used, "of": m.chip.of}
        identity |= {f"{m.backend} {k}": v for k, v in (machine | m.chip.identity).items()}
        context |= {f"{m.backend} {k}": v for k, v in m.chip.context.items()}
        for metric in metrics or (own_metric(record),):
            column = COLUMNS[metric]
            direction: Literal["higher", "lower"] = (
                "higher" if column.direction == "higher" else "lower"
            )
            repeats = [repeat.get(metric) for repeat in record.metrics.per_repeat]
            known = [float(v) for v in repeats if v is not None]
            lost = m.status != "done" or not known or len(known) < len(repeats)
            if lost or min(known) <= 0:
                code = record.metrics.null_reasons.get(metric, NullReason.CELL_FAILED)
                reason = meaning(code) if lost else "a repeat is not above zero"
                if m.failure is not None:
                    reason = f"the cell failed: {m.failure.text}"
                no_values[name, metric] = NoValue(column.unit, direction, reason, lost)
                continue
            if (name, metric) in values:
                twice = twice or name
                continue
            bound = load_refusal(record, metric)
            unfit = (*own_refusals(record), *((bound,) if bound else ()))
            work = perf_identity(record)
            value = Value(column.unit, direction, tuple(known), unfit=unfit, work=work)
            values[name, metric] = of_energy(value, record) if column.kind == "energy" else value
    if skipped:
        raise BadInputError(skipped[0].path, skipped[0].reason)
    if twice:
        raise BadInputError(
            path, f"holds {twice!r} twice", hint="name the record, or a folder of one run"
        )
    digest = hashlib.sha256(",".join(sorted(hashes)).encode()).hexdigest()
    # A cell that failed and was measured again in the same folder has its value.
    no_values = {key: found for key, found in no_values.items() if key not in values}
    return StoredRun(path, digest, identity, context, values, created=created, no_values=no_values)
