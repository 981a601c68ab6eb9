"""What `chipmark kernels run` measures, on a CPU: the kernels interpreted, the clock a fake one."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil

import pytest
import torch

import chipmark_kernels
from chipmark_kernels.manifest import FAMILIES
from chipmark_kernels.parity import compare

CPU = torch.device("cpu")


def launchers() -> list[str]:
    """Public functions of the package with a tile to override: what launches a kernel."""
    found = []
    for info in pkgutil.iter_modules(chipmark_kernels.__path__):
        module = importlib.import_module(f"chipmark_kernels.{info.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            own = function.__module__ == module.__name__ and not name.startswith("_")
            tile = inspect.signature(function).parameters.get("tile")
            gives_tensors = "Tensor" in str(inspect.signature(function).return_annotation)
            if own and tile is not None and gives_tensors:
                found.append(name)
    return sorted(set(found))


LAUNCHERS = launchers()
SMALL = [
    "decode_attention", "dense_gemm_hopper", "embedding_rmsnorm", "fp8_gemm", "nucleus_cutoff",
    "prefill_attention", "qknorm_rope_kvwrite", "quantize_rows_fp8", "rmsnorm", "sample",
    "skinny_gemm", "gemv_hopper", "swiglu", "w4a16_gemm", "w8a16_gemm",
]  # fmt: skip


def _case(kernel_bench, kernel, words=""):
    return next(
        c
        for c in kernel_bench.cases.cases(small=True)
        if c.kernel == kernel and c.name.endswith(words)
    )


def test_launchers_are_found_by_their_signature() -> None:
    assert set(SMALL) <= set(LAUNCHERS)
    # These three are launches of several kernels, or of none of a model's.
    others = {"split_k", "philox_weights", "dependent_launches"}
    assert {f.name for f in FAMILIES} - others <= set(LAUNCHERS)


@pytest.mark.parametrize("small", [True, False])
def test_every_launcher_of_the_package_has_a_case(small, kernel_bench) -> None:
    found = kernel_bench.cases.cases(small=small)
    missing = set(LAUNCHERS) - {case.kernel for case in found}
    assert not missing, f"no case in harness/chipmark/kernel_bench for {missing}"
    names = [(case.kernel, case.name) for case in found]
    assert len(names) == len(set(names))


def test_the_ways_to_sample_norm_and_quantise_have_a_case_each(kernel_bench) -> None:
    words = {
        "sample": {"greedy", "gumbel", "top-p"},
        "rmsnorm": {"residual", "plain"},
        "quantize_rows_fp8": {"norm", "plain"},
    }
    for kernel, expected in words.items():
        found = {c.name.split()[-1] for c in kernel_bench.cases.cases() if c.kernel == kernel}
        assert found == expected


@pytest.mark.parametrize("kernel", LAUNCHERS)
def test_each_case_holds_parity_on_the_interpreter(kernel, kernel_bench) -> None:
    # fp16: the interpreter's bf16 dot is wrong and its rounding cuts.
    small = [c for c in kernel_bench.cases.cases(small=True) if c.kernel == kernel]
    for case in {c.name.split()[-1]: c for c in small}.values():
        # The reference rounds between norm and scale, which in fp32 is nothing.
        dtype = torch.float32 if kernel == "quantize_rows_fp8" else torch.float16
        inputs = case.make(torch.Generator().manual_seed(1), CPU, dtype)
        found = kernel_bench.measuring.check(case, inputs)
        if kernel == "quantize_rows_fp8":
            # Where rounding carries into the exponent the interpreter loses the carry.
            values, scales = case.ours(*inputs)
            expected = case.reference(*inputs)[0].float()
            lost = (values.float() != expected) & (expected.frexp()[0].abs() == 0.5)
            assert lost.float().mean() < 0.1
            mended = torch.where(lost, expected, values.float()).to(torch.float8_e4m3fn)
            found = case.check(inputs, [mended, scales])
        assert [p.problems for p in found] == [()] * len(found), case.name


def test_no_copy_of_what_a_launch_reads_early_is_under_way(kernel_bench, monkeypatch) -> None:
    case = _case(kernel_bench, "rmsnorm")
    inputs = case.make(torch.Generator().manual_seed(1), CPU, torch.float32)
    order = []
    measuring = kernel_bench.measuring
    clones = measuring.clones
    monkeypatch.setattr(measuring, "clones", lambda i: [order.append("copied"), clones(i)][1])
    monkeypatch.setattr(measuring, "synchronize", lambda device: order.append("waited"))
    ours = dataclasses.replace(case, ours=lambda *i: [order.append("ours"), case.reference(*i)][1])
    measuring.check(ours, inputs)
    assert order[:3] == ["copied", "waited", "ours"]


@pytest.mark.parametrize("kernel", LAUNCHERS)
def test_torchs_own_peers_compute_what_the_case_does(kernel, kernel_bench) -> None:
    for case in [c for c in kernel_bench.cases.cases(small=True) if c.kernel == kernel]:
        if "torch" not in case.peers:
            continue
        peer = case.peers["torch"]
        inputs = case.make(torch.Generator().manual_seed(2), CPU, torch.bfloat16)
        prepared = isinstance(peer, kernel_bench.case.PreparedPeer)
        ready = peer.prepare(kernel_bench.measuring.clones(inputs)) if prepared else inputs
        got = (peer.call if prepared else peer)(*ready)
        oracle = [] if case.check else kernel_bench.measuring.oracle_of(case, inputs)
        assert kernel_bench.measuring.peer_problem(case, inputs, got, oracle) == "", case.name


def test_a_peer_that_computes_something_else_is_found(kernel_bench) -> None:
    case = _case(kernel_bench, "swiglu")
    inputs = case.make(torch.Generator().manual_seed(2), CPU, torch.bfloat16)
    oracle = kernel_bench.measuring.oracle_of(case, inputs)
    right = case.peers["torch"](*inputs)
    problem = kernel_bench.measuring.peer_problem
    assert "(a)" in problem(case, inputs, right * 1.05, oracle)
    assert "not finite" in problem(case, inputs, right * float("inf"), oracle)
    assert problem(case, inputs, (right, right), oracle) == "2 results, not 1"


def test_a_wrong_cutoff_and_wrong_codes_are_found(kernel_bench) -> None:
    case = _case(kernel_bench, "nucleus_cutoff")
    inputs = case.make(torch.Generator().manual_seed(3), CPU, torch.bfloat16)
    right = case.reference(*inputs)
    assert case.check(inputs, [right])[0].ok
    ordered = inputs[0].float().unique()
    above = ordered[ordered > right[0]][:1]
    below = ordered[ordered < right[0]][-1:]
    assert "short of top_p" in case.check(inputs, [above])[0].problems[0]
    assert "over top_p" in case.check(inputs, [below])[0].problems[0]

    case = _case(kernel_bench, "quantize_rows_fp8", "norm")
    inputs = case.make(torch.Generator().manual_seed(3), CPU, torch.float32)
    values, scales = case.reference(*inputs)
    assert case.check(inputs, [values, scales])[0].ok
    nudged = values.float()
    nudged[0, 3] *= 1.2
    wrong = case.check(inputs, [nudged.to(torch.float8_e4m3fn), scales])[0]
    assert "half steps away" in wrong.problems[0]
    assert "wrong scale" in case.check(inputs, [values, scales * 1.01])[0].problems[0]


def test_a_prompt_in_blocks_is_the_whole_prompt(kernel_bench) -> None:
    for case in [
        c for c in kernel_bench.cases.cases(small=True) if c.kernel == "prefill_attention"
    ]:
        inputs = case.make(torch.Generator().manual_seed(4), CPU, torch.float64)
        blocks = kernel_bench.attention_cases.in_blocks(
            kernel_bench.attention_cases.prefill_attention_reference, rows=4
        )
        torch.testing.assert_close(blocks(*inputs), case.reference(*inputs), rtol=1e-12, atol=0)


def test_tokens_that_were_not_written_are_poison(kernel_bench) -> None:
    k, v, table = kernel_bench.attention_cases._pages(
        torch.Generator().manual_seed(1), CPU, torch.float32, kernel_bench.case.TINY, 2, 17
    )
    for cache in (k, v):
        assert cache[-1].isnan().all()
        assert cache[table[:, 1].long(), 1:].isnan().all()
        assert not cache[table[:, 1].long(), :1].isnan().any()


def test_copies_of_an_embedding_share_its_table(kernel_bench) -> None:
    case = _case(kernel_bench, "embedding_rmsnorm")
    rng = torch.Generator().manual_seed(5)
    inputs = case.make(rng, CPU, torch.float16)
    copies, cold = kernel_bench.measuring.rotating(
        case, inputs, kernel_bench.fake.FakeDevice(), rng
    )
    assert cold
    assert {c[1].data_ptr() for c in copies} == {inputs[1].data_ptr()}
    assert len({c[0].data_ptr() for c in copies}) == len(copies)


def test_copies_total_five_times_the_cache_within_the_memory(kernel_bench) -> None:
    n_copies = kernel_bench.rotation.n_copies
    assert n_copies(10**6, 10**6, 50 * 10**6) == 250
    assert n_copies(10**12, 10**12, 50 * 10**6) == 2
    assert n_copies(100, 100, 50 * 10**6) == kernel_bench.rotation.MOST_COPIES
    assert n_copies(100, 2**32, 50 * 10**6) == 2


def test_roofs_count_both_directions_and_two_flops_a_product(kernel_bench) -> None:
    timed = kernel_bench.timing.Timed((0.5, 0.5, 2.0), 2)
    assert kernel_bench.roofs.copy_bytes_per_s(timed, 100) == 400.0
    assert kernel_bench.roofs.matrix_flops(timed, 10) == 4000.0
    steps = dict(
        kernel_bench.roofs.roof_steps(kernel_bench.fake.FakeDevice(), CPU, n_bytes=64, size=16)
    )
    assert steps["copy"]()["copy_bytes_per_s"] == pytest.approx(128 / 1e-3)
    assert steps["bf16"]()["bf16_flops"] == pytest.approx(2 * 16**3 / 1e-3)
    assert steps["fp8"]()["fp8_flops"] == pytest.approx(2 * 16**3 / 1e-3)


@pytest.mark.parametrize(
    ("change", "problem"),
    [(0.0, None), (0.01, "(a)"), (float("nan"), "not finite")],
)
def test_each_rule_of_parity_is_named(change, problem, kernel_bench) -> None:
    oracle = torch.randn(1000, generator=torch.Generator().manual_seed(3)).double()
    got = (oracle * (1 + change)).bfloat16()
    parity = compare(got, oracle.bfloat16(), oracle)
    assert parity.ok == (problem is None)
    assert problem is None or problem in parity.problems[0]


def test_nothing_passes_against_an_oracle_that_is_not_finite(kernel_bench) -> None:
    oracle = torch.full((10,), float("nan")).double()
    got = torch.ones(10).bfloat16()
    problems = compare(got, got, oracle).problems
    assert [p[:3] for p in problems] == ["(a)", "(b)", "(c)"]


def test_a_row_of_figures_that_are_not_finite_can_be_written(kernel_bench) -> None:
    from chipmark.kernel_bench.measuring import parity_row
    from chipmark_kernels.parity import compare_fp8_rows

    values = torch.full((2, 4), float("nan")).to(torch.float8_e4m3fn)
    found = compare_fp8_rows(values, torch.full((2,), float("nan")), torch.ones(2, 4).double())
    row = parity_row([found])
    assert not row["ok"]
    assert json.loads(json.dumps(row, allow_nan=False))["results"][0]["rms_relative"] is None


def test_one_wrong_value_of_many_is_found_and_a_wrong_index_too(kernel_bench) -> None:
    oracle = torch.ones(100_000).double()
    got = oracle.bfloat16()
    got[7] = 1.05
    problems = compare(got, oracle.bfloat16(), oracle).problems
    assert [p[:3] for p in problems] == ["(b)", "(c)"]
    ids = torch.tensor([1, 2])
    assert compare(ids, ids, torch.tensor([1, 3])).problems == ("1 wrong of 2",)


def test_noise_of_a_vocabulary_at_once_is_that_of_each_token() -> None:
    from chipmark_kernels.reference.sampling import philox_first_word

    tokens = [0, 1, 77, 151_935, 2**31, 2**32 - 1]
    for seed in (0, 7, 2**40 + 5, 2**63 - 1):
        words = philox_first_word(torch.tensor(tokens), seed).tolist()
        assert words == [philox_first_word(token, seed) for token in tokens]


def test_only_what_keeps_clocks_down_makes_a_sample_unfit(kernel_bench, monkeypatch) -> None:
    class Card:
        def __getattr__(self, name: str):
            return lambda: None

        def reasons(self):
            return ("gpu_idle", "sw_power_cap", "hw_thermal_slowdown")

    monkeypatch.setattr(kernel_bench.watch, "open_nvml", lambda: None)
    monkeypatch.setattr(kernel_bench.watch, "find_card", lambda *_: Card())
    watch = kernel_bench.watch.Watch()
    sample = watch._sample()
    assert sample["throttle"] == ["sw_power_cap", "hw_thermal_slowdown"]
    assert sample["energy_j"] is None
