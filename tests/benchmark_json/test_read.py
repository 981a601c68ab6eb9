"""The reader: every version, unknown keys, and each way in which a file is wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from chipmark.benchmark_json.export import export_of
from chipmark.benchmark_json.read import read_benchmark_json
from chipmark.benchmark_json.store import import_run
from chipmark.errors import BadInputError, NothingToJudgeError

DATA = Path(__file__).parent / "data"
GOOD = json.loads((DATA / "v5.json").read_text())


def write(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "run.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def changed(*keys: Any, to: Any) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    place = document
    for key in keys[:-1]:
        place = place[key]
    if to is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    return document


@pytest.mark.parametrize("name", ["v3.json", "v4.json", "v5.json"])
def test_every_major_version_is_read(name: str) -> None:
    run = read_benchmark_json(DATA / name)
    assert run.version[0] == name[1]
    for benchmark in run.benchmarks:
        assert benchmark.stats["ops"] == pytest.approx(1 / benchmark.stats["mean"])
        assert benchmark.rounds >= 1
        assert benchmark.iterations >= 1


def test_a_file_of_3_0_lacks_ops_and_gets_them() -> None:
    assert "ops" not in json.loads((DATA / "v3.json").read_text())["benchmarks"][0]["stats"]
    assert read_benchmark_json(DATA / "v3.json").benchmarks[0].stats["ops"] > 0


def test_samples_groups_and_parameters() -> None:
    found = read_benchmark_json(DATA / "v5.json").benchmarks
    by_name = {benchmark.fullname: benchmark for benchmark in found}
    entry = by_name["test_x.py::test_b[2]"]
    assert (entry.rounds, entry.iterations, len(entry.data)) == (7, 1, 7)
    assert entry.param == "2"
    assert entry.params == {"n": 2}
    assert entry.group == "sums"


def test_samples_are_optional(tmp_path: Path) -> None:
    document = changed("benchmarks", 0, "stats", "data", to=...)
    assert read_benchmark_json(write(tmp_path, document)).benchmarks[0].data == ()


def test_rounds_that_ended_when_they_were_precise_enough(tmp_path: Path) -> None:
    run = read_benchmark_json(DATA / "v5_precision.json")
    assert run.faults == ()
    assert [(b.rounds, len(b.data)) for b in run.benchmarks] == [(50, 50), (19, 19)]
    assert {b.options["precision"] for b in run.benchmarks} == {0.05}
    assert {b.options["confidence"] for b in run.benchmarks} == {0.99}
    folder = import_run(DATA / "v5_precision.json", tmp_path)
    assert export_of(folder).text == (DATA / "v5_precision.json").read_text()


def test_unknown_keys_are_kept_everywhere(tmp_path: Path) -> None:
    document = copy.deepcopy(GOOD)
    document["later"] = {"x": [1]}
    document["benchmarks"][0]["later"] = None
    document["benchmarks"][0]["stats"]["later"] = "text"
    path = write(tmp_path, document)
    run = read_benchmark_json(path)
    assert run.raw == document
    assert run.text == path.read_text()


@pytest.mark.parametrize(
    ("document", "field", "says"),
    [
        ("", "", "is empty"),
        ("{", "", "truncated"),
        (json.dumps(GOOD)[:-40], "", "truncated"),
        ("[]", "", "JSON object"),
        ({"context": {}, "benchmarks": []}, "", "Google Benchmark"),
        ({"metadata": {}, "benchmarks": []}, "", "pyperf"),
        ({"results": []}, "", "hyperfine"),
        ({"schema": "chipmark.record/1"}, "", "chipmark.record/1"),
        ({"version": "5.0.0"}, "benchmarks", "not of pytest-benchmark"),
        (changed("version", to=...), "version", "missing"),
        (changed("version", to="2.5.0"), "version", "3.x to 5.x"),
        (changed("version", to="6.0.0"), "version", "3.x to 5.x"),
        (changed("machine_info", to=[]), "machine_info", "must be an object"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_field_and_fault(
    tmp_path: Path, document: object, field: str, says: str
) -> None:
    path = write(tmp_path, document)
    with pytest.raises(BadInputError, match=r".+") as caught:
        read_benchmark_json(path)
    assert str(path) in caught.value.message
    assert field in caught.value.field
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("document", "field", "says"),
    [
        (changed("benchmarks", 1, "fullname", to=...), "benchmarks[1].fullname", "missing"),
        (changed("benchmarks", 1, "stats", to=...), "benchmarks[1].stats", "missing"),
        (changed("benchmarks", 0, "stats", "mean", to=...), "benchmarks[0].stats.mean", "missing"),
        (changed("benchmarks", 0, "stats", "mean", to=float("nan")), "stats.mean", "finite"),
        (changed("benchmarks", 0, "stats", "q1", to=float("inf")), "stats.q1", "finite"),
        (changed("benchmarks", 0, "stats", "data", 1, to=float("nan")), "data[1]", "finite"),
        (changed("benchmarks", 0, "stats", "data", 1, to=-1.0), "data[1]", "negative"),
        (changed("benchmarks", 0, "stats", "data", 1, to="1"), "data[1]", "not a number"),
        (changed("benchmarks", 0, "stats", "data", to=[1.0]), "stats.data", "samples of"),
        (changed("benchmarks", 0, "stats", "mean", to=1.0), "stats.mean", "samples give"),
        (changed("benchmarks", 0, "stats", "rounds", to=0), "stats.rounds", "at least 1"),
        (changed("benchmarks", 0, "stats", "iterations", to=1.5), "iterations", "whole number"),
        (changed("benchmarks", 0, to=3), "benchmarks[0]", "must be an object"),
        (changed("benchmarks", 0, "stats", to=[]), "benchmarks[0].stats", "missing"),
        (changed("benchmarks", 0, "params", to=[]), "benchmarks[0].params", "must be an object"),
    ],
)  # fmt: skip
def test_a_broken_benchmark_costs_itself_alone(
    tmp_path: Path, document: object, field: str, says: str
) -> None:
    run = read_benchmark_json(write(tmp_path, document))
    (fault,) = run.faults
    assert field in fault.field
    assert says in fault.problem
    assert len(run.benchmarks) == len(GOOD["benchmarks"]) - 1
    assert run.size == len(GOOD["benchmarks"])


def test_twice_the_same_benchmark_is_none_of_the_two(tmp_path: Path) -> None:
    document = copy.deepcopy(GOOD)
    document["benchmarks"].append(document["benchmarks"][0])
    run = read_benchmark_json(write(tmp_path, document))
    assert [fault.index for fault in run.faults] == [0, 3]
    assert all("is there twice" in fault.problem for fault in run.faults)
    assert len(run.benchmarks) == 2


def test_no_benchmark_is_nothing_to_judge(tmp_path: Path) -> None:
    with pytest.raises(NothingToJudgeError, match="has no benchmark") as caught:
        read_benchmark_json(write(tmp_path, changed("benchmarks", to=[])))
    assert caught.value.exit_code == 3


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such file"):
        read_benchmark_json(tmp_path / "none.json")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match="UTF-8"):
        read_benchmark_json(path)
