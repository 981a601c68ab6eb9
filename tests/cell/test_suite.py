from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chipmark.cell.settings import Limits, RunOptions
from chipmark.cell.suite import Overrides, Suite, groups, load_suite, order_of, suite_names
from chipmark.errors import BadInputError, ChipmarkError, UnknownNameError, UsageError
from chipmark.meters.choice import parse_choice

HERE = ("torch:cpu", "ort:cpu")
MINE = """
[mine]
title = "t"
repeats = 4
[[mine.cells]]
workload = "func-call"
precision = ["fp32", "bf16"]
backend = ["torch:cpu", "sim:golden"]
concurrency = [1, 2]
sessions = 3
"""


def _file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_quick_is_the_agent_workload_on_what_is_here() -> None:
    suite = load_suite("quick", Overrides(), HERE)
    assert suite.repeats == 3
    assert [cell.backend for cell in suite.cells] == list(HERE)
    cell = suite.cells[0]
    assert (cell.workload, cell.scale, cell.sessions, cell.concurrency, cell.scenario) == (
        "agent-code-32k", "quick", 4, 4, "equal_n",
    )  # fmt: skip
    assert (cell.model, cell.precision) == ("smollm2-135m", "fp32")


@pytest.mark.parametrize("name", suite_names())
def test_built_in_suites_unfold(name: str) -> None:
    suite = load_suite(name, Overrides(), HERE)
    assert suite.cells
    assert suite.repeats >= 3


def test_lists_multiply_and_groups_differ_only_in_the_backend(tmp_path: Path) -> None:
    suite = load_suite(_file(tmp_path, MINE), Overrides(), ())
    assert (suite.name, suite.repeats, len(suite.cells)) == ("mine", 4, 8)
    found = groups(suite)
    assert [len(group) for group in found] == [2, 2, 2, 2]
    for group in found:
        assert [cell.backend for cell in group] == ["torch:cpu", "sim:golden"]


def test_overrides_replace_axes() -> None:
    overrides = Overrides(
        backends=("sim:golden",), precisions=("bf16",), concurrency=(1, 8), sessions=9, repeats=5
    )
    suite = load_suite("quick", overrides, HERE)
    assert suite.repeats == 5
    assert {(c.backend, c.precision, c.concurrency, c.sessions) for c in suite.cells} == {
        ("sim:golden", "bf16", 1, 9),
        ("sim:golden", "bf16", 8, 9),
    }


def test_transcript_takes_the_place_of_profiles() -> None:
    suite = load_suite("quick", Overrides(transcript="talks.jsonl"), HERE)
    assert {(c.kind, c.workload, c.sessions) for c in suite.cells} == {
        ("transcript", "talks.jsonl", 0)
    }
    with pytest.raises(UsageError, match="two workloads"):
        load_suite("quick", Overrides(transcript="a", trace="b"), HERE)


def test_the_block_size_is_of_a_recorded_trace_alone() -> None:
    given = load_suite("quick", Overrides(trace="moon.jsonl", block_tokens=64), HERE)
    assert {c.block_tokens for c in given.cells} == {64}
    assert {c.block_tokens for c in load_suite("quick", Overrides(trace="m"), HERE).cells} == {512}
    with pytest.raises(UsageError, match="--block-tokens"):
        load_suite("quick", Overrides(block_tokens=64), HERE)


def test_repeats_go_forth_and_back() -> None:
    assert [order_of(r, 3) for r in range(3)] == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (Overrides(backends=("trch:cpu",)), "torch:cpu"),
        (Overrides(backends=("torch",)), "KIND:DEVICE"),
        (Overrides(precisions=("fp31",)), "fp32"),
        (Overrides(scenario="capcity"), "capacity"),
        (Overrides(concurrency=(0,)), "concurrency is 0"),
    ],
)
def test_wrong_override_names_the_nearest(overrides: Overrides, problem: str) -> None:
    with pytest.raises(ChipmarkError, match=problem) as caught:
        load_suite("quick", overrides, HERE)
    assert caught.value.exit_code == 2


def test_unknown_suite_is_told_its_neighbours() -> None:
    with pytest.raises(UnknownNameError, match="quick"):
        load_suite("quik", Overrides(), HERE)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("precision =", "precison ="), "did you mean precision"),
        (("sessions = 3", "sessions = 0"), "sessions"),
        (("concurrency = [1, 2]", 'concurrency = ["1"]'), "not a int"),
        (("repeats = 4", 'repeats = "4"'), "mine.repeats"),
        (('workload = "func-call"\n', ""), "mine.cells\\[0\\].workload"),
        (('title = "t"', "title = "), "invalid TOML"),
        (("[[mine.cells]]", "[[mine.cell]]"), "did you mean cells"),
    ],
)
def test_bad_suite_file_names_file_and_field(
    tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    assert change[0] in MINE
    path = _file(tmp_path, MINE.replace(*change))
    with pytest.raises(BadInputError, match=problem) as caught:
        load_suite(path, Overrides(), HERE)
    assert path in caught.value.message


def test_missing_suite_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such file"):
        load_suite(str(tmp_path / "none.toml"), Overrides(), HERE)


def test_no_backend_at_all_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="no backend was found") as caught:
        load_suite("quick", Overrides(), ())
    assert "doctor" in caught.value.hint


def test_suites_are_frozen() -> None:
    suite = load_suite("quick", Overrides(), HERE)
    assert isinstance(suite, Suite)
    assert hash(suite.cells[0]) == hash(suite.cells[0])


def test_a_suite_has_one_limit_for_every_step_and_the_command_line_goes_first(
    tmp_path: Path,
) -> None:
    limited = MINE.replace("repeats = 4", "repeats = 4\nlimit_s = 30")
    suite = load_suite(_file(tmp_path, limited), Overrides(), ())
    assert suite.limit_s == 30.0
    limits = RunOptions().of_suite(None, None, suite.limit_s).limits
    assert {limits.load_s, limits.parity_s, limits.run_s, limits.oracle_s} == {30.0}
    assert {limits.probe_s, limits.clock_s, limits.close_s} == {30.0, 20.0}
    assert limits.grace_s <= 10.0
    assert RunOptions(limit_s=5.0).of_suite(None, None, suite.limit_s).limits.load_s == 5.0
    assert load_suite(_file(tmp_path, MINE), Overrides(), ()).limit_s is None
    assert RunOptions().of_suite(None, None, None).limits == Limits()


@pytest.mark.parametrize("given", ["0", "-1", "true", '"60"', "inf", "nan", "0.5"])
def test_a_limit_that_is_none_names_the_field(tmp_path: Path, given: str) -> None:
    limited = MINE.replace("repeats = 4", f"repeats = 4\nlimit_s = {given}")
    with pytest.raises(BadInputError, match=r"mine\.limit_s"):
        load_suite(_file(tmp_path, limited), Overrides(), ())


def test_meters_of_a_suite_are_those_of_the_command_line(tmp_path: Path) -> None:
    head = "[mine]\nrepeats = 1\n"
    cells = '[[mine.cells]]\nworkload = "func-call"\nbackend = "sim:golden"\n'

    def read(meters: str) -> Suite:
        path = tmp_path / "mine.toml"
        path.write_text(f"{head}meters = {meters}\n{cells}")
        return load_suite(str(path), Overrides(), [])

    names = [(m.name, m.target) for m in read('["nvml", "csv:wall.csv,time=T"]').meters]
    assert names == [("nvml", ""), ("csv", "wall.csv")]
    settings = RunOptions().of_suite(None, None, None, read('["rapl"]').meters)
    assert settings.kept()["meters"] == ["rapl"]
    own = replace(settings, meters=(parse_choice("nvml"),))
    assert own.of_suite(None, None, None, read('["rapl"]').meters).kept()["meters"] == ["nvml"]
    assert "meters" not in RunOptions().kept()
    for wrong, text in (('"rapl"', "not a list of meters"), ('[",a=b"]', "names no meter")):
        with pytest.raises(BadInputError, match=text) as found:
            read(wrong)
        assert found.value.field == "mine.meters"


def test_a_block_has_an_estimate_and_modules_that_it_needs(tmp_path: Path) -> None:
    text = (
        MINE
        + "estimate_s = 40\n"
        + """
[[mine.cells]]
workload = "func-call"
backend = ["ort:webgpu"]
precision = ["fp32"]
needs = ["no_such_module.inner"]
"""
    )
    suite = load_suite(
        _file(tmp_path, text.replace("repeats", "idle_once = true\nrepeats")), Overrides(), ()
    )
    assert {cell.estimate_s for cell in suite.cells} == {40.0}
    assert suite.left_out == ("ort:webgpu: no_such_module.inner is not installed",)
    assert suite.idle_once
    here = load_suite(
        _file(tmp_path, text.replace("no_such_module.inner", "json")), Overrides(), ()
    )
    assert "ort:webgpu" in {cell.backend for cell in here.cells}


@pytest.mark.parametrize(
    ("field", "problem"),
    [("estimate_s = -1", "is not seconds"), ("estimate_s = true", "is not seconds"),
     ("needs = 'json'", "list of modules"), ("needs = ['']", "list of modules")],
)  # fmt: skip
def test_a_wrong_estimate_or_need_names_its_field(tmp_path: Path, field: str, problem: str) -> None:
    with pytest.raises(BadInputError, match=problem) as found:
        load_suite(_file(tmp_path, f"{MINE}{field}\n"), Overrides(), ())
    assert found.value.field == f"mine.cells[0].{field.split()[0]}"
