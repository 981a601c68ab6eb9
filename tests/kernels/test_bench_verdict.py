"""The targets, the verdict of each row, and `chipmark kernels run --show` without a GPU."""

from __future__ import annotations

import copy
import json

import pytest

CARD = {"copy_bytes_per_s": 4e12, "bf16_flops": 7e14}


def _row(kernel="swiglu", case="m rows=1", *, seconds=1e-6, peers=None, **fields):
    size = {k: int(v) for k, _, v in (part.partition("=") for part in case.split()) if v.isdigit()}
    row = {
        "kernel": kernel, "case": case, "bound": "latency", "rate": "bf16", "bytes": 10**8,
        "flops": 0, "size": size, "parity": {"ok": True, "results": []},
        "time": {"done": "eager", "uuid": "card", "cold_l2": True, "peers": peers or {},
                 "ours": {"median_s": seconds}},
    }  # fmt: skip
    return row | fields


def _document(*rows):
    identity = {"device": "NVIDIA H200", "torch": "2.11", "triton": "3.6"}
    return {"format": 3, "identity": identity, "roofs": {"card": CARD}, "rows": list(rows)}


@pytest.fixture
def verdict(kernel_bench):
    def of(row):
        return kernel_bench.verdict.verdicts(_document(row), kernel_bench.targets.read_targets())[0]

    return of


def _own(found):
    return {j.target.name: j.state for j in found.judgements}


def test_the_table_has_the_targets_of_the_kernels_and_each_is_well_formed(kernel_bench) -> None:
    limits = {t.name: (t.metric, t.limit) for t in kernel_bench.targets.read_targets()}
    assert limits == {
        "fused small op in a graph": ("time_s", 4e-6),
        "decode attention of 64 MB of KV": ("fraction_of_roof", 0.80),
        "skinny GEMM of 32 MB of weights": ("fraction_of_roof", 0.75),
        "skinny GEMM of 100 MB of weights": ("fraction_of_roof", 0.88),
        "prefill attention at 8k": ("fraction_of_roof", 0.40),
        "beside the best peer": ("time_of_best_peer", 1.03),
    }
    kernels = {case.kernel for case in kernel_bench.cases.cases()}
    for target in kernel_bench.targets.read_targets():
        assert set(target.kernels) <= kernels | {"*"}


def test_every_target_holds_for_a_case_that_is_measured(kernel_bench) -> None:
    rows = [
        {"kernel": c.kernel, "bytes": c.bytes, "size": c.size, "bound": c.bound}
        for c in kernel_bench.cases.cases()
    ]
    for target in kernel_bench.targets.read_targets():
        held = [row for row in rows if target.holds_for(row)]
        assert held, target.name
        if target.metric == "fraction_of_roof":
            assert {row["bound"] for row in held} <= {"memory", "matrix"}


def test_a_small_op_is_judged_by_its_time_up_to_64_rows(verdict) -> None:
    name = "fused small op in a graph"
    assert _own(verdict(_row(case="m rows=64", seconds=3.9e-6)))[name] == "met"
    assert _own(verdict(_row(case="m rows=64", seconds=4.1e-6)))[name] == "missed"
    assert name not in _own(verdict(_row(case="m rows=65", seconds=4.1e-6)))


@pytest.mark.parametrize(
    ("kernel", "case", "n_bytes", "share", "state"),
    [
        ("decode_attention", "m seqs=8 context=16384", 64e6, 0.81, "met"),
        ("decode_attention", "m seqs=8 context=16384", 64e6, 0.79, "missed"),
        ("decode_attention", "m seqs=1 context=64", 63e6, 0.1, "not judged"),
        ("skinny_gemm", "m rows=16 n=1 k=1", 33e6, 0.76, "met"),
        ("skinny_gemm", "m rows=16 n=1 k=1", 33e6, 0.74, "missed"),
        ("skinny_gemm", "m rows=16 n=1 k=1", 101e6, 0.87, "missed"),
        ("skinny_gemm", "m rows=64 n=1 k=1", 33e6, 0.1, "not judged"),
        ("skinny_gemm", "m rows=16 n=1 k=1", 31e6, 0.1, "not judged"),
    ],
)
def test_what_reads_memory_is_judged_by_its_share_of_the_measured_bandwidth(
    kernel, case, n_bytes, share, state, verdict
) -> None:
    seconds = n_bytes / (share * CARD["copy_bytes_per_s"])
    found = verdict(_row(kernel, case, seconds=seconds, bound="memory", bytes=int(n_bytes)))
    assert found.fraction_of_roof == pytest.approx(share)
    assert found.state == state


def test_prefill_is_judged_by_the_matrix_rate_at_8k_alone(verdict) -> None:
    for new, share, state in ((8192, 0.41, "met"), (8192, 0.39, "missed"), (512, 0.1, None)):
        flops = 10**12
        seconds = flops / (share * CARD["bf16_flops"])
        case = f"m new={new} context=16384"
        row = _row("prefill_attention", case, seconds=seconds, bound="matrix", flops=flops)
        assert _own(verdict(row)).get("prefill attention at 8k") == state


def test_a_kernel_may_be_3_percent_slower_than_the_best_peer_that_counts(verdict) -> None:
    peers = {
        "torch": {"median_s": 2e-6},
        "liger": {"differs": "(a) far"},
        "flag_gems": {"error": "RuntimeError: no"},
    }
    met = verdict(_row("sample", seconds=2.05e-6, peers=peers))
    assert (met.best_peer, met.time_of_best_peer) == ("torch", pytest.approx(1.025))
    assert met.state == "met"
    assert met.remarks == (
        "liger computes something else: (a) far", "flag_gems: RuntimeError: no",
    )  # fmt: skip
    assert verdict(_row("sample", seconds=2.07e-6, peers=peers)).state == "missed"
    assert verdict(_row("sample", peers={"liger": {"differs": "x"}})).state == "not judged"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"throttled": ["hw_thermal_slowdown"]}, "throttled: hw_thermal_slowdown"),
        ({"time": {"cold_l2": False}}, "inputs lie in the L2"),
        ({"bytes": 10**10}, "over the roof: one of the two is measured wrong"),
        ({"time": {"uuid": "another"}}, "copy_bytes_per_s was not measured on this card"),
    ],
)
def test_an_unfit_measurement_is_not_judged_and_says_why(change, reason, verdict) -> None:
    row = _row("decode_attention", "m seqs=8 context=9", seconds=1e-3, bound="memory")
    changed = copy.deepcopy(row)
    changed["time"].update(change.get("time", {}))
    changed |= {k: v for k, v in change.items() if k != "time"}
    assert verdict(row).state == "missed"
    found = verdict(changed)
    assert found.state == "not judged"
    assert found.judgements[0].reason == reason


def test_a_power_cap_is_said_and_judged(verdict) -> None:
    found = verdict(_row(throttled=["sw_power_cap"]))
    assert found.state == "met"
    assert "throttled: sw_power_cap" in found.remarks


def test_a_failed_kernel_is_failed_whatever_it_timed(verdict) -> None:
    parity = {"ok": False, "results": [{"problems": ["(a) rms-relative 1"]}]}
    found = verdict(_row(parity=parity))
    assert (found.state, found.problem) == ("failed", "parity: (a) rms-relative 1")


def test_the_exit_code_is_that_of_the_worst(kernel_bench) -> None:
    def code(left, *rows):
        found = kernel_bench.verdict.verdicts(_document(*rows), kernel_bench.targets.read_targets())
        return kernel_bench.verdict.exit_code(found, left)

    good, slow = _row(), _row(seconds=1e-3)
    unmeasured = _row() | {"time": {}}
    broken = _row(parity={"ok": False, "error": "RuntimeError: no"}) | {"time": {}}
    assert code(0, good) == 0
    assert code(0, good, slow) == 1
    assert code(0, good, broken) == 1
    assert code(2, good, slow) == 3
    assert code(0) == code(0, unmeasured) == 3


def test_show_prints_the_verdicts_of_a_file_and_ends_as_they_do(
    kernel_bench, tmp_path, capsys
) -> None:
    path = tmp_path / "out.json"
    good = _row(case="m rows=1", seconds=2e-6, peers={"torch": {"median_s": 3e-6}})
    path.write_text(json.dumps(_document(good)))
    assert kernel_bench.command.main(["--show", str(path)]) == 0
    shown = capsys.readouterr().out
    for text in ("NVIDIA H200", "2.00 us", "<= 4 us", "met", "torch", "0.67", "1 cases: 1 met"):
        assert text in shown
    path.write_text(json.dumps(_document(good, _row(case="m rows=8", seconds=9e-6))))
    assert kernel_bench.command.main(["--show", str(path)]) == 1
    assert "missed <= 4 us (fused small op in a graph): swiglu m rows=8" in capsys.readouterr().out
    slow = _row(case="m rows=1", seconds=3e-6, peers={"torch": {"median_s": 1e-6}})
    path.write_text(json.dumps(_document(slow)))
    assert kernel_bench.command.main(["--show", str(path)]) == 1
    assert "missed (peer)" in capsys.readouterr().out
    path.write_text(json.dumps(_document(good, _row(case="m rows=8", seconds=9e-6))))
    assert kernel_bench.command.main(["--show", str(path), "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [v["state"] for v in found["verdicts"]] == ["met", "missed"]
    path.write_text(json.dumps(_document()))
    assert kernel_bench.command.main(["--show", str(path)]) == 3
    assert kernel_bench.command.main(["--show", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
