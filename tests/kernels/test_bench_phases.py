"""`chipmark kernels run` end to end on a CPU: two phases, one whole file, goes on where it was."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time

import pytest
import torch

from chipmark.errors import BadInputError
from chipmark_kernels.device import TARGETS

SMALL = ("fake_bench:small_bench", {"compiled": False})


class Silent:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def stage(self, text: str) -> None: ...

    def step(self) -> None: ...


@pytest.fixture
def calling(kernel_bench, tmp_path):
    """Makes a `Call` of a scripted worker: a function of the request to an `Answer`."""

    class Scripted:
        def __init__(self, answer) -> None:
            self.answer, self.asked = answer, []

        def ask(self, request, step_s, until_s):
            self.asked.append(request)
            return self.answer(request)

    def make(answer, document=None, **options):
        path = tmp_path / "out.json"
        document = document or kernel_bench.document.opened(path, {"device": "a", "code": "1"})
        order = [(c.kernel, c.name) for c in kernel_bench.cases.cases(small=True)]
        return kernel_bench.phases.Call(
            Scripted(answer), document, lambda: kernel_bench.document.save(path, document, order),
            Silent(), lambda *_: [], "card", 60.0, time.monotonic() + 1e6, **options,
        )  # fmt: skip

    return make


def _cases(kernel_bench, kernel):
    return [c for c in kernel_bench.cases.cases(small=True) if c.kernel == kernel]


GOOD = {"ok": True, "results": []}
OURS = {"median_s": 1e-3, "from_s": 0.0, "to_s": 1.0}


def test_all_parity_comes_before_any_time_and_only_what_passes_is_timed(
    kernel_bench, calling
) -> None:
    wanted = _cases(kernel_bench, "swiglu")

    def answer(request):
        if request["do"] == "parity":
            good = request["case"] != (wanted[1].kernel, wanted[1].name)
            bad = {"ok": False, "results": [{"problems": ["(a) far"]}]}
            return kernel_bench.supervisor.Answer({"parity": GOOD if good else bad}, "done")
        return kernel_bench.supervisor.Answer({"inputs": {"cold_l2": True}, "ours": OURS}, "done")

    call = calling(answer)
    assert kernel_bench.phases.fill_parity(call, wanted) == ""
    assert kernel_bench.phases.fill_times(call, wanted) == ""
    asked = [(r["do"], r["case"][1]) for r in call.worker.asked]
    names = [c.name for c in wanted]
    assert asked == [("parity", n) for n in names] + [("time", names[0]), ("time", names[2])]
    assert call.reporter.said[0] == f"swiglu {names[1]}: parity: (a) far"
    assert kernel_bench.phases.without_parity(call.document, wanted) == []
    assert kernel_bench.phases.without_time(call.document, wanted, True) == []


def test_what_the_device_has_no_unit_for_is_left_out_and_no_failure(
    kernel_bench, monkeypatch
) -> None:
    monkeypatch.setattr(kernel_bench.bench, "facts_of", lambda _: TARGETS["sm_80"])
    case = _cases(kernel_bench, "fp8_gemm")[0]
    cpu = torch.device("cpu")
    bench = kernel_bench.bench.KernelBench(
        [case], cpu, kernel_bench.fake.FakeDevice(), torch.float16
    )
    request = {"do": "parity", "case": (case.kernel, case.name)}
    part = dict(bench.steps(request))["parity"]()
    assert part == {"left_out": "sm_80 has no float8_e4m3fn matrix unit"}
    row = {
        "kernel": case.kernel, "case": case.name, "bytes": 1, "flops": 1, "bound": "memory",
        "rate": "fp8", "size": case.size, "parity": {"ok": False} | part,
    }  # fmt: skip
    assert kernel_bench.document.failed(row) == ""
    document = {"roofs": {}, "rows": [row]}
    found = kernel_bench.verdict.verdicts(document, kernel_bench.targets.read_targets())[0]
    assert found.state == "not judged"
    assert found.judgements[0].reason == part["left_out"]
    assert kernel_bench.phases.without_time(document, [case], True) == []


def test_a_step_that_hangs_is_a_row_with_an_error_and_is_not_tried_again(
    kernel_bench, calling
) -> None:
    wanted = _cases(kernel_bench, "swiglu")[:1]
    late = kernel_bench.supervisor.Answer({}, "late", "parity", "over its time of 60 s")
    call = calling(lambda _: late)
    assert kernel_bench.phases.fill_parity(call, wanted) == ""
    row = call.document["rows"][0]
    assert row["parity"] == {"ok": False, "error": "over its time of 60 s"}
    assert kernel_bench.phases.without_parity(call.document, wanted) == []
    assert kernel_bench.document.forget_failures(call.document) == 1
    assert kernel_bench.phases.without_parity(call.document, wanted) == wanted


def test_a_peer_that_hangs_costs_itself_and_the_others_are_asked_for(kernel_bench, calling) -> None:
    case = _cases(kernel_bench, "swiglu")[0]
    answers = [
        kernel_bench.supervisor.Answer({"parity": GOOD}, "done"),
        kernel_bench.supervisor.Answer(
            {"inputs": {"cold_l2": True}, "ours": OURS}, "late", "peer torch.compile", "over"
        ),
        kernel_bench.supervisor.Answer({"peer torch": {"median_s": 2e-3}}, "done"),
    ]
    call = calling(lambda _: answers.pop(0))
    kernel_bench.phases.fill_parity(call, [case])
    assert kernel_bench.phases.fill_times(call, [case]) == ""
    assert call.worker.asked[-1]["have"] == ["peer torch.compile", "ours"]
    row = call.document["rows"][0]
    assert row["time"]["complete"]
    assert row["time"]["peers"]["torch.compile"] == {"error": "over"}
    assert (row["best_peer"], row["time_of_best_peer"]) == ("torch", 0.5)
    assert kernel_bench.document.forget_failures(call.document) == 1
    assert "torch.compile" not in row["time"]["peers"]
    assert kernel_bench.phases.without_time(call.document, [case], True) == [case]


@pytest.mark.parametrize("ended", ["late", "died"])
def test_a_kernel_that_hangs_or_crashes_while_timed_has_no_peers_timed(
    ended, kernel_bench, calling
) -> None:
    case = _cases(kernel_bench, "swiglu")[0]
    answers = [
        kernel_bench.supervisor.Answer({"parity": GOOD}, "done"),
        kernel_bench.supervisor.Answer({"inputs": {"cold_l2": True}}, ended, "ours", "gone"),
    ]
    call = calling(lambda _: answers.pop(0))
    kernel_bench.phases.fill_parity(call, [case])
    assert kernel_bench.phases.fill_times(call, [case]) == ""
    row = call.document["rows"][0]
    assert kernel_bench.document.failed(row) == "gone"
    assert kernel_bench.phases.without_time(call.document, [case], True) == []


def test_the_end_of_the_time_keeps_what_was_measured_and_names_the_case(
    kernel_bench, calling
) -> None:
    case = _cases(kernel_bench, "swiglu")[0]
    answers = [
        kernel_bench.supervisor.Answer({"parity": GOOD}, "done"),
        kernel_bench.supervisor.Answer(
            {"inputs": {"cold_l2": True}, "ours": OURS}, "budget", "peer torch", "over"
        ),
        kernel_bench.supervisor.Answer({"peer torch": {"median_s": 2e-3}}, "done"),
    ]
    call = calling(lambda _: answers.pop(0))
    kernel_bench.phases.fill_parity(call, [case])
    assert kernel_bench.phases.fill_times(call, [case]) == f"swiglu {case.name} (peer torch)"
    row = call.document["rows"][0]
    assert row["time"]["ours"] == OURS
    assert "torch" not in row["time"]["peers"]
    assert kernel_bench.phases.without_time(call.document, [case], True) == [case]
    assert kernel_bench.phases.fill_times(call, [case]) == ""
    assert call.worker.asked[-1]["have"] == ["ours"]
    past = dataclasses.replace(call, until_s=time.monotonic())
    assert kernel_bench.phases.fill_parity(past, _cases(kernel_bench, "sample")).startswith(
        "parity of sample"
    )


def test_left_out_compilation_is_asked_for_later(kernel_bench, calling) -> None:
    case = _cases(kernel_bench, "swiglu")[0]
    done = kernel_bench.supervisor.Answer({"parity": GOOD, "ours": OURS}, "done")
    call = calling(lambda _: done, compiled=False)
    kernel_bench.phases.fill_parity(call, [case])
    kernel_bench.phases.fill_times(call, [case])
    assert kernel_bench.phases.without_time(call.document, [case], False) == []
    assert kernel_bench.phases.without_time(call.document, [case], True) == [case]


def test_roofs_belong_to_a_card_and_a_missing_one_has_its_reason(kernel_bench, calling) -> None:
    parts = {"copy": {"copy_bytes_per_s": 1e9}, "fp8": {"error": "RuntimeError: no fp8"}}
    call = calling(lambda _: kernel_bench.supervisor.Answer(parts, "done"))
    assert kernel_bench.phases.fill_roofs(call) == ""
    assert kernel_bench.phases.fill_roofs(call) == ""
    assert len(call.worker.asked) == 1
    expected = {"card": {"copy_bytes_per_s": 1e9, "fp8_error": "RuntimeError: no fp8"}}
    assert call.document["roofs"] == expected


def test_rows_keep_the_order_of_the_cases_whatever_was_measured_first(
    kernel_bench, tmp_path
) -> None:
    path = tmp_path / "runs" / "out.json"
    order = [("a", "1"), ("a", "2"), ("b", "1")]
    document = kernel_bench.document.opened(path, {"code": "1"})
    for kernel, case in (("b", "1"), ("a", "2"), ("a", "1")):
        document["rows"].append({"kernel": kernel, "case": case})
        kernel_bench.document.save(path, document, order)
    rows = json.loads(path.read_text())["rows"]
    assert [(r["kernel"], r["case"]) for r in rows] == order
    assert [p.name for p in path.parent.iterdir()] == ["out.json"]


def test_results_of_other_code_are_kept_beside(kernel_bench, tmp_path, capsys) -> None:
    path = tmp_path / "out.json"
    kernel_bench.document.save(path, kernel_bench.document.opened(path, {"code": "old"}), [])
    assert kernel_bench.document.opened(path, {"code": "new"})["rows"] == []
    assert kernel_bench.document.read(tmp_path / "out.old.json")["identity"] == {"code": "old"}
    assert "kept as" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": []}'])
def test_a_broken_file_is_named_and_left_alone(text, kernel_bench, tmp_path) -> None:
    path = tmp_path / "out.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=r"out\.json"):
        kernel_bench.document.opened(path, {"code": "1"})
    assert path.read_text() == text


@pytest.mark.long
def test_both_phases_in_a_real_process_and_a_second_call_measures_nothing(
    kernel_bench, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    out = tmp_path / "out.json"
    options = argparse.Namespace(out=out, step_s=120.0, retry=False, show=None, format="json")
    order = kernel_bench.cases.cases(small=True)
    wanted = [c for c in order if c.kernel in ("swiglu", "sample") and "rows=1" in c.name]
    until = time.monotonic() + 1e6
    chosen = kernel_bench.selection.Selection(*SMALL, order, kernel_bench.targets.read_targets())
    document, cut = kernel_bench.command.fill(options, chosen, wanted, until)
    assert cut == ""
    rows = kernel_bench.document.read(out)["rows"]
    assert [(r["kernel"], r["case"]) for r in rows] == [(c.kernel, c.name) for c in wanted]
    for row in rows:
        assert row["parity"]["ok"], row
        assert row["time"]["complete"]
        assert row["time"]["ours"]["samples_s"] == pytest.approx([1e-3] * 20)
    swiglu = next(r for r in rows if r["kernel"] == "swiglu")
    assert swiglu["best_peer"] == "torch"
    states = {t["name"]: t["state"] for t in swiglu["targets"]}
    assert states == {"fused small op in a graph": "missed", "beside the best peer": "met"}
    assert set(document["roofs"][""]) >= {"copy_bytes_per_s", "bf16_flops", "fp8_flops"}

    before = out.read_text()
    monkeypatch.setattr(kernel_bench.phases, "row_of", lambda *_: pytest.fail("measured again"))
    assert kernel_bench.command.fill(options, chosen, wanted, until)[1] == ""
    assert json.loads(out.read_text())["rows"] == json.loads(before)["rows"]
    capsys.readouterr()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_without_a_gpu_both_commands_say_so_and_exit_3(kernel_bench, capsys) -> None:
    assert kernel_bench.command.main([]) == 3
    assert "no CUDA device here" in capsys.readouterr().err
    assert kernel_bench.tune.main([]) == 3
    assert "no CUDA device here" in capsys.readouterr().err
    assert kernel_bench.command.main(["--kernels", "norm"]) == 2
    assert "rmsnorm" in capsys.readouterr().err


def test_an_interrupt_is_130_and_leaves_the_file(
    kernel_bench, tmp_path, monkeypatch, capsys
) -> None:
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(kernel_bench.command, "_measure", interrupted)
    assert kernel_bench.command.main(["-o", str(tmp_path / "out.json")]) == 130
    assert "interrupted" in capsys.readouterr().err
