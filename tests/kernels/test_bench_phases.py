"""`chipmark kernels run` end to end on a CPU: case by case, one whole file, resumed."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time

import pytest
import torch

from chipmark.errors import BadInputError
from chipmark.kernel_bench.selection import Peers
from chipmark_kernels.device import TARGETS

SMALL = ("fake_bench:small_bench", {})


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
        order = [(c.kernel, c.name) for c in kernel_bench.cases.cases(small=True)]
        codes = kernel_bench.document.Codes(dict.fromkeys(order, "1"), "1")
        document = document or kernel_bench.document.opened(path, {"device": "a"}, codes)
        return kernel_bench.phases.Call(
            Scripted(answer), document, lambda: kernel_bench.document.save(path, document, order),
            Silent(), lambda *_: [], "card", 60.0, time.monotonic() + 1e6, codes, **options,
        )  # fmt: skip

    return make


def _cases(kernel_bench, kernel):
    return [c for c in kernel_bench.cases.cases(small=True) if c.kernel == kernel]


EAGER = Peers.EAGER
GOOD = {"ok": True, "results": []}
OURS = {"median_s": 1e-3, "from_s": 0.0, "to_s": 1.0}


def test_each_case_is_checked_and_timed_at_once_and_what_fails_is_not_timed(
    kernel_bench, calling
) -> None:
    wanted = _cases(kernel_bench, "swiglu")

    def answer(request):
        if request["case"] == (wanted[1].kernel, wanted[1].name):
            bad = {"ok": False, "results": [{"problems": ["(a) far"]}]}
            return kernel_bench.supervisor.Answer({"parity": bad}, "done")
        parts = {"parity": GOOD, "inputs": {"cold_l2": True}, "ours": OURS}
        return kernel_bench.supervisor.Answer(parts, "done")

    call = calling(answer)
    assert kernel_bench.phases.fill(call, wanted, EAGER) == ""
    assert [(r["do"], r["case"][1]) for r in call.worker.asked] == [
        ("measure", c.name) for c in wanted
    ]
    assert f"swiglu {wanted[1].name} parity: (a) far" in " ".join(call.reporter.said[1].split())
    assert [row["parity"]["ok"] for row in call.document["rows"]] == [True, False, True]
    assert ["time" in row for row in call.document["rows"]] == [True, False, True]
    assert kernel_bench.phases.open_cases(call.document, wanted, EAGER) == []


def _steps(kernel_bench, case, have=(), peers="eager"):
    """What the bench of small cases does for a request, by step."""
    bench = kernel_bench.fake.small_bench()
    request = {
        "do": "measure", "case": (case.kernel, case.name), "have": list(have), "peers": peers,
    }  # fmt: skip
    return {name: work() for name, work in bench.steps(request)}


def test_inputs_and_oracle_of_a_case_are_made_once(kernel_bench, monkeypatch) -> None:
    made = []
    case = _cases(kernel_bench, "swiglu")[0]

    def counting(rng, device, dtype):
        made.append("inputs")
        return case.make(rng, device, dtype)

    def oracle(*inputs):
        made.append("oracle")
        return case.reference(*inputs)

    counted = dataclasses.replace(case, make=counting, oracle=oracle)
    monkeypatch.setattr(kernel_bench.cases, "cases", lambda small: [counted])
    assert list(_steps(kernel_bench, case)) == ["parity", "inputs", "ours", "peer torch"]
    assert made == ["inputs", "oracle"]
    made.clear()
    found = _steps(kernel_bench, case, ["parity", "ours"])
    assert list(found) == ["inputs", "oracle", "peer torch"]
    assert made == ["inputs", "oracle"]
    made.clear()
    assert _steps(kernel_bench, case, ["parity", "ours", "peer torch"]) == {}
    assert _steps(kernel_bench, case, ["parity", "ours"], "none") == {}
    assert made == []


def test_a_kernel_that_fails_parity_is_not_timed(kernel_bench, monkeypatch) -> None:
    case = _cases(kernel_bench, "swiglu")[0]
    wrong = dataclasses.replace(case, ours=lambda x: 1.1 * case.reference(x))
    monkeypatch.setattr(kernel_bench.cases, "cases", lambda small: [wrong])
    found = _steps(kernel_bench, case)
    assert list(found) == ["parity"]
    assert not found["parity"]["ok"]


def test_what_the_device_has_no_unit_for_is_left_out_and_no_failure(
    kernel_bench, monkeypatch
) -> None:
    monkeypatch.setattr(kernel_bench.bench, "facts_of", lambda _: TARGETS["sm_80"])
    case = _cases(kernel_bench, "fp8_gemm")[0]
    cpu = torch.device("cpu")
    bench = kernel_bench.bench.KernelBench(
        [case], cpu, kernel_bench.fake.FakeDevice(), torch.float16
    )
    request = {"do": "measure", "case": (case.kernel, case.name), "peers": "eager"}
    ((_, work),) = bench.steps(request)
    part = work()
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
    assert kernel_bench.phases.open_cases(document, [case], EAGER) == []


def test_a_step_that_hangs_is_a_row_with_an_error_and_is_not_tried_again(
    kernel_bench, calling
) -> None:
    wanted = _cases(kernel_bench, "swiglu")[:1]
    late = kernel_bench.supervisor.Answer({}, "late", "parity", "over its time of 60 s")
    call = calling(lambda _: late)
    assert kernel_bench.phases.fill(call, wanted, EAGER) == ""
    row = call.document["rows"][0]
    assert row["parity"] == {"ok": False, "error": "over its time of 60 s"}
    assert kernel_bench.phases.open_cases(call.document, wanted, EAGER) == []
    assert kernel_bench.document.forget_failures(call.document) == 1
    assert kernel_bench.phases.open_cases(call.document, wanted, EAGER) == wanted


def test_a_peer_that_hangs_costs_itself_and_the_others_are_asked_for(kernel_bench, calling) -> None:
    case = _cases(kernel_bench, "swiglu")[0]
    answers = [
        kernel_bench.supervisor.Answer(
            {"parity": GOOD, "inputs": {"cold_l2": True}, "ours": OURS},
            "late",
            "peer torch.compile",
            "over",
        ),
        kernel_bench.supervisor.Answer({"peer torch": {"median_s": 2e-3}}, "done"),
    ]
    call = calling(lambda _: answers.pop(0))
    assert kernel_bench.phases.fill(call, [case], EAGER) == ""
    assert call.worker.asked[-1]["have"] == ["parity", "ours", "peer torch.compile"]
    row = call.document["rows"][0]
    assert row["time"]["done"] == "eager"
    assert row["time"]["peers"]["torch.compile"] == {"error": "over"}
    assert (row["best_peer"], row["time_of_best_peer"]) == ("torch", 0.5)
    assert kernel_bench.document.forget_failures(call.document) == 1
    assert "torch.compile" not in row["time"]["peers"]
    assert kernel_bench.phases.open_cases(call.document, [case], EAGER) == [case]


@pytest.mark.parametrize("ended", ["late", "died"])
def test_a_kernel_that_hangs_or_crashes_while_timed_has_no_peers_timed(
    ended, kernel_bench, calling
) -> None:
    case = _cases(kernel_bench, "swiglu")[0]
    answers = [
        kernel_bench.supervisor.Answer(
            {"parity": GOOD, "inputs": {"cold_l2": True}}, ended, "ours", "gone"
        ),
    ]
    call = calling(lambda _: answers.pop(0))
    assert kernel_bench.phases.fill(call, [case], EAGER) == ""
    row = call.document["rows"][0]
    assert kernel_bench.document.failed(row) == "gone"
    assert kernel_bench.phases.open_cases(call.document, [case], EAGER) == []


def test_the_end_of_the_time_keeps_what_was_measured_and_names_the_case(
    kernel_bench, calling
) -> None:
    case = _cases(kernel_bench, "swiglu")[0]
    answers = [
        kernel_bench.supervisor.Answer(
            {"parity": GOOD, "inputs": {"cold_l2": True}, "ours": OURS},
            "budget",
            "peer torch",
            "over",
        ),
        kernel_bench.supervisor.Answer({"peer torch": {"median_s": 2e-3}}, "done"),
    ]
    call = calling(lambda _: answers.pop(0))
    assert kernel_bench.phases.fill(call, [case], EAGER) == f"swiglu {case.name} (peer torch)"
    row = call.document["rows"][0]
    assert row["time"]["ours"] == OURS
    assert "torch" not in row["time"]["peers"]
    assert kernel_bench.phases.open_cases(call.document, [case], EAGER) == [case]
    assert kernel_bench.phases.fill(call, [case], EAGER) == ""
    assert call.worker.asked[-1]["have"] == ["parity", "ours"]
    past = dataclasses.replace(call, until_s=time.monotonic())
    assert kernel_bench.phases.fill(past, _cases(kernel_bench, "sample"), EAGER).startswith(
        "sample"
    )
    assert len(call.document["rows"]) == 1


def test_a_case_cut_before_its_first_figure_has_no_row(kernel_bench, calling) -> None:
    case = _cases(kernel_bench, "swiglu")[0]
    call = calling(lambda _: kernel_bench.supervisor.Answer({}, "budget", "parity", "over"))
    assert kernel_bench.phases.fill(call, [case], EAGER) == f"swiglu {case.name} (parity)"
    assert call.document["rows"] == []


def test_a_device_lost_behind_a_good_time_fails_the_row(kernel_bench, calling) -> None:
    case = _cases(kernel_bench, "swiglu")[0]
    lost = kernel_bench.supervisor.Answer(
        {"parity": GOOD, "ours": OURS}, "lost", "ours", "no answer"
    )
    call = calling(lambda _: lost)
    kernel_bench.phases.fill(call, [case], EAGER)
    assert kernel_bench.document.failed(call.document["rows"][0]) == "no answer"


def test_peers_are_asked_for_by_and_by_and_compilation_last(kernel_bench, calling) -> None:
    swiglu = _cases(kernel_bench, "swiglu")[0]
    attention = _cases(kernel_bench, "decode_attention")[0]
    wanted = [swiglu, attention]
    open_cases = kernel_bench.phases.open_cases
    call = calling(lambda _: kernel_bench.supervisor.Answer({"parity": GOOD, "ours": OURS}, "done"))
    kernel_bench.phases.fill(call, wanted, Peers.NONE)
    assert open_cases(call.document, wanted, Peers.NONE) == []
    assert open_cases(call.document, wanted, Peers.EAGER) == wanted
    document = call.document | {"roofs": {}}
    (found, _) = kernel_bench.verdict.verdicts(document, kernel_bench.targets.read_targets())
    assert "not timed next to its peers yet" in found.remarks
    assert found.judgements[-1].reason == "not timed next to its peers yet"
    kernel_bench.phases.fill(call, wanted, Peers.EAGER)
    assert open_cases(call.document, wanted, Peers.EAGER) == []
    # torch.compile is no peer of decode attention here.
    assert open_cases(call.document, wanted, Peers.ALL) == [swiglu]
    kernel_bench.phases.fill(call, wanted, Peers.ALL)
    assert [r["peers"] for r in call.worker.asked] == ["none", "none", "eager", "eager", "all"]
    assert open_cases(call.document, wanted, Peers.ALL) == []


def test_roofs_belong_to_a_card_and_a_missing_one_has_its_reason(kernel_bench, calling) -> None:
    parts = {"copy": {"copy_bytes_per_s": 1e9}, "fp8": {"error": "RuntimeError: no fp8"}}
    call = calling(lambda _: kernel_bench.supervisor.Answer(parts, "done"))
    assert kernel_bench.phases.fill_roofs(call) == ""
    assert kernel_bench.phases.fill_roofs(call) == ""
    assert len(call.worker.asked) == 1
    expected = {"card": {"code": "1", "copy_bytes_per_s": 1e9, "fp8_error": "RuntimeError: no fp8"}}
    assert call.document["roofs"] == expected


def test_rows_keep_the_order_of_the_cases_whatever_was_measured_first(
    kernel_bench, tmp_path
) -> None:
    path = tmp_path / "runs" / "out.json"
    order = [("a", "1"), ("a", "2"), ("b", "1")]
    document = kernel_bench.document.opened(path, {}, kernel_bench.document.Codes({}, ""))
    for kernel, case in (("b", "1"), ("a", "2"), ("a", "1")):
        document["rows"].append({"kernel": kernel, "case": case})
        kernel_bench.document.save(path, document, order)
    rows = json.loads(path.read_text())["rows"]
    assert [(r["kernel"], r["case"]) for r in rows] == order
    assert [p.name for p in path.parent.iterdir()] == ["out.json"]


def _saved(kernel_bench, path, identity, codes, roofs="r"):
    """A file with a row for each of `codes`, by kernel."""
    rows = [{"kernel": k, "case": "1", "code": code} for k, code in codes.items()]
    document = {"format": 3, "identity": identity, "rows": rows,
                "roofs": {"card": {"code": roofs, "copy_bytes_per_s": 1.0}}}  # fmt: skip
    kernel_bench.document.save(path, document, [])


def test_an_edit_of_one_kernel_leaves_the_rows_of_the_others(
    kernel_bench, tmp_path, capsys
) -> None:
    path = tmp_path / "out.json"
    _saved(kernel_bench, path, {"device": "a"}, {"x": "old", "y": "same", "gone": "old"})
    codes = kernel_bench.document.Codes({("x", "1"): "new", ("y", "1"): "same"}, "r")
    found = kernel_bench.document.opened(path, {"device": "a"}, codes)
    assert [row["kernel"] for row in found["rows"]] == ["y", "gone"]
    assert "card" in found["roofs"]
    assert "1 rows of" in (told := capsys.readouterr().err)
    (aside,) = tmp_path.iterdir()
    assert str(aside) in told
    assert len(kernel_bench.document.read(aside)["rows"]) == 3
    _saved(kernel_bench, path, {"device": "a"}, {"y": "same"}, roofs="old")
    assert kernel_bench.document.opened(path, {"device": "a"}, codes)["roofs"] == {}


def test_results_of_another_device_are_kept_beside(kernel_bench, tmp_path, capsys) -> None:
    path, codes = tmp_path / "out.json", kernel_bench.document.Codes({}, "r")
    _saved(kernel_bench, path, {"device": "old"}, {"x": "1"})
    assert kernel_bench.document.opened(path, {"device": "new"}, codes)["rows"] == []
    (aside,) = tmp_path.iterdir()
    assert kernel_bench.document.read(aside)["identity"] == {"device": "old"}
    assert "kept as" in capsys.readouterr().err


def test_an_earlier_file_gives_what_this_one_lacks(kernel_bench, tmp_path, capsys) -> None:
    earlier, codes = tmp_path / "carried.json", kernel_bench.document.Codes({("x", "1"): "1"}, "r")
    _saved(kernel_bench, earlier, {"device": "a"}, {"x": "1", "y": "2"})
    before = earlier.read_bytes()
    opened = kernel_bench.document.opened
    document = opened(tmp_path / "out.json", {"device": "a"}, codes)
    assert kernel_bench.document.seed(document, earlier, codes) == 2
    assert kernel_bench.document.seed(document, earlier, codes) == 0
    assert [row["kernel"] for row in document["rows"]] == ["x", "y"]
    assert document["roofs"]["card"]["copy_bytes_per_s"] == 1.0
    other = opened(tmp_path / "out.json", {"device": "b"}, codes)
    assert kernel_bench.document.seed(other, earlier, codes) == 0
    assert other["rows"] == []
    assert "nothing of it is taken" in capsys.readouterr().err
    assert earlier.read_bytes() == before


def test_a_file_of_an_earlier_format_is_refused_with_the_way_out(kernel_bench, tmp_path) -> None:
    path = tmp_path / "out.json"
    path.write_text('{"format": 2, "identity": {"code": "1"}, "roofs": {}, "rows": []}')
    with pytest.raises(BadInputError, match="format 2, of which no row says") as caught:
        kernel_bench.document.read(path)
    assert "name another file (-o)" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": []}'])
def test_a_broken_file_is_named_and_left_alone(text, kernel_bench, tmp_path) -> None:
    path = tmp_path / "out.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=r"out\.json"):
        kernel_bench.document.opened(path, {}, kernel_bench.document.Codes({}, ""))
    assert path.read_text() == text


@pytest.mark.long
def test_rows_of_a_real_process_and_a_second_call_measures_nothing(
    kernel_bench, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    out = tmp_path / "out.json"
    options = argparse.Namespace(
        out=out, earlier=None, step_s=120.0, retry=False, show=None, format="json"
    )
    order = kernel_bench.cases.cases(small=True)
    wanted = [c for c in order if c.kernel in ("swiglu", "sample") and "rows=1" in c.name]
    until = time.monotonic() + 1e6
    chosen = kernel_bench.selection.Selection(
        *SMALL, order, kernel_bench.targets.read_targets(),
        functools.partial(kernel_bench.row_sources.codes_of, order),
    )  # fmt: skip
    document, cut = kernel_bench.command.fill(options, chosen, wanted, until)
    assert cut == ""
    rows = kernel_bench.document.read(out)["rows"]
    assert [(r["kernel"], r["case"]) for r in rows] == [(c.kernel, c.name) for c in wanted]
    for row in rows:
        assert row["parity"]["ok"], row
        assert row["time"]["done"] == "eager"
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
