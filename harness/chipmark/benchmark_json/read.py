"""Read and check a JSON file of pytest-benchmark; errors name the file, the field and the fix.

What is wrong with the file is an error. What is wrong with one benchmark costs that one, as a
`Fault` of the run.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chipmark.benchmark_json.document import Benchmark, BenchmarkRun, Fault
from chipmark.errors import BadInputError, NothingToJudgeError
from chipmark_models.foreign_file import DATA_BYTES, parse_json, read_bytes

OLDEST_MAJOR, NEWEST_MAJOR = 3, 5
"""Versions of pytest-benchmark whose files were read in tests."""

_REQUIRED = ("min", "max", "mean", "stddev", "median")
_STATS = (*_REQUIRED, "iqr", "q1", "q3", "ld15iqr", "hd15iqr", "ops", "total")
_AGREEMENT = 1e-6
"""Relative difference between `stats` and what `data` gives; both were computed in doubles."""
_MAKE = "make it with `pytest --benchmark-json FILE`"


def read_benchmark_json(path: Path) -> BenchmarkRun:
    """The run that a file holds.

    A benchmark whose entry is broken (no statistics, a time that is not a finite number of seconds,
    a name that is there twice) is in `faults` of the run, and the others stand. Raises
    BadInputError for a file that is missing, empty, cut, of another tool or version;
    NothingToJudgeError for a run without a benchmark.
    """
    return parse_benchmark_json(path, read_bytes(path, DATA_BYTES, hint=_MAKE))


def parse_benchmark_json(path: Path, content: bytes) -> BenchmarkRun:
    """As `read_benchmark_json`, from bytes; `path` names them in errors."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(path, f"is not UTF-8 ({error.reason})", hint=_MAKE) from error
    document = _document(path, text)
    version = _version(path, document)
    entries = document["benchmarks"]
    if not entries:
        raise NothingToJudgeError(
            f"{path}: benchmarks: the run has no benchmark",
            "pytest-benchmark drops those that failed: look at the test's own report",
        )
    benchmarks, faults = _benchmarks(path, entries)
    return BenchmarkRun(
        path=path,
        version=version,
        datetime=str(document.get("datetime", "")),
        machine_info=_mapping(path, document.get("machine_info"), "machine_info"),
        commit_info=_mapping(path, document.get("commit_info"), "commit_info"),
        benchmarks=benchmarks,
        faults=faults,
        sha256=hashlib.sha256(content).hexdigest(),
        raw=document,
        text=text,
    )


def _document(path: Path, text: str) -> Mapping[str, Any]:
    if not text.strip():
        raise BadInputError(
            path, "is empty", hint="pytest-benchmark writes at the end of a run: did it end?"
        )
    # A benchmark's NaN is the fault of that one alone.
    document = parse_json(text, path, finite=False, hint=_MAKE)
    if not isinstance(document, dict):
        raise BadInputError(path, "must be a JSON object of pytest-benchmark", hint=_MAKE)
    other = _other_tool(document)
    if other:
        raise BadInputError(path, f"is {other}, not of pytest-benchmark", hint=_MAKE)
    if not isinstance(document.get("benchmarks"), list):
        raise BadInputError(
            path, "is missing or no list: not of pytest-benchmark", field="benchmarks", hint=_MAKE
        )
    return document


def _other_tool(document: Mapping[str, Any]) -> str:
    keys = document.keys()
    schema = document.get("schema")
    if isinstance(schema, str):
        return f"a file of schema {schema!r}"
    if "context" in keys and "benchmarks" in keys:
        return "a file of Google Benchmark"
    if "metadata" in keys and "benchmarks" in keys:
        return "a file of pyperf"
    if "results" in keys and "benchmarks" not in keys:
        return "a file of hyperfine or asv"
    return ""


def _version(path: Path, document: Mapping[str, Any]) -> str:
    version = document.get("version")
    if not isinstance(version, str) or not version:
        raise BadInputError(
            path, "is missing: not of pytest-benchmark", field="version", hint=_MAKE
        )
    major = version.partition(".")[0]
    if not major.isdecimal() or not OLDEST_MAJOR <= int(major) <= NEWEST_MAJOR:
        raise BadInputError(
            path,
            f"{version!r}; this chipmark reads {OLDEST_MAJOR}.x to {NEWEST_MAJOR}.x",
            field="version",
            hint="upgrade chipmark" if major.isdecimal() and int(major) > NEWEST_MAJOR else _MAKE,
        )
    return version


def _benchmarks(
    path: Path, entries: Sequence[Any]
) -> tuple[tuple[Benchmark, ...], tuple[Fault, ...]]:
    """The sound entries, and why each of the others is none."""
    names = [_fullname(entry) for entry in entries]
    twice = {name for name, times in Counter(names).items() if name and times > 1}
    benchmarks, faults = [], []
    for index, (name, entry) in enumerate(zip(names, entries, strict=True)):
        try:
            if name in twice:
                raise BadInputError(
                    path, f"{name!r} is there twice", field=f"benchmarks[{index}].fullname"
                )
            benchmarks.append(_benchmark(path, index, entry))
        except BadInputError as error:
            faults.append(Fault(index, name, error.field, error.problem))
    return tuple(benchmarks), tuple(faults)


def _fullname(entry: Any) -> str:
    name = entry.get("fullname") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def _benchmark(path: Path, index: int, entry: Any) -> Benchmark:
    where = f"benchmarks[{index}]"
    if not isinstance(entry, dict):
        raise BadInputError(path, "must be an object", field=where, hint=_MAKE)
    fullname = _fullname(entry)
    if not fullname:
        raise BadInputError(path, "is missing", field=f"{where}.fullname", hint=_MAKE)
    stats = entry.get("stats")
    if not isinstance(stats, dict):
        raise BadInputError(path, "is missing", field=f"{where}.stats", hint=_MAKE)
    numbers = _numbers(path, f"{where}.stats", stats)
    data = _samples(path, f"{where}.stats.data", stats.get("data"))
    rounds = _count(path, f"{where}.stats.rounds", stats.get("rounds"))
    if data and len(data) != rounds:
        raise BadInputError(
            path, f"has {len(data)} samples of {rounds} rounds", field=f"{where}.stats.data"
        )
    _check_agreement(path, f"{where}.stats", numbers, data)
    group, param, params = entry.get("group"), entry.get("param"), entry.get("params")
    return Benchmark(
        fullname=fullname,
        name=str(entry.get("name") or fullname),
        group=None if group is None else str(group),
        param=None if param is None else str(param),
        params=None if params is None else _mapping(path, params, f"{where}.params"),
        stats=numbers,
        data=data,
        iterations=_count(path, f"{where}.stats.iterations", stats.get("iterations")),
        rounds=rounds,
        extra_info=_mapping(path, entry.get("extra_info"), f"{where}.extra_info"),
        options=_mapping(path, entry.get("options"), f"{where}.options"),
        raw=entry,
    )


def _numbers(path: Path, where: str, stats: Mapping[str, Any]) -> dict[str, float]:
    numbers = {}
    for key in _STATS:
        if stats.get(key) is not None:
            numbers[key] = _seconds(path, f"{where}.{key}", stats[key])
        elif key in _REQUIRED:
            raise BadInputError(path, "is missing", field=f"{where}.{key}", hint=_MAKE)
    if "ops" not in numbers:
        numbers["ops"] = 1.0 / numbers["mean"] if numbers["mean"] > 0 else 0.0
    return numbers


def _samples(path: Path, where: str, data: Any) -> tuple[float, ...]:
    if data is None:
        return ()
    if not isinstance(data, list):
        raise BadInputError(path, "must be a list", field=where, hint=_MAKE)
    return tuple(_seconds(path, f"{where}[{i}]", value) for i, value in enumerate(data))


def _seconds(path: Path, where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInputError(path, f"{value!r} is not a number", field=where)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0:
        raise BadInputError(
            path,
            f"{value!r} must be a finite number and not negative",
            field=where,
            hint="a sample that was not measured must be left out of the run: measure again",
        )
    return number


def _count(path: Path, where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInputError(path, f"{value!r} must be a whole number of at least 1", field=where)
    return value


def _mapping(path: Path, value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInputError(path, "must be an object", field=where, hint=_MAKE)
    return value


def _check_agreement(
    path: Path, where: str, numbers: Mapping[str, float], data: tuple[float, ...]
) -> None:
    if not data:
        return
    ordered = sorted(data)
    middle = len(ordered) // 2
    low = ordered[middle - 1 + len(ordered) % 2]
    expected = {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": math.fsum(ordered) / len(ordered),
        "median": (low + ordered[middle]) / 2,
    }
    for key, value in expected.items():
        if not math.isclose(numbers[key], value, rel_tol=_AGREEMENT, abs_tol=1e-15):
            raise BadInputError(
                path,
                f"is {numbers[key]!r}, its samples give {value!r}",
                field=f"{where}.{key}",
                hint="the file was changed after it was written: measure again",
            )
