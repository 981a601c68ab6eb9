"""What `scripts/gpu` runs, on a CPU: the kernels interpreted, the clock a fake one."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from chipmark_kernels import tuned
from chipmark_kernels.device import TARGETS
from chipmark_kernels.parity import compare
from chipmark_kernels.tiles import Tile, bucketed

SCRIPTS = Path(__file__).parents[2] / "scripts"
CPU = torch.device("cpu")


class FakeDevice:
    """Plays the calls and says that each took a millisecond."""

    l2_bytes = 1000

    def __init__(self) -> None:
        self.played = 0

    def capture(self, calls):
        def play() -> float:
            self.played += 1
            for call in calls:
                call()
            return len(calls) * 1e-3

        return play


@pytest.fixture
def arms(monkeypatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = ("attention_cases", "cases", "roofs", "run", "timing", "tune", "watch")
    return SimpleNamespace(**{n: importlib.import_module(f"gpu_arms.{n}") for n in names})


def _case(arms, kernel):
    return next(c for c in arms.cases.cases(small=True) if c.kernel == kernel)


KERNELS = (
    "decode_attention",
    "dense_gemm_hopper",
    "embedding_rmsnorm",
    "fp8_gemm",
    "nucleus_cutoff",
    "prefill_attention",
    "qknorm_rope_kvwrite",
    "quantize_rows_fp8",
    "rmsnorm",
    "sample",
    "skinny_gemm",
    "swiglu",
    "w4a16_gemm",
    "w8a16_gemm",
)


def test_every_kernel_of_the_package_has_a_case_at_both_sizes(arms) -> None:
    for small in (True, False):
        assert {case.kernel for case in arms.cases.cases(small=small)} == set(KERNELS)
    names = [(case.kernel, case.name) for case in arms.cases.cases()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_case_holds_parity_on_the_interpreter(kernel, arms) -> None:
    # fp16: the interpreter's bf16 dot is wrong and its rounding cuts.
    case = _case(arms, kernel)
    inputs = case.make(torch.Generator().manual_seed(1), CPU, torch.float16)
    if kernel == "fp8_gemm":
        inputs = (*inputs, torch.float32)
        oracle = case.oracle(*inputs[:4])
        got = case.ours(*inputs)
        assert compare(got, oracle.float(), oracle).ok
        return
    assert [p.problems for p in arms.run.check(case, inputs)] == [()] * len(
        arms.run.check(case, inputs)
    )


def test_a_wrong_kernel_is_named_and_not_timed(arms) -> None:
    case = dataclasses.replace(
        _case(arms, "swiglu"), ours=lambda packed: packed[:, : packed.shape[1] // 2] * 1.05
    )
    device = FakeDevice()
    row = arms.run.measure_case(case, CPU, device, {"copy_bytes_per_s": 1e9}, compiled=False)
    assert row["not_timed"] == "parity fails"
    assert any("(a)" in problem for problem in row["parity"][0]["problems"])
    assert device.played == 0


def test_a_kernel_that_raises_is_a_row_with_its_error(arms) -> None:
    def broken(_):
        raise RuntimeError("out of resources")

    case = dataclasses.replace(_case(arms, "swiglu"), ours=broken)
    row = arms.run.measure_case(case, CPU, FakeDevice(), {}, compiled=False)
    assert row["error"] == "RuntimeError: out of resources"


def test_a_timed_row_keeps_raw_samples_the_roof_and_the_best_peer(arms) -> None:
    case = _case(arms, "swiglu")
    inputs = case.make(torch.Generator().manual_seed(1), CPU, torch.float16)
    roofs = {"copy_bytes_per_s": 1e9}
    row = arms.run.time_case(case, inputs, FakeDevice(), roofs, compiled=False)
    assert row["ours"]["samples_s"] == pytest.approx([1e-3] * 20)
    assert row["bytes_per_s"] == pytest.approx(case.bytes / 1e-3)
    assert row["fraction_of_roof"] == pytest.approx(case.bytes / 1e-3 / 1e9)
    assert row["speed_against_best_peer"] == pytest.approx(1.0)
    assert set(row["peers"]) == {"torch"}


def test_a_peer_that_fails_is_said_and_not_counted(arms) -> None:
    def absent(_):
        raise NotImplementedError("no fp16 here")

    case = dataclasses.replace(_case(arms, "swiglu"), peers={"torch": absent})
    inputs = case.make(torch.Generator().manual_seed(1), CPU, torch.float16)
    row = arms.run.time_case(case, inputs, FakeDevice(), {"copy_bytes_per_s": 1.0}, compiled=False)
    assert row["peers"]["torch"] == {"error": "NotImplementedError: no fp16 here"}
    assert row["speed_against_best_peer"] is None


def test_sdpa_reads_the_same_keys_as_the_paged_kernels(arms) -> None:
    for kernel in ("decode_attention", "prefill_attention"):
        case = _case(arms, kernel)
        inputs = case.make(torch.Generator().manual_seed(2), CPU, torch.float32)
        # Only the written part of the last page is contiguous KV.
        q, k, v, *rest = arms.attention_cases.prepare_sdpa(inputs)
        length = int(inputs[-2][0])
        peer = case.peers["torch"](q, k[:, :, :length], v[:, :, :length], *rest)
        expected = case.reference(*inputs)
        peer = peer[:, :, 0] if kernel == "decode_attention" else peer[0].transpose(0, 1)
        torch.testing.assert_close(peer, expected, rtol=1e-4, atol=1e-5)


def test_copies_total_five_times_the_cache_within_the_memory(arms) -> None:
    n_copies = arms.timing.n_copies
    assert n_copies(10**6, 10**6, 50 * 10**6) == 250
    assert n_copies(10**12, 10**12, 50 * 10**6) == 2
    assert n_copies(100, 100, 50 * 10**6) == arms.timing.MOST_COPIES
    assert n_copies(100, 2**32, 50 * 10**6) == 2


def test_roofs_count_both_directions_and_two_flops_a_product(arms) -> None:
    timed = arms.timing.Timed((0.5, 0.5, 2.0), 2)
    assert arms.roofs.copy_bytes_per_s(timed, 100) == 400.0
    assert arms.roofs.matrix_flops(timed, 10) == 4000.0
    found = arms.roofs.measured_roofs(FakeDevice(), CPU, n_bytes=64, size=8)
    assert found["copy_bytes_per_s"] == pytest.approx(128 / 1e-3)


@pytest.mark.parametrize(
    ("change", "problem"),
    [(0.0, None), (0.01, "(a)"), (float("nan"), "not finite")],
)
def test_each_rule_of_parity_is_named(change, problem, arms) -> None:
    oracle = torch.randn(1000, generator=torch.Generator().manual_seed(3)).double()
    got = (oracle * (1 + change)).bfloat16()
    parity = compare(got, oracle.bfloat16(), oracle)
    assert parity.ok == (problem is None)
    assert problem is None or problem in parity.problems[0]


def test_one_wrong_value_of_many_is_found_and_a_wrong_index_too(arms) -> None:
    oracle = torch.ones(100_000).double()
    got = oracle.bfloat16()
    got[7] = 1.05
    problems = compare(got, oracle.bfloat16(), oracle).problems
    assert [p[:3] for p in problems] == ["(b)", "(c)"]
    ids = torch.tensor([1, 2])
    assert compare(ids, ids, torch.tensor([1, 3])).problems == ("1 wrong of 2",)


def test_a_call_goes_on_where_another_stopped_unless_code_or_device_changed(arms, tmp_path) -> None:
    path = tmp_path / "out.json"
    wanted = arms.cases.cases(small=True)
    document = arms.run.load(path, {"device": "a"})
    document["rows"].append({"kernel": wanted[0].kernel, "case": wanted[0].name})
    arms.run.save(path, document)
    assert len(arms.run.pending(arms.run.load(path, {"device": "a"}), wanted)) == len(wanted) - 1
    assert len(arms.run.pending(arms.run.load(path, {"device": "b"}), wanted)) == len(wanted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_without_a_gpu_both_commands_say_so_and_exit_3(arms, capsys) -> None:
    assert arms.run.main([]) == 3
    assert "no CUDA device here" in capsys.readouterr().err
    assert arms.tune.main([]) == 3
    assert "no CUDA device here" in capsys.readouterr().err
    assert arms.run.main(["--kernels", "norm"]) == 2
    assert "no kernel 'norm'; there are decode_attention" in capsys.readouterr().err


def test_throttle_bits_are_named_and_idle_is_none(arms) -> None:
    assert arms.watch.throttled(0x4 | 0x40) == ["software power cap", "hardware thermal"]
    assert arms.watch.throttled(0x1) == []


def test_a_sweep_keeps_tiles_that_beat_the_rule_and_the_kernels_read_them(
    arms, tmp_path, monkeypatch
) -> None:
    shape = {"rows": 3, "n": 1024, "k": 2048, "glu": 0}
    rule = next(arms.tune.candidates("skinny_gemm", shape, TARGETS["sm_90"]))

    def time(kernel: str, _, tile: Tile) -> float:
        if tile.num_warps == 1:
            raise RuntimeError("does not launch")
        # The first kernel is 10 % faster with twice the columns, the second by noise only.
        gain = 0.1 if kernel == "skinny_gemm" else 0.01
        return 1.0 - gain * (tile.n == 2 * rule.n)

    entries = arms.tune.sweep(["skinny_gemm", "w8a16_gemm"], [shape], TARGETS["sm_90"], time)
    assert [(e["kernel"], e["share_of_rule"]) for e in entries] == [("skinny_gemm", 0.9)]
    monkeypatch.setattr(tuned, "TUNED_FOLDER", tmp_path)
    arms.tune.write_table(tuned.table_path("nvidia-h200"), "sm_90", "3.6.0", entries)
    tile = tuned.tuned_tile("nvidia-h200", "skinny_gemm", "bf16", bucketed(shape))
    assert tile is not None
    assert tile.n == 2 * rule.n
    assert json.loads((tmp_path / "nvidia-h200.json").read_text())["triton"] == "3.6.0"


def test_the_table_is_written_under_the_devices_own_name(
    arms, tmp_path, monkeypatch, capsys
) -> None:
    device = dataclasses.replace(TARGETS["sm_90"], product="nvidia-h100-80gb-hbm3")
    monkeypatch.setattr(tuned, "TUNED_FOLDER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(arms.tune, "facts_of", lambda _: device)
    monkeypatch.setattr(arms.tune, "sweep", lambda *_: [])
    assert arms.tune.main([]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["nvidia-h100-80gb-hbm3.json"]
    assert "0 tiles in " in capsys.readouterr().out


def test_tuning_covers_every_product_of_the_presets_once(arms) -> None:
    shapes = arms.tune.preset_shapes([1])
    assert len({tuple(s.items()) for s in shapes}) == len(shapes)
    assert {"rows": 1, "n": 12_288, "k": 4_096, "glu": 1} in shapes
