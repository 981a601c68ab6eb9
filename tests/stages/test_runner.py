"""A step that hangs, dies, loses its device or is cut costs itself; what was made is kept."""

from __future__ import annotations

import json
import time

import pytest

from chipmark.errors import MissingBackendError
from chipmark.kernel_bench.stages.contract import Stage
from chipmark.kernel_bench.stages.document import State, read
from chipmark.kernel_bench.supervisor import Answer


@pytest.fixture
def step(fakes):
    return fakes.stages_call.step


def test_every_ending_of_a_part_in_one_call(calling, step, tmp_path) -> None:
    """One real process after another: what fails costs its part, and the steps behind are done."""
    left, files, lines = calling(
        step("plain", "a ok", "b nothing", "c nan", "d raise", "e object", "f ok"),
        step("dies", "a ok", "b die", "c ok", limit_s=30),
        step("loses", "a lose", "b ok"),
        step("hangs", "a hang", "b ok", limit_s=0.5),
        step("no work", work="fake_works:missing"),
        step("between", work="fake_works:breaks_between"),
        step("last", "a file"),
    )
    assert left == []
    found = files[Stage.RUNS].entries
    plain = found["plain"].parts
    assert list(plain) == ["a ok", "c nan", "d raise", "e object", "f ok"]
    assert plain["c nan"] == {"rate": None, "rows": [1.0, None], "main": "nan"}
    assert plain["d raise"] == {"error": "ValueError: does not compile"}
    assert plain["e object"] == {"error": "TypeError: object is not JSON"}
    assert found["plain"].failures.keys() == {"d raise", "e object"}
    dies = found["dies"].parts
    assert "SIGSEGV" in dies["b die"]["error"]
    assert dies["c ok"]["pid"] != dies["a ok"]["pid"]
    assert dies["after b die"] == {"looked": True}
    assert "illegal memory access" in found["loses"].parts["a lose"]["error"]
    assert "b ok" in found["loses"].parts
    assert found["hangs"].parts["a hang"] == {"error": "over its time of 0.5 s"}
    assert "b ok" in found["hangs"].parts
    assert "missing" in found["no work"].parts["start"]["error"]
    assert "KeyError" in found["between"].parts["start"]["error"]
    states = {key: entry.state for key, entry in found.items()}
    assert states.pop("last") is State.DONE
    assert set(states.values()) == {State.FAILED}
    assert any(line.startswith("dies, b die: ") for line in lines)
    # The file on the disk is strict JSON and the same.
    stored = json.loads((tmp_path / "stage-1.json").read_text(), parse_constant=pytest.fail)
    assert stored["steps"]["dies"]["parts"] == dies
    assert read(tmp_path, Stage.RUNS).entries["dies"] == found["dies"]


class Scripted:
    """A worker whose answers are given; parts are told as they come."""

    def __init__(self, *answers) -> None:
        self.answers, self.asked = list(answers), []

    def ask(self, request, step_s, until_s, told=None):
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        for name, part in answer.parts.items():
            told(name, part)
        return answer


DONE = Answer({}, "done")


@pytest.fixture
def scripted(calling):
    def call(*steps, answers, **options):
        worker = Scripted(*answers)
        found = calling(*steps, worker_of=lambda _: worker, **options)
        return (*found, worker.asked)

    return call


def test_a_cut_step_resumes_without_what_it_has_and_with_more_time(scripted, step) -> None:
    long = step("long", estimate_s=100.0, limit_s=400.0)
    cut = Answer({"a": {"x": 1}}, "budget", "b", "the call's time was over")
    left, files, _, _ = scripted(long, answers=[cut])
    entry = files[Stage.RUNS].entries["long"]
    assert left == ["long"]
    assert (entry.state, entry.cut["part"], list(entry.parts)) == (State.CUT, "b", ["a"])
    # It had 300 s for the part that was cut, so it is not begun where 400 are left.
    entry.cut["seconds"], entry.seconds = 300.0, 310.0
    assert entry.needed_s(long) == 400.0
    files[Stage.RUNS].save()
    left, _, lines, asked = scripted(long, answers=[], within_s=390.0)
    assert (left, asked) == (["long"], [])
    assert "not begun, needs 400 s" in lines[0]
    left, files, _, asked = scripted(long, answers=[Answer({"b": {"x": 2}}, "done")])
    assert (left, asked[0]["have"]) == ([], ["a"])
    assert list(files[Stage.RUNS].entries["long"].parts) == ["a", "b"]
    assert files[Stage.RUNS].entries["long"].seconds >= 310.0


def test_a_step_that_does_not_fit_is_left_and_a_smaller_one_behind_it_done(scripted, step) -> None:
    big, small = step("big", estimate_s=50.0), step("small", estimate_s=5.0)
    left, files, lines, asked = scripted(big, small, answers=[DONE], within_s=20.0)
    assert left == ["big"]
    assert len(asked) == 1
    assert "small" in files[Stage.RUNS].entries
    assert lines[0].startswith("big: not begun, needs 50 s and ")


def test_a_failed_step_is_tried_again_only_where_asked(scripted, step) -> None:
    one = step("one")
    failed = Answer({"a": {"x": 1}, "b": {"error": "ValueError: no"}}, "done")
    left, files, _, _ = scripted(one, answers=[failed])
    assert left == []
    assert files[Stage.RUNS].entries["one"].state is State.FAILED
    _, _, _, asked = scripted(one, answers=[])
    assert asked == []
    _, files, _, asked = scripted(one, answers=[Answer({"b": {"x": 2}}, "done")], retry=True)
    assert asked[0]["have"] == ["a"]
    assert files[Stage.RUNS].entries["one"].state is State.DONE
    again = step("again", repeats_after_failure=True)
    scripted(again, answers=[failed])
    _, _, _, asked = scripted(again, answers=[DONE])
    assert len(asked) == 1


def test_a_part_that_breaks_twice_ends_its_step(scripted, step) -> None:
    lost = Answer({}, "lost", "a", "the device did not answer after it")
    _, files, _, asked = scripted(step("one"), answers=[lost, lost])
    assert [request["broke"] for request in asked] == [[], ["a"]]
    assert files[Stage.RUNS].entries["one"].state is State.FAILED


def test_a_step_has_few_new_processes(scripted, step) -> None:
    deaths = [Answer({}, "died", name, "was killed") for name in "abcdef"]
    _, files, _, asked = scripted(step("one"), answers=deaths)
    assert len(asked) == 4
    assert list(files[Stage.RUNS].entries["one"].parts) == ["a", "b", "c", "d"]


def test_a_device_that_is_gone_ends_the_call_with_the_rest_left(scripted, step) -> None:
    gone = MissingBackendError("the measuring process cannot start: no driver")
    steps = [step("one"), step("two"), step("three")]
    left, files, _, _ = scripted(*steps, answers=[DONE, gone])
    assert left == ["three"]
    assert "no driver" in files[Stage.RUNS].entries["two"].failures["start"]


def test_an_interrupt_keeps_what_was_made_and_the_step_resumes(scripted, step, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        scripted(step("one"), step("two"), answers=[DONE, KeyboardInterrupt()])
    stored = read(tmp_path, Stage.RUNS)
    assert [entry.state for entry in stored.entries.values()] == [State.DONE, State.CUT]


def test_other_code_or_parameters_make_a_step_anew_and_keep_the_old_figures(
    scripted, step, tmp_path
) -> None:
    scripted(step("one", "x"), step("two"), answers=[Answer({"a": {"x": 1}}, "done"), DONE])
    _, files, _, asked = scripted(step("one", "x"), answers=[DONE], code="2")
    assert asked[0]["have"] == []
    _, files, _, asked = scripted(step("one", "y"), step("two"), answers=[DONE, DONE], code="2")
    assert len(asked) == 2
    scripted(step("one", "y"), answers=[], code="2")
    earlier = files[Stage.RUNS].earlier
    assert [(e["key"], e["parts"]) for e in earlier] == [("one", {"a": {"x": 1}})]
    assert json.loads((tmp_path / "stage-1.json").read_text())["earlier"] == earlier


def test_a_step_has_its_variables_before_torch_is_there(fakes, step, monkeypatch) -> None:
    from chipmark.kernel_bench.stages import command

    monkeypatch.setattr(command, "BENCH", "fake_works:Fragile")
    plain, other = step("plain"), step("other", environment={"CHIPMARK_FAKE": "set"})
    request = {"work": other.work, "parameters": {"words": ["a variable"]}, "have": [],
               "broke": [], "folder": ".", "until_s": 1e9}  # fmt: skip
    with command.Processes() as processes:
        pid = processes.identity(other)["pid"]
        answer = processes.of(other).ask(request, 60, time.monotonic() + 60)
        assert answer.parts["a variable"] == {"value": "set"}
        assert processes.of(other).identity["pid"] == pid
        answer = processes.of(plain).ask(request, 60, time.monotonic() + 60)
        assert answer.parts["a variable"] == {"value": ""}
