"""`triton:interpreter` through the contract, and what `triton:cuda` says where it cannot run."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from chipmark.backends.triton_cuda import devices, loading
from chipmark.backends.triton_cuda.backend import TritonBackend
from chipmark.backends.triton_cuda.needed_memory import MOST_ROWS, batch_buckets, need_of
from chipmark.engine.conformance import CHECKS, Subject, conformance_load
from chipmark.engine.contract import LaunchPlan, LoadSpec, Rows, Step
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan
from chipmark.engine.trial import SessionShape, TurnShape, trial_trace
from chipmark.errors import (
    ChipmarkError,
    ContractError,
    DoesNotFitError,
    MissingBackendError,
    UnknownNameError,
    UsageError,
)
from chipmark_models.decoder.paged import ops as paged_ops
from chipmark_models.decoder.paged.designs import DESIGNS
from chipmark_models.oracle import Oracle
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import WeightSpec, open_any
from chipmark_models.weights.source import WeightRef

TINY = preset("tiny")
REF = WeightRef("synthetic", "tiny", None, 7)
TORCH_OPS = dict.fromkeys(
    (op for op in paged_ops.TABLE.operations if op not in paged_ops.TABLE.separate), "torch"
)


def weights(precision: str) -> dict:
    return WeightSpec(REF, precision, None).to_dict()


def load(precision: str = "fp32", **more):
    backend = TritonBackend("interpreter")
    fields = {"n_seqs": 2, "max_context": 96, "kv_tokens": 192, "max_chunk": 32}
    return backend, backend.load(LoadSpec(weights(precision), precision, **(fields | more)))


@pytest.fixture(scope="module")
def subject():
    # The whole suite takes hundreds of launches: minutes in the interpreter, seconds in torch. The
    # kernels have the tests below.
    backend = TritonBackend("interpreter")
    spec = conformance_load(weights("fp32"), options={"ops": TORCH_OPS})
    yield Subject(backend, backend.load(spec), vocab_size=TINY.vocab_size)
    backend.close()
    backend.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contract(subject, check):
    check(subject)


def rows(start, tokens, pages, sample=True) -> Rows:
    n, width = len(tokens), max(len(p) for p in pages)
    table = np.full((n, width), -1, np.int32)
    for i, held in enumerate(pages):
        table[i, : len(held)] = held
    return Rows(
        seq=np.arange(n, dtype=np.int32) + 10,
        slot=np.full(n, -1, np.int32),
        start=np.asarray(start, np.int32),
        length=np.asarray([len(t) for t in tokens], np.int32),
        tokens=np.concatenate(tokens).astype(np.int32),
        pages=table,
        sample=np.full(n, sample, dtype=bool),
    )


def plan(phase, the_rows: Rows, bucket: int = 0) -> LaunchPlan:
    context = int((the_rows.start + the_rows.length).max())
    size = bucket or the_rows.seq.size
    return LaunchPlan(phase, the_rows, size, int(the_rows.length.max()), context)


def test_the_kernels_give_the_oracles_logits_over_turns_with_a_shared_page():
    backend, loaded = load(n_seqs=3, kv_tokens=288)
    assert loaded.execution == "eager"
    assert loaded.caps.prefix == "share"
    a, b = (np.random.default_rng(1).integers(0, TINY.vocab_size, n) for n in (40, 25))
    b[:16] = a[:16]
    expected = Oracle(TINY, open_any(WeightSpec.from_dict(weights("fp32"))).float32).logits([a, b])
    pages = [[4, 0, 7], [4, 2]]
    steps = [
        (plan("prefill_cold", rows([0], [a[:20]], [pages[0][:2]], sample=False)),),
        (plan("prefill_append", rows([20, 16], [a[20:38], b[16:23]], pages)),),
        (plan("decode", rows([38, 23], [a[38:39], b[23:24]], pages), bucket=3),),
        (plan("decode", rows([39], [a[39:40]], [pages[0]])),),
    ]
    backend.submit(Step(0, (), steps[0]))
    backend.submit(Step(1, (), steps[1], (10, 11)))
    with pytest.raises(ContractError, match="in flight"):
        backend.submit(Step(2, (), steps[2]))
    first, appended = backend.wait(), backend.wait()
    assert first.sampled.size == 0
    backend.submit(Step(2, (), steps[2], (11,)))
    decoded = backend.wait()
    backend.submit(Step(3, (), steps[3], (10,)))
    last = backend.wait()
    assert np.abs(appended.logits[10] - expected[0][37]).max() <= 1e-4
    assert np.abs(appended.logits[11] - expected[1][22]).max() <= 1e-4
    assert set(decoded.logits) == {11}
    assert np.abs(decoded.logits[11] - expected[1][23]).max() <= 1e-4
    assert np.abs(last.logits[10] - expected[0][39]).max() <= 1e-4
    assert decoded.sampled.tolist() == [
        int(expected[0][38].argmax()),
        int(expected[1][23].argmax()),
    ]
    assert decoded.launches[0].positions == 3  # two rows in a bucket of three
    assert appended.launches[0].positions == 18 + 7  # rows behind one another, without padding
    assert np.abs(appended.top2 - [np.sort(e)[-1:-3:-1] for e in
                                   (expected[0][37], expected[1][22])]).max() <= 1e-4  # fmt: skip
    # The second decode launch found its page table on the device already.
    assert 0 < last.h2d_bytes < decoded.h2d_bytes
    counts = {"prefill_cold:eager": 1, "prefill_append:eager": 1, "decode:eager": 2}
    assert backend.launch_counts() == counts
    times = [t for done in (first, appended, decoded, last) for x in done.launches
             for t in (x.start_s, x.end_s)]  # fmt: skip
    assert times == sorted(times)
    with pytest.raises(ContractError, match="no step"):
        backend.wait()
    backend.close()
    with pytest.raises(ContractError, match="not loaded"):
        backend.submit(Step(4, (), steps[3]))


@pytest.mark.parametrize("precision", ["fp16", "w4"])
def test_other_precisions_run_through_the_engine(precision):
    backend, loaded = load(precision, n_seqs=1)
    trace = trial_trace([SessionShape((TurnShape(9, 2),))], TINY.vocab_size)
    result = run(backend, trace, RunPlan(caps=loaded.caps, concurrency=1, logits_of_all=True))
    session = trace.sessions[0]
    prepared = open_any(WeightSpec.from_dict(weights(precision)))
    ids = np.concatenate([session.prompt(session.turns[0]), session.output(session.turns[0])])
    expected = Oracle(TINY, prepared.float32).logits([ids])[0]
    for captured in result.logits:
        far = np.abs(captured.logits - expected[captured.position]).max() / expected.std()
        assert far < (0.02 if precision == "fp16" else 1e-3)
    assert loaded.precision.weights == precision
    assert loaded.precision.words()["activation"] == ("fp16" if precision == "fp16" else "fp32")


def test_the_interpreter_is_never_ranked_and_says_what_it_is():
    backend, loaded = load(options={"ops": TORCH_OPS})
    assert loaded.ep_coverage == 0.0
    assert [code for code, _ in loaded.notes] == ["ep_coverage"]
    described = json.loads(json.dumps(dict(backend.describe())))
    assert described["interpreted"] is True
    assert described["operations"]["qkv"] == "torch"
    assert json.loads(json.dumps(dict(loaded.details)))["kernels_replaced"] == {}


def test_a_kernel_that_is_wrong_here_is_replaced_by_torch_and_said(monkeypatch):
    from chipmark_models.decoder.paged import triton_ops as paged_triton

    def wrong(x, matrix, bias=None, **more):
        return right(x, matrix, bias, **more) * 1.05

    right = paged_triton.product
    products = dict.fromkeys(paged_ops.PRODUCTS, wrong)

    def refuses(*_, **__):
        raise RuntimeError("PassManager::run failed\nmany lines")

    broken = {**paged_triton.OPS, **products, "greedy": refuses}
    monkeypatch.setattr(paged_triton, "OPS", broken)
    backend, loaded = load(options={"kernel_check": True}, n_seqs=1, max_chunk=16)
    replaced = loaded.details["kernels_replaced"]
    assert set(replaced) == {"qkv", "out_add", "gate_up_swiglu", "down_add", "head", "greedy"}
    assert "(a) rms-relative" in replaced["qkv"]
    assert "PassManager::run failed" in replaced["greedy"]
    assert "many lines" not in replaced["greedy"]
    assert [code for code, _ in loaded.notes].count("kernel_replaced") == 6
    assert backend.describe()["operations"]["qkv"] == "torch"
    with pytest.raises(UsageError, match="greedy fails parity"):
        load(options={"kernel_check": True, "ops": {"greedy": "triton"}}, n_seqs=1, max_chunk=16)


@pytest.mark.parametrize(("n_seqs", "buckets"), [(1, (1,)), (3, (1, 2, 3)), (8, (1, 2, 4, 8))])
def test_decode_is_captured_for_a_few_numbers_of_rows(n_seqs, buckets):
    assert batch_buckets(n_seqs) == buckets


def test_large_batches_have_buckets_up_to_the_limit():
    assert batch_buckets(64)[-3:] == (48, 56, 64)
    assert batch_buckets(1000)[-1] == MOST_ROWS
    for n in range(1, 300):
        found = batch_buckets(n)
        assert list(found) == sorted(set(found))


def test_memory_is_counted_before_loading_and_what_fits_is_said(monkeypatch):
    spec = LoadSpec({}, "bf16", 4, 8192, 4 * 8192, 256)
    config = preset("qwen3-8b")
    need = need_of(config, spec, "bf16", spec.kv_tokens)
    assert need.weight_bytes == pytest.approx(16.4e9, rel=0.01)
    assert need.kv_bytes == 4 * 8192 * 2 * 36 * 8 * 128 * 2
    assert 1.5e9 < need.work_bytes < 4e9
    monkeypatch.setattr(loading, "free_bytes", lambda device: 10**9)
    with pytest.raises(DoesNotFitError) as caught:
        load(n_seqs=64, max_context=32_000, kv_tokens=64 * 32_000)
    assert "tokens in pages" in caught.value.message
    assert "would fit: " in caught.value.hint


def test_memory_of_captured_decode_is_counted():
    """The graph of each bucket keeps its logits, and a trial those of every design."""
    config = preset("qwen3-0.6b")  # a wide vocabulary on small matrices
    spec = LoadSpec({}, "bf16", MOST_ROWS, 1024, MOST_ROWS * 1024, 256)
    logits = config.vocab_size * 2
    work = {
        graphs: need_of(
            config, dataclasses.replace(spec, options={"graphs": graphs, "prefill_graphs": False}),
            "bf16", spec.kv_tokens,
        ).work_bytes
        for graphs in (True, False)
    }  # fmt: skip
    kept = sum(batch_buckets(MOST_ROWS)[:-1]) * logits
    checked = 16 * config.hidden_size * 2 * config.intermediate_size
    tried = len(DESIGNS) * MOST_ROWS * 2 * logits
    assert work[True] - work[False] >= kept + tried - checked > 900e6


def test_what_is_missing_is_named_with_what_to_do(monkeypatch):
    for wrong in ("cudda", "cuda:x", "cpu"):
        with pytest.raises(UnknownNameError, match="cuda"):
            TritonBackend(wrong)
    if not torch.cuda.is_available():
        with pytest.raises(MissingBackendError, match="sees no device 'cuda'"):
            TritonBackend("cuda")
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingBackendError, match="torch") as caught:
        TritonBackend("cuda")
    assert "chipmark[triton]" in caught.value.hint


def test_a_too_old_card_is_refused_and_told_what_measures_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(devices.devices, "open_device", lambda name: torch.device("cuda:0"))
    with pytest.raises(MissingBackendError, match=r"Tesla T4 has compute capability 7.5") as caught:
        TritonBackend("cuda")
    assert "torch:cuda" in caught.value.hint


@pytest.mark.parametrize(
    ("lacks", "said"), [("cc", "no C compiler"), ("Python.h", "Python.h is missing")]
)
def test_a_machine_that_cannot_compile_a_launcher_is_refused_first(
    monkeypatch, tmp_path, lacks, said
):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(devices.shutil, "which", lambda name: None if lacks == "cc" else name)
    if lacks != "Python.h":
        (tmp_path / "Python.h").touch()
    monkeypatch.setattr(devices.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(devices.devices, "open_device", lambda name: torch.device("cuda:0"))
    with pytest.raises(MissingBackendError, match=said) as caught:
        TritonBackend("cuda")
    assert "install" in caught.value.hint


def test_precisions_are_told_without_a_device_and_others_refused():
    assert TritonBackend.precisions("cuda") == ("fp32", "bf16", "fp16", "w8", "w4", "fp8")
    assert TritonBackend.precisions("interpreter") == ("fp32", "fp16", "w8", "w4")
    with pytest.raises(UsageError, match="never substituted"):
        load("bf16")
    with pytest.raises(UnknownNameError, match="ops"):
        load(options={"op": {}})
    with pytest.raises(UnknownNameError, match="qkv"):
        load(options={"ops": {"qvk": "torch"}})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"graphs": "False"}, "graphs is 'False', not true or false"),
        ({"prefill_graphs": "no"}, "prefill_graphs is 'no'"),
        ({"kernel_check": 1}, "kernel_check is 1"),
        ({"ops": "torch"}, "ops is 'torch', not a table"),
        ({"ops": {"qkv": ["torch"]}}, "not a table of implementations"),
        ({"ops": {"qvk": "torch"}}, "did you mean qkv"),
        ({"ops": {"qkv": "cudnn"}}, "implementation of qkv"),
        ({"design": ["pdl"]}, "design of triton"),
    ],
)
def test_an_option_of_another_type_or_name_is_refused_before_anything_runs(options, said):
    with pytest.raises(ChipmarkError, match=said):
        TritonBackend.check("cuda", options, lambda name: True)


def test_what_is_compiled_is_warmed_at_every_tile_and_captured_largest_first(monkeypatch):
    from chipmark.backends.triton_cuda import streams

    order, tokens = [], []

    class Recorder(streams.HostStream):
        def capture(self, call, *, kept):
            assert kept
            order.append(call)
            return super().capture(call, kept=kept)

    forward = loading.PagedDecoder.forward

    def counted(self, batch):
        tokens.append(batch.ids.numel() if batch.cu_q is not None else -batch.ids.numel())
        return forward(self, batch)

    monkeypatch.setattr(loading.PagedDecoder, "forward", counted)
    monkeypatch.setattr(loading, "stream_of", lambda device: Recorder())
    monkeypatch.setattr(loading, "INTERPRETER", "none")
    options = {"ops": TORCH_OPS, "kernel_check": False}
    _, loaded = load(options=options, n_seqs=4, kv_tokens=384)
    assert loaded.caps.batch_buckets == (1, 2, 4)
    assert len(order) == 3
    assert tokens[:3] == [-4, -2, -1]
    assert set(tokens[3:]) == {1, 2, 4, 8, 16, 32}
    assert [code for code, _ in loaded.notes] == ["unverified_provider"]


def test_products_are_tried_and_the_fastest_is_used_and_named(monkeypatch):
    from chipmark.backends.triton_cuda import product_choice

    names = {}

    def seconds(decoder, operation, name, rows, stream):
        names.setdefault((operation, rows), []).append(name)
        return {"triton": rows, "torch": 10.0, "hopper": 5.0}[name]

    monkeypatch.setattr(product_choice, "_seconds", seconds)
    backend, _ = load(options={"ops": TORCH_OPS})
    decoder = backend._engine.decoder
    candidates = {"qkv": ["triton", "torch", "hopper"], "head": ["torch"]}
    chosen = product_choice.choose_products(
        decoder, candidates, [1, 64, 200], backend._engine.stream
    )
    assert {rows: choice.name for rows, choice in chosen["qkv"].items()} == {
        1: "triton", 64: "torch", 200: "hopper"
    }  # fmt: skip
    assert names["qkv", 64] == ["triton", "torch"]
    assert "head" not in chosen
    assert decoder.ops.qkv.limits == (1, 64, 200)
    monkeypatch.undo()
    timed = product_choice._seconds(decoder, "down_add", "torch", 3, backend._engine.stream)
    assert timed > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "w8", "w4", "fp8"])
def test_a_gpu_keeps_the_contract_in_every_precision(precision):
    backend = TritonBackend("cuda")
    loaded = backend.load(conformance_load(weights(precision), precision))
    tolerance = {"fp32": 1e-3, "bf16": 0.15, "fp8": 0.5}.get(precision, 0.2)
    subject = Subject(backend, loaded, vocab_size=TINY.vocab_size, tolerance=tolerance)
    for check in CHECKS:
        check(subject)
    assert loaded.execution == "graph"
    assert not loaded.details["kernels_replaced"]
    backend.close()
