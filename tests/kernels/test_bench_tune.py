"""`chipmark kernels tune`, on a CPU: which tiles are tried, what a bad one costs, the table."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time

import pytest
import torch

from chipmark.errors import BadInputError
from chipmark_kernels import tuned
from chipmark_kernels.device import TARGETS
from chipmark_kernels.manifest import MODEL_SHAPES

H200 = dataclasses.replace(TARGETS["sm_90"], product="nvidia-h200")
IDENTITY = {"device": "NVIDIA H200", "facts": dataclasses.asdict(H200), "triton": "3.6.0"}
SHAPES = [s for s in MODEL_SHAPES if s.name in ("qwen3-8b", "qwen3-1.7b")]


class Silent:
    def say(self, text: str) -> None: ...

    def stage(self, text: str) -> None: ...

    def step(self) -> None: ...


class Scripted:
    """Each tile takes what `seconds` says; answers end where that raises, and keep what came."""

    def __init__(self, kernel_bench, seconds) -> None:
        self.answer, self.seconds, self.asked = kernel_bench.supervisor.Answer, seconds, []
        self.bench, self.tiling = kernel_bench.tile_bench, kernel_bench.tiling

    def ask(self, request, step_s, until_s):
        self.asked.append(request)
        parts = {}
        for fields in request["tiles"]:
            tile = self.bench.Tile(**fields)
            name = (self.bench.AGAIN if request["again"] else "") + self.tiling.name_of(tile)
            if name in request["have"]:
                continue
            found = self.seconds(tile, request["again"])
            if isinstance(found, str):
                return self.answer(parts, found, name, "gone")
            parts[name] = {"median_s": found}
        return self.answer(parts, "done")


@pytest.fixture
def tuning(kernel_bench, tmp_path):
    """Makes a call of scripted seconds over the first cases; and the table's path."""

    def make(seconds, n=1, out="tiles.json"):
        cases = kernel_bench.tiling.tunable_cases(SHAPES, [1], ["skinny_gemm"])[:n]
        worker = Scripted(kernel_bench, seconds)
        call, table = kernel_bench.tune.begun(
            worker, dict(IDENTITY), cases, [tmp_path / out, None], tmp_path, Silent(), 30.0,
            time.monotonic() + 1e6,
        )  # fmt: skip
        return call, table, cases

    return make


def test_what_is_tuned_is_what_a_step_of_the_models_calls(kernel_bench) -> None:
    cases = kernel_bench.tiling.tunable_cases(SHAPES, [1, 8], kernel_bench.tiling.KERNELS)
    keys = [(c.kernel, *sorted(kernel_bench.tiling.tiles.bucketed(c.tile_shape).items()))
            for c in cases]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert [c.tile_shape["rows"] for c in cases if c.kernel == "skinny_gemm"] == [1] * 10 + [8] * 10
    products = [c.tile_shape for c in cases if c.kernel == "skinny_gemm"]
    assert {"rows": 1, "n": 12_288, "k": 4_096, "glu": 1} in products
    assert {"rows": 1, "n": 151_936, "k": 4_096, "glu": 0} in products
    # The small model's, for the tensors: with a norm, with a residual, with both weights of SwiGLU.
    small = kernel_bench.gemm_cases.gemm_cases(kernel_bench.case.TINY, 1)
    flags = []
    for case in (c for c in small if c.kernel == "skinny_gemm"):
        _, norm, residual, _ = case.make(torch.Generator().manual_seed(1), torch.device("cpu"),
                                         torch.float16)  # fmt: skip
        flags.append((norm is not None, residual is not None, bool(case.tile_shape["glu"])))
    assert flags == [(True, False, False), (False, True, False), (True, False, True),
                     (False, True, False), (True, False, False)]  # fmt: skip


def test_tiles_are_the_rules_first_each_once_and_few_at_one_row(kernel_bench) -> None:
    cases = kernel_bench.tiling.tunable_cases(SHAPES, [1, 8], kernel_bench.tiling.KERNELS)
    for case in cases:
        tried = kernel_bench.tiling.candidates(case, H200)
        assert tried[0] == kernel_bench.tiling.rule_of(case, H200)
        assert len(set(tried)) == len(tried)
        if tried[0].m == 1:
            assert {tile.num_stages for tile in tried} == {1}, case.kernel
        if case.kernel == "skinny_gemm" and tried[0].m == 1:
            assert len(tried) <= 30
        elif case.kernel == "skinny_gemm":
            assert len({tile.num_stages for tile in tried}) > 1


def test_the_case_launches_the_tile_that_it_is_given(kernel_bench) -> None:
    case = next(
        iter(kernel_bench.attention_cases.attention_cases(kernel_bench.case.TINY, small=True))
    )
    tile = kernel_bench.tiling.rule_of(case, H200)
    call = case.tiled(tile)
    assert call.keywords == {"tile": tile}
    assert call.func is case.ours


def test_the_fastest_is_timed_again_and_the_kernels_read_it(
    kernel_bench, tuning, tmp_path, monkeypatch
) -> None:
    def seconds(tile, again):
        return 0.8 if (tile.n, tile.num_warps, tile.k) == (4, 2, 512) else 1.0

    call, table, cases = tuning(seconds)
    assert kernel_bench.tune.fill(call, cases) == ""
    (row,) = call.document["rows"]
    assert row["share_of_rule"] == pytest.approx(0.8)
    assert [len(r["tiles"]) for r in call.worker.asked] == [
        len(kernel_bench.tiling.candidates(cases[0], H200)), 2,
    ]  # fmt: skip
    monkeypatch.setattr(tuned, "TUNED_FOLDER", tmp_path)
    assert table == tmp_path / "nvidia-h200.json"
    tile = tuned.tuned_tile("nvidia-h200", "skinny_gemm", "bf16", row["shape"])
    assert (tile.n, tile.num_warps, tile.k) == (4, 2, 512)
    # The same call again measures nothing.
    again, _, _ = tuning(lambda *_: pytest.fail("measured again"))
    assert kernel_bench.tune.fill(again, cases) == ""


@pytest.mark.parametrize("second", [1.0, 0.99])
def test_noise_does_not_fill_the_table(kernel_bench, tuning, second) -> None:
    def seconds(tile, again):
        return (second if again else 0.5) if tile.n == 2 else 1.0

    call, table, cases = tuning(seconds)
    kernel_bench.tune.fill(call, cases)
    assert call.document["rows"][0]["share_of_rule"] == second
    assert json.loads(table.read_text())["entries"] == []


@pytest.mark.parametrize("ended", ["late", "died", "lost"])
def test_a_tile_that_takes_the_process_with_it_costs_itself(kernel_bench, tuning, ended) -> None:
    def seconds(tile, again):
        return ended if tile.n == 16 else 1.0 - 0.1 * (tile.n == 8)

    call, _, cases = tuning(seconds)
    assert kernel_bench.tune.fill(call, cases) == ""
    (row,) = call.document["rows"]
    bad = [t for name, t in row["trials"].items() if " n=16 " in name]
    assert bad
    assert bad == [{"error": "gone"}] * len(bad)
    assert row["tile"]["n"] == 8


def test_a_call_that_is_cut_keeps_its_trials_and_goes_on(kernel_bench, tuning) -> None:
    counter = itertools.count()
    call, table, cases = tuning(lambda *_: "budget" if next(counter) == 3 else 1.0, n=2)
    assert kernel_bench.tune.fill(call, cases).startswith(f"skinny_gemm {cases[0].name} (m=1")
    again, _, _ = tuning(lambda *_: 1.0, n=2)
    assert kernel_bench.tune.fill(again, cases) == ""
    assert len(again.worker.asked[0]["have"]) == 3
    assert json.loads(table.read_text())["entries"] == []


def test_a_rule_whose_own_tile_fails_is_an_error(kernel_bench, tuning) -> None:
    rule = {}

    def seconds(tile, again):
        first = not rule
        rule.setdefault("tile", tile)
        return "died" if first else 1.0

    call, _, cases = tuning(seconds)
    kernel_bench.tune.fill(call, cases)
    assert call.document["rows"][0]["error"] == "the rule's tile: gone"


def test_entries_of_other_shapes_stay_and_a_broken_table_is_not_written_over(
    kernel_bench, tmp_path
) -> None:
    write = kernel_bench.tile_document.write_table
    path, tile = tmp_path / "nvidia-h200.json", dataclasses.asdict(kernel_bench.tile_bench.Tile())
    row = {"kernel": "skinny_gemm", "tile": tile, "share_of_rule": 0.9}
    assert write(path, "sm_90", "3.6.0", [row | {"shape": {"rows": 1}}]) == 1
    assert write(path, "sm_90", "3.6.0", [row | {"shape": {"rows": 8}}]) == 2
    assert write(path, "sm_90", "3.6.0", [row | {"shape": {"rows": 8}, "share_of_rule": 1.0}]) == 1
    path.write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        write(path, "sm_90", "3.6.0", [])
    assert path.read_text() == "{"


def test_the_bench_checks_each_tile_and_makes_inputs_once(kernel_bench) -> None:
    made = []
    small = kernel_bench.gemm_cases.gemm_cases(kernel_bench.case.TINY, 1)
    case = next(c for c in small if c.kernel == "skinny_gemm")

    def counting(*args):
        made.append(1)
        return case.make(*args)

    wrong = kernel_bench.tile_bench.Tile(n=2)

    def tiled(tile):
        return (lambda *i: 2 * case.reference(*i)) if tile == wrong else case.reference

    counted = dataclasses.replace(case, make=counting, tiled=tiled)
    bench = kernel_bench.tile_bench.TileBench(
        [counted], torch.device("cpu"), kernel_bench.fake.FakeDevice(), torch.float16
    )
    right = kernel_bench.tile_bench.Tile(n=4)
    request = {"case": (case.kernel, case.name),
               "tiles": [dataclasses.asdict(t) for t in (right, wrong)]}  # fmt: skip
    found = {name: work() for name, work in bench.steps(request)}
    assert found[kernel_bench.tiling.name_of(right)]["median_s"] == pytest.approx(1e-3)
    assert "(a)" in found[kernel_bench.tiling.name_of(wrong)]["differs"]
    assert made == [1]
    have = [kernel_bench.tiling.name_of(t) for t in (right, wrong)]
    assert list(bench.steps(request | {"have": have})) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kernels", "skiny_gemm"], "skinny_gemm"),
        (["-m", "qwen3-9b"], "qwen3-8b"),
        (["--rows", "1,x"], "--rows"),
        (["--rows", "0"], "--rows"),
    ],
)
def test_wrong_usage_is_2(kernel_bench, words, said, capsys) -> None:
    assert kernel_bench.tune.main(words) == 2
    assert said in capsys.readouterr().err


def test_another_file_is_refused(kernel_bench, tmp_path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"format": 3, "rows": []}')
    with pytest.raises(BadInputError, match="kernels tune"):
        kernel_bench.tile_document.opened([path], {}, {})
