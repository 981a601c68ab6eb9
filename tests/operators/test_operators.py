"""Operators on any backend: the reference, both runners, what is counted, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chipmark.errors import UnknownNameError, UsageError
from chipmark.kernel_bench.command import main
from chipmark.kernel_bench.figures import derive
from chipmark.kernel_bench.operators.bench import MOST_COPIES, OperatorBench, copies
from chipmark.kernel_bench.operators.case import Operator, operator_cases
from chipmark.kernel_bench.operators.reference import (
    Expected,
    errors,
    expected,
    make_inputs,
    rotate,
    rounded,
)
from chipmark.kernel_bench.operators.runner import Prepared
from chipmark.workload.kernel_shapes import KernelShape
from chipmark_models.config import ModelConfig
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import ComputedWeights
from chipmark_models.weights.synthetic import SyntheticWeights

SHAPES = [
    KernelShape("append_prefill", 1, 5, 7),
    KernelShape("decode", 1, 1, 7),
    KernelShape("decode", 3, 1, 6),
]
TINY = preset("tiny")
ODD = replace(
    TINY, name="odd", family="ernie4_5", rope_interleaved=True, qk_norm=True, qkv_bias=True,
    attn_out_bias=True, mlp_bias=True, tied_embeddings=False,
)  # fmt: skip


def weights_of(config: ModelConfig, precision: str) -> ComputedWeights:
    return ComputedWeights(SyntheticWeights(replace(config, n_layers=2), 3), precision)


def runner_of(backend: str, config: ModelConfig, precision: str, folder: Path):
    kind, _, device = backend.partition(":")
    options = {} if kind == "torch" else {"graph": device.partition("/")[2] or "contrib"}
    weights = weights_of(config, precision)
    if kind == "torch":
        from chipmark.kernel_bench.operators.torch_runner import TorchRunner

        return TorchRunner(device, weights, options), weights
    pytest.importorskip("onnxruntime")
    from chipmark.kernel_bench.operators.ort_runner import OrtRunner

    return OrtRunner(device.partition("/")[0], weights, options, folder), weights


@pytest.mark.parametrize("config", [TINY, ODD], ids=lambda c: c.name)
@pytest.mark.parametrize("backend", ["torch:cpu", "ort:cpu/plain", "ort:cpu/contrib"])
def test_every_operator_is_the_references(backend, config, tmp_path) -> None:
    runner, weights = runner_of(backend, config, "fp32", tmp_path)
    for case in operator_cases(config, SHAPES, "fp32"):
        given = make_inputs(case, 1)
        prepared = runner.prepare(case, [given, make_inputs(case, 2)])
        found = errors(prepared.result(), expected(case, given, weights, 0), "fp32")
        assert found["ok"], (case.kernel, case.name, found)
        assert not prepared.problem


def test_sixteen_bits_are_judged_on_what_they_hold(tmp_path) -> None:
    runner, weights = runner_of("torch:cpu", TINY, "bf16", tmp_path)
    for case in operator_cases(TINY, SHAPES[:1], "bf16"):
        given = make_inputs(case, 1)
        found = errors(
            runner.prepare(case, [given]).result(), expected(case, given, weights, 0), "bf16"
        )
        assert found["ok"], (case.kernel, found)


@pytest.mark.parametrize("operator", [o for o in Operator if o is not Operator.GREEDY])
def test_a_wrong_result_fails(operator) -> None:
    case = next(c for c in operator_cases(TINY, SHAPES[1:], "fp32") if c.operator is operator)
    given = make_inputs(case, 1)
    right = expected(case, given, weights_of(TINY, "fp32"), 0)
    values = right.values.copy()
    assert errors(values, right, "fp32")["ok"]
    values[0, -1] += 0.1
    assert not errors(values, right, "fp32")["ok"]
    assert errors(values[:0], right, "fp32")["problems"] == [f"shape {values[:0].shape}"]
    values[0, 0] = np.nan
    assert errors(values, right, "fp32")["problems"] == ["not finite"]


def test_a_product_in_half_precision_is_no_fp32() -> None:
    case = next(c for c in operator_cases(TINY, SHAPES, "fp32") if c.operator is Operator.DOWN)
    given, weights = make_inputs(case, 1), weights_of(TINY, "fp32")
    right = expected(case, given, weights, 0)
    narrow = dict(given) | {"x": rounded(given["x"], "fp16")}
    assert not errors(expected(case, narrow, weights, 0).values, right, "fp32")["ok"]


def test_ids_must_be_equal() -> None:
    right = Expected(np.array([3, 1]), np.arange(2))
    assert errors(np.array([3, 1]), right, "fp32")["ok"]
    assert errors(np.array([3, 2]), right, "fp32")["problems"] == ["1 wrong of 2"]


def test_rotation_keeps_lengths_and_turns_by_the_position() -> None:
    for config in (TINY, ODD):
        x = np.random.default_rng(0).standard_normal((1, 2, 1, config.head_dim))
        turned = rotate(x, config, 0)
        assert np.array_equal(turned[:, 0], x[:, 0])
        assert np.allclose(np.linalg.norm(turned), np.linalg.norm(x))
        partner = 1 if config.rope_interleaved else config.head_dim // 2
        angle = x[0, 1, 0, 0] * np.cos(1) - x[0, 1, 0, partner] * np.sin(1)
        assert turned[0, 1, 0, 0] == pytest.approx(angle, rel=1e-6)


def test_work_is_what_must_move() -> None:
    cases = {(c.kernel, c.rows): c for c in operator_cases(TINY, SHAPES, "bf16")}
    # 160 = 96 + 2 x 32 columns of 64: weights once, rows in and out, two bytes each.
    assert (cases["qkv", 3].bytes, cases["qkv", 3].flops) == (
        2 * (160 * 64 + 3 * (160 + 64)),
        2 * 3 * 160 * 64,
    )
    # Six cached rows a sequence, one new one read and written, queries in and heads out.
    assert cases["attention", 3].bytes == 2 * (3 * (6 + 2) * 64 + 2 * 3 * 96)
    assert cases["attention", 3].flops == 4 * 96 * 3 * 7
    assert cases["attention", 5].flops == 4 * 96 * (8 + 9 + 10 + 11 + 12)
    assert ("head", 5) not in cases


def test_the_roof_is_the_one_that_takes_longer() -> None:
    roofs = {"read_bytes_per_s": 10.0, "fp32_flops": 100.0}
    time = {"ours": {"median_s": 1.0}, "cold_l2": True}
    row = {"bound": "roofline", "rate": "fp32", "bytes": 5, "flops": 20, "time": time}
    derive(row, roofs)
    assert (row["roof"], row["fraction_of_roof"]) == ("read_bytes_per_s", 0.5)
    derive(row | (wide := {"flops": 80}), roofs)
    heavy = row | wide
    derive(heavy, roofs)
    assert (heavy["roof"], heavy["fraction_of_roof"]) == ("fp32_flops", 0.8)
    cached = row | {"time": time | {"cold_l2": False}}
    derive(cached, roofs)
    assert cached["fraction_of_roof"] is None
    derive(row, {"read_bytes_per_s": 10.0})
    assert row["fraction_of_roof"] is None


def test_inputs_turn_the_cache_over_within_bounds() -> None:
    assert copies(1000, 2000) == 10
    assert copies(10**6, 2000) == 2
    assert copies(1, 10**9) == MOST_COPIES
    assert copies(1 << 29, 1 << 40) == 2


def bench(**changes) -> OperatorBench:
    settings = {
        "backend": "torch:cpu", "model": "tiny", "workload": "agent-code-32k",
        "scale": "1/512,1,0", "precision": "fp32", "options": {}, "scratch": ".",
    }  # fmt: skip
    return OperatorBench(**settings | changes)


def test_what_the_provider_leaves_to_the_cpu_fails() -> None:
    made = bench()
    case = next(iter(made._cases.values()))

    class Elsewhere:
        def __init__(self, inner) -> None:
            self._inner = inner

        def prepare(self, case, inputs) -> Prepared:
            return replace(self._inner.prepare(case, inputs), problem="EP does not take it: Gather")

    made._runner = Elsewhere(made._runner)
    found = {
        n: make() for n, make in made.steps({"do": "measure", "case": (case.kernel, case.name)})
    }
    row = found.pop("parity")
    assert not found, "a wrong operator is not timed"
    assert not row["ok"]
    assert row["results"][0]["problems"] == ["EP does not take it: Gather"]


def test_options_and_precisions_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="nosuch"):
        bench(backend="torch:nosuch")
    pytest.importorskip("onnxruntime")
    with pytest.raises(UsageError, match="bf16"):
        bench(backend="ort:cpu", precision="bf16")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-b", "sim:golden"], "ort:golden"),
        (["-b", "ort:cpu", "-m", "tinny"], "tiny"),
        (["-b", "ort:cpu", "--precision", "fp31"], "fp32"),
        (["-b", "ort:cpu", "--kernels", "atention"], "attention"),
        (["-b", "ort:cpu", "--option", "graph"], "KEY=VALUE"),
    ],
)
def test_wrong_usage_names_what_is_near(words, said, capsys) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_the_command_measures_resumes_and_shows(tmp_path, capsys) -> None:
    out = tmp_path / "operators.json"
    words = ["-b", "torch:cpu", "-m", "tiny", "--scale", "1/512,1,0", "-o", str(out)]
    assert main([*words, "--kernels", "swiglu"]) == 0
    first = json.loads(out.read_text())
    assert {row["kernel"] for row in first["rows"]} == {"swiglu"}
    assert all(row["time"]["ours"]["median_s"] > 0 for row in first["rows"])
    assert first["roofs"][""]["read_bytes_per_s"] > 0
    capsys.readouterr()
    assert main([*words, "--kernels", "swiglu,embed", "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    again = json.loads(out.read_text())
    kept = [row for row in again["rows"] if row["kernel"] == "swiglu"]
    assert [row["time"] for row in kept] == [row["time"] for row in first["rows"]]
    assert {verdict["kernel"] for verdict in shown["verdicts"]} == {"swiglu", "embed"}
    assert main(["--show", str(out)]) == 0
    text = capsys.readouterr().out
    assert "torch:cpu on" in text
    assert "0 failed" in text
