"""The whole step as a bench, on a CPU: it computes what it should, and what does not is found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from chipmark.errors import UnknownNameError, UsageError
from chipmark.kernel_bench import step_bench, step_command, whole_step
from chipmark.kernel_bench import step_parity as parity
from chipmark.kernel_bench.stages.contract import Asked
from chipmark.kernel_bench.stages.step_steps import STEPS
from chipmark.kernel_bench.step_bench import StepRequest, counted, step_parts
from chipmark.kernel_bench.step_parity import oracle_parity, reference_of, step_parity
from chipmark.kernel_bench.whole_step import PLAIN, StepModel, WholeStep, step_model
from chipmark.kernel_bench.whole_step_peer import PEERS, peer_step
from chipmark_models.presets import PRESETS, preset

CPU = torch.device("cpu")
# Head norms, biases and an untied head, interleaved pairs.
ODD = replace(
    preset("tiny"), family="ernie4_5", rope_interleaved=True, qk_norm=True, qkv_bias=True,
    mlp_bias=True, attn_out_bias=True, tied_embeddings=False, n_layers=2,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    # Barriers of two threads cost a scheduler's slice each on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {**PRESETS, "odd": ODD, "one": replace(preset("tiny"), n_layers=1)}
    monkeypatch.setattr("chipmark_models.presets.PRESETS", more)


def model(precision: str = "fp32", name: str = "tiny", rows: int = 3, context: int = 40) -> Any:
    return step_model(name, CPU, rows=rows, context=context, precision=precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "w4"])
@pytest.mark.parametrize("name", ["tiny", "odd"])
@pytest.mark.usefixtures("presets")
def test_each_way_to_compute_a_step_holds_parity(precision: str, name: str) -> None:
    made = model(precision, name)
    for by in PLAIN:  # which overwrites pages
        assert oracle_parity(made, by)["ok"]
    reference = reference_of(made, 3, 40)
    assert reference.lengths.tolist() == [40, 20, 1]
    for by in PLAIN:
        assert step_parity(made, made.step(3, 40, by), reference)["ok"], by
    if precision != "w4":
        peer = peer_step(made, 3, 40, "gpt-fast-eager")
        assert step_parity(made, peer, reference)["ok"]


@pytest.mark.parametrize("design", ["portable", "joined"])
@pytest.mark.usefixtures("presets")
def test_designs_hold_parity_in_the_interpreter(design: str) -> None:
    made = model(name="one", rows=2, context=20)
    found = step_parity(made, made.step(2, 20, design), reference_of(made, 2, 20))
    assert found["ok"]
    assert found["rms_rel"] < 1e-5


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_compiled_peer_computes_the_same_step(precision: str) -> None:
    made = model(precision)
    found = step_parity(made, peer_step(made, 3, 40), reference_of(made, 3, 40))
    assert found["ok"], found


def test_steps_that_leave_a_row_out_or_sample_wrongly_are_found() -> None:
    made = model("bf16")
    reference = reference_of(made, 3, 40)
    right = made.step(3, 40, "torch")

    def forgetful() -> tuple[torch.Tensor, ...]:
        made.inputs(3, 40).batch(3).kv_lens.sub_(1).clamp_(min=1)
        return right.play()

    def blind() -> tuple[torch.Tensor, ...]:
        logits, ids = right.play()
        return logits, ids + 1

    def broken() -> tuple[torch.Tensor, ...]:
        logits, ids = right.play()
        return logits * math.nan, ids

    said = []
    for call in (forgetful, blind, broken):
        found = step_parity(made, replace(right, play=torch.inference_mode()(call)), reference)
        assert not found["ok"]
        json.dumps(found, allow_nan=False)
        said.append("; ".join(found["problems"]))
    assert "from the exact step's" in said[0]
    assert said[1] == "3 of 3 ids are not the largest logit's"
    assert "rms inf" in said[2]


def test_a_tolerance_is_never_made_of_a_torch_that_is_wrong_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parity, "distance", lambda exact, got: 0.9)
    assert reference_of(model("bf16"), 3, 40).tolerance == pytest.approx(1.5 * 0.13)


def test_lengths_are_set_back_and_steps_of_all_share_weights_and_pages() -> None:
    made = model()
    one, other = made.step(3, 40, "torch"), made.step(3, 40, "reference")
    step_parity(made, one, reference_of(made, 3, 40))
    assert made.inputs(3, 40).batch(3).kv_lens.tolist() == [40, 40, 40]
    assert made.by(parity.EXACT).kv is made.decoder.kv
    torch.testing.assert_close(one.play()[0], other.play()[0])
    with pytest.raises(UsageError, match="5 rows of 40 tokens need 15 pages, not 12"):
        made.set_lengths(5, 40, np.full(5, 40, np.int32))


def test_who_cannot_run_here_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    with pytest.raises(UnknownNameError, match="portable"):
        made.step(1, 8, "portabel")
    with pytest.raises(UnknownNameError, match="gpt-fast"):
        peer_step(made, 1, 8, "gpt-fats")
    with pytest.raises(UnknownNameError, match="gpt-fast"):
        StepRequest("tiny", names=("gpt-fats",))
    with pytest.raises(UnknownNameError, match="qwen3-8b"):
        StepRequest("qwen3-8")
    with pytest.raises(UsageError, match="plain weights only"):
        peer_step(model("w4"), 1, 8)
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(UsageError, match="the kernels need a card"):
        made.step(1, 8)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    design = replace(whole_step.DESIGNS["portable"], runs_on=lambda facts: False)
    monkeypatch.setattr(whole_step, "DESIGNS", {"new": design})
    with pytest.raises(UsageError, match="new does not run on sm_90"):
        made.step(1, 8, "new")


def _request(**more: Any) -> StepRequest:
    fields = {"model": "tiny", "rows": [1, 2], "contexts": [20], "names": ["torch", "reference"],
              "precisions": ["fp32"], "rounds": 3}  # fmt: skip
    return StepRequest.from_dict({**fields, **more})


def _done(parts: Iterator[Any]) -> dict[str, Any]:
    return {name: call() for name, call in parts}


def test_parts_are_a_point_each_and_those_at_hand_are_left_out() -> None:
    found = _done(step_parts(_request(prefill=[[20, 20], [4, 20]], chunk=8), CPU))
    assert list(found) == [
        "weights fp32", "oracle fp32 torch", "oracle fp32 reference",
        "decode fp32 rows=1 context=20", "decode fp32 rows=2 context=20",
        "prefill fp32 new=20 context=20", "prefill fp32 new=4 context=20", "verdicts",
    ]  # fmt: skip
    decode = found["decode fp32 rows=2 context=20"]
    assert set(decode["time"]) == {"torch", "reference"}
    assert all(len(t["samples_s"]) == 3 for t in decode["time"].values())
    assert set(decode["ratios"]) == {"torch/reference", "reference/torch"}
    assert decode["ours"] == []
    assert found["prefill fp32 new=4 context=20"]["parity"]["reference"]["ok"]
    json.dumps(found, allow_nan=False)
    have = frozenset(found) - {"prefill fp32 new=4 context=20"}
    assert list(_done(step_parts(_request(prefill=[[4, 20]]), CPU, have))) == [
        "prefill fp32 new=4 context=20"
    ]


def test_a_contestant_that_fails_costs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = StepModel.step

    def step(self: StepModel, rows: int, context: int, name: str = "portable") -> WholeStep:
        made = capture(self, rows, context, name)
        if name == "reference" and rows == 1:
            raise RuntimeError("out of resource: shared memory")
        if name == "reference":
            play = torch.inference_mode()(lambda: (made.play()[0] * 1.5, made.play()[1]))
            return replace(made, play=play)
        return made

    monkeypatch.setattr(StepModel, "step", step)
    found = _done(step_parts(_request(), CPU))
    one, two = (found[f"decode fp32 rows={n} context=20"]["time"] for n in (1, 2))
    assert one["reference"] == {"error": "RuntimeError: out of resource: shared memory"}
    assert "from the exact step's" in two["reference"]["error"]
    assert "median_s" in one["torch"]
    assert "median_s" in two["torch"]


def test_contestants_are_timed_in_turn() -> None:
    order: list[str] = []

    class Stream:
        now = 0.0

        def mark(self) -> float:
            return self.now

        def wait(self, mark: float) -> None: ...

        def seconds(self, first: float, last: float) -> float:
            return last - first

    stream = Stream()

    def step(name: str, seconds: float) -> Any:
        def play() -> tuple[()]:
            order.append(name)
            stream.now += seconds
            return ()

        return WholeStep(name, 1, 8, play, play, stream)  # type: ignore[arg-type]

    samples = step_bench.interleaved([step("a", 0.004), step("b", 0.02)], 4)
    assert samples["a"] == pytest.approx([0.004] * 4)
    assert samples["b"] == pytest.approx([0.02] * 4)
    # Two to count, then in each round a warm one and as many as fill the sample, order turned.
    assert "".join(order) == "aabb" + "aaa" + "bb" + "bb" + "aaa" + "aaa" + "bb" + "bb" + "aaa"


def test_launches_are_the_kernels_that_a_profiler_saw() -> None:
    def event(name: str, kind: str) -> Any:
        return SimpleNamespace(name=name, device_type=f"DeviceType.{kind}")

    seen = [event("gemm", "CUDA"), event("Memcpy HtoD", "CUDA"), event("cudaGraphLaunch", "CPU")]
    assert counted(seen) == {"kernels": 1, "copies": 1, "reason": ""}
    assert counted(seen[2:])["reason"]


def test_the_steps_of_the_stages_are_requests_that_can_be_made() -> None:
    assert len({step.key for step in STEPS}) == len(STEPS)
    for step in STEPS:
        assert len(step.about) <= 60, step.about
        assert step.estimate_s <= step.limit_s
        json.dumps(dict(step.parameters))
        StepRequest.from_dict(step.parameters)
        assert step.work == "chipmark.kernel_bench.stages.step_steps:whole_steps"
    first = [step.parameters["model"] for step in STEPS if step.stage == 1]
    assert first[0] == "qwen3-8b"
    beside = [s.parameters["model"] for s in STEPS if "gpt-fast" in s.parameters.get("names", ())]
    assert beside == ["qwen3-8b", "qwen3-0.6b"]


def test_the_work_of_a_stage_takes_parameters_and_what_is_at_hand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from chipmark.kernel_bench.stages import step_steps

    asked = Asked({"model": "tiny", "names": ["torch"]}, frozenset({"roofs"}), tmp_path, 1e9)
    seen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(step_bench, "step_parts", lambda *args: seen.append(args) or iter(()))
    assert list(step_steps.whole_steps(asked)) == []
    request, device, have = seen[0]
    assert (request.model, request.names, str(device)) == ("tiny", ("torch",), "cuda:0")
    assert have == {"roofs"}


def _command(tmp_path: Any, *more: str) -> list[str]:
    return ["--device", "cpu", "-m", "tiny", "--names", "torch,gpt-fast-eager", "--precision",
            "fp32", "--context", "20", "--rounds", "3", "-o", str(tmp_path / "s.json"),
            *more]  # fmt: skip


def test_the_command_saves_each_part_goes_on_and_shows(tmp_path: Any, capsys: Any) -> None:
    assert step_command.main(_command(tmp_path, "--budget-s", "0")) == 3
    assert "parts are left" in capsys.readouterr().err
    assert step_command.main(_command(tmp_path, "--format", "json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert {v["state"] for v in told["verdicts"]} == {"not measured"}
    before = (tmp_path / "s.json").read_text()
    assert step_command.main(_command(tmp_path)) == 0
    assert (tmp_path / "s.json").read_text() == before
    assert step_command.main(["--show", str(tmp_path / "s.json")]) == 0
    shown = capsys.readouterr().out
    assert "tiny fp32 decode rows=1 context=20" in shown
    assert "qwen3-8b at one session: at least 78% of nameplate bandwidth: not measured" in shown


def test_a_part_that_raises_fails_the_call_and_is_tried_again_on_request(
    tmp_path: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(step_bench, "oracle_parity", lambda *_: 1 / 0)
        assert step_command.main(_command(tmp_path)) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert step_command.main(_command(tmp_path)) == 1
    assert step_command.main(_command(tmp_path, "--retry")) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rows", "0"], "--rows: '0' is not a list"),
        (["--prefill", "9@8"], "--prefill: '9@8'"),
        (["--names", "portabel"], "portable"),
        (["-m", "qwen3-8"], "qwen3-8b"),
        (["--precision", "bf61"], "bf16"),
        (["--show", "nothing.json"], "nothing.json"),
    ],
)
def test_wrong_usage_is_a_line_and_2(tmp_path: Any, capsys: Any, more: Any, message: str) -> None:
    assert step_command.main(_command(tmp_path, *more)) == 2
    assert message in capsys.readouterr().err


def test_without_a_card_nothing_is_measured(capsys: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("a card is here")
    assert step_command.main([]) == 3
    assert "no CUDA device" in capsys.readouterr().err


def test_every_peer_has_options_or_is_eager() -> None:
    assert PEERS["gpt-fast-eager"] is None
    assert all(PEERS[name] for name in PEERS if name != "gpt-fast-eager")
