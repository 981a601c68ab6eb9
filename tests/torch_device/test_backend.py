"""`torch:cpu` through the contract: conformance, steps, what fits, names that do not exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from chipmark.backends import host
from chipmark.backends.fit import Need, check_fit
from chipmark.backends.torch_device import devices
from chipmark.backends.torch_device.backend import TorchBackend
from chipmark.backends.torch_device.threads import threads_for
from chipmark.engine.conformance import CHECKS, Subject, conformance_load
from chipmark.engine.contract import KvOp, LaunchPlan, LoadSpec, Rows, Step
from chipmark.errors import (
    ContractError,
    DoesNotFitError,
    MissingBackendError,
    UnknownNameError,
    UsageError,
)
from chipmark_models.oracle import Oracle
from chipmark_models.precision import product_type
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import WeightSpec, open_any, prepare_spec
from chipmark_models.weights.source import WeightRef

TINY = preset("tiny")
REF = WeightRef("synthetic", "tiny", None, 7)


def weight_spec(precision: str) -> dict:
    return WeightSpec(REF, precision, None).to_dict()


def rows(start: list[int], tokens: list[np.ndarray], slot=None, sample=True) -> Rows:
    n = len(tokens)
    return Rows(
        seq=np.arange(n, dtype=np.int32) + 10,
        slot=np.asarray(slot if slot is not None else range(n), dtype=np.int32),
        start=np.asarray(start, dtype=np.int32),
        length=np.asarray([len(t) for t in tokens], dtype=np.int32),
        tokens=np.concatenate(tokens).astype(np.int32),
        pages=None,
        sample=np.full(n, sample, dtype=bool),
    )


def plan(phase, the_rows: Rows) -> LaunchPlan:
    context = int((the_rows.start + the_rows.length).max())
    return LaunchPlan(phase, the_rows, the_rows.seq.size, int(the_rows.length.max()), context)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["fp32", "bf16", "fp16"])
def subject(request):
    backend = TorchBackend("cpu")
    loaded = backend.load(conformance_load(weight_spec(request.param), request.param, threads=1))
    # A decode step rounds its query and probabilities to 16 bits, a prefill does not.
    tolerance = {"fp32": 1e-3, "bf16": 0.15, "fp16": 0.02}[request.param]
    yield Subject(backend, loaded, vocab_size=TINY.vocab_size, tolerance=tolerance)
    backend.close()
    backend.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_torch_keeps_the_contract(subject, check):
    torch.set_num_threads(1)
    check(subject)


def load(precision="fp32", **more):
    backend = TorchBackend("cpu")
    fields = {"n_seqs": 2, "max_context": 96, "kv_tokens": 192, "max_chunk": 64, "threads": 1}
    spec = LoadSpec(model=weight_spec(precision), precision=precision, **(fields | more))
    return backend, backend.load(spec)


def test_what_is_computed_is_said():
    _, loaded = load("fp32")
    assert loaded.precision.words()["activation"] == "fp32"
    backend, loaded = load("bf16")
    assert loaded.precision.weights == loaded.precision.kv == "bf16"
    assert "bf16 into" in loaded.precision.words()["activation"]
    assert loaded.kv_bytes == 3 * 96 * 2 * TINY.n_layers * TINY.n_kv_heads * TINY.head_dim * 2
    assert loaded.details["products"].keys() >= {"qkv", "out", "gate_up", "down", "head"}
    assert json.loads(json.dumps(dict(backend.describe())))["torch"] == torch.__version__


def test_parity_with_the_oracle_goes_through_submit_and_wait():
    backend, _ = load()
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, TINY.vocab_size, 40), rng.integers(0, TINY.vocab_size, 30)
    weights = open_any(WeightSpec.from_dict(weight_spec("fp32")))
    expected = Oracle(TINY, weights.float32).logits([a, b])
    launches = (
        plan("prefill_cold", rows([0, 0], [a[:39], b[:29]])),
        plan("decode", rows([39, 29], [a[39:], b[29:]])),
    )
    backend.submit(Step(0, (), launches[:1], (10, 11)))
    first = backend.wait()
    backend.submit(Step(1, (), launches[1:], (11,)))
    second = backend.wait()
    assert np.abs(first.logits[10] - expected[0][38]).max() <= 1e-4
    assert np.abs(first.logits[11] - expected[1][28]).max() <= 1e-4
    assert set(second.logits) == {11}
    assert second.logits[11].dtype == np.float32
    assert np.abs(second.logits[11] - expected[1][29]).max() <= 1e-4
    assert second.sampled.tolist() == [int(e[-1].argmax()) for e in expected]
    assert second.h2d_bytes > 0
    assert second.d2h_bytes > 4 * TINY.vocab_size


def test_copies_are_launches_of_phase_kv_and_their_bytes_are_counted():
    backend, _ = load()
    ids = np.arange(20)
    backend.submit(Step(0, (), (plan("prefill_cold", rows([0], [ids])),)))
    backend.wait()
    ops = (KvOp("copy", 0, 2, 12, 10), KvOp("drop", 1, -1, 0, 10), KvOp("copy", 2, 1, 12, 10))
    appended = rows([12], [ids[12:]], slot=[1], sample=False)
    backend.submit(Step(1, ops, (plan("prefill_append", appended),)))
    done = backend.wait()
    assert [(x.phase, x.plan) for x in done.launches] == [
        ("kv", -1),
        ("kv", -1),
        ("prefill_append", 0),
    ]
    per_token = 2 * TINY.n_layers * TINY.n_kv_heads * TINY.head_dim * 4
    assert done.kv_copied_bytes == 2 * 12 * per_token
    assert done.sampled.size == 0


def test_only_one_step_may_be_in_flight():
    backend, _ = load()
    step = Step(0, (), (plan("prefill_cold", rows([0], [np.arange(4)])),))
    with pytest.raises(ContractError, match="no step"):
        backend.wait()
    backend.submit(step)
    with pytest.raises(ContractError, match="in flight"):
        backend.submit(step)
    backend.close()
    with pytest.raises(ContractError, match="not loaded"):
        backend.submit(step)


def test_roofs_are_measured_and_plausible():
    backend, _ = load()
    assert 1e8 < backend.probe_read(8_000_000) < 1e13
    assert 1e8 < backend.probe_matmul("fp32") < 1e16
    with pytest.raises(UnknownNameError, match="fp8"):
        backend.probe_matmul("fp8")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_rate_of_what_products_take_can_be_probed(precision):
    backend, loaded = load(precision)
    assert 1e8 < backend.probe_matmul(product_type(loaded.precision.linear_input)) < 1e16


def test_an_unknown_device_option_or_operation_is_refused_by_name():
    with pytest.raises(UnknownNameError, match="did you mean cuda"):
        TorchBackend("cudda")
    with pytest.raises(UnknownNameError, match="cpu"):
        TorchBackend("cpu:x")
    with pytest.raises(UnknownNameError, match="ops"):
        load(options={"op": {}})
    with pytest.raises(UnknownNameError, match="qkv"):
        load(options={"ops": {"qvk": "torch"}})


@pytest.mark.parametrize(("device", "package"), [("npu", "torch_npu"), ("mlu:0", "torch_mlu")])
def test_a_missing_plug_in_is_named(device, package):
    with pytest.raises(MissingBackendError, match=package):
        TorchBackend(device)


def test_a_device_that_this_torch_does_not_see_is_said():
    if torch.xpu.is_available():
        pytest.skip("there is an xpu here")
    with pytest.raises(MissingBackendError, match="xpu"):
        TorchBackend("xpu")


def test_a_vendors_plug_in_is_imported_and_its_device_used(monkeypatch):
    fake = types.ModuleType("torch_gcu")
    fake.__version__ = "1.0"
    monkeypatch.setitem(sys.modules, "torch_gcu", fake)
    present = types.SimpleNamespace(is_available=lambda: True, device_count=lambda: 1)
    monkeypatch.setattr(torch, "gcu", present, raising=False)
    monkeypatch.setattr(torch, "device", lambda name: name)
    assert devices.open_device("gcu") == "gcu:0"
    with pytest.raises(UnknownNameError, match="gcu:0"):
        devices.open_device("gcu:3")


NEED = Need(
    weight_bytes=1_000_000_000,
    bytes_per_token=1_000,
    n_seqs=4,
    reserved=1,
    max_context=100_000,
    model_context=200_000,
)


def test_what_does_not_fit_says_what_would():
    check_fit(NEED, 1_900_000_000, "torch:cpu")
    check_fit(NEED, None, "torch:cpu")
    with pytest.raises(DoesNotFitError) as caught:
        check_fit(NEED, 1_600_000_000, "torch:cpu")
    assert "60000 tokens at 4 sequences" in caught.value.hint
    assert "2 sequences at 100000 tokens" in caught.value.hint
    with pytest.raises(DoesNotFitError, match="smaller model"):
        check_fit(NEED, 1_000_000_000, "torch:cpu")


def test_a_context_beyond_the_models_is_refused_before_anything_is_allocated():
    with pytest.raises(DoesNotFitError, match="131072"):
        load(max_context=200_000)
    with pytest.raises(DoesNotFitError, match="would fit"):
        load(max_context=131_072, n_seqs=100_000)


def test_available_memory_is_read_from_the_kernels_table(tmp_path):
    table = tmp_path / "meminfo"
    table.write_text("MemTotal: 16 kB\nMemAvailable:    3 kB\n")
    assert host.available_memory(str(table)) == 3072
    assert host.available_memory(str(tmp_path / "none")) is None
    assert host.physical_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_memory_that_was_freed_does_not_stay_resident():
    program = (
        "import numpy as np\n"
        "from chipmark.backends.host import return_free_memory\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        # Blocks too small to be mapped by themselves, the last of which holds the heap's top.
        "held = [np.ones(12_000, np.uint8) for _ in range(5_000)]\n"
        "del held[:-1]\n"
        "before = resident()\n"
        "assert return_free_memory()\n"
        "print(before - resident())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 30_000_000


def test_a_model_whose_products_are_small_takes_one_thread_and_its_roof_all(monkeypatch):
    module = "chipmark.backends.torch_device"
    monkeypatch.setattr(f"{module}.backend.chosen_threads", lambda: 2)
    monkeypatch.setattr(f"{module}.threads.chosen_threads", lambda: 2)
    seen = []
    monkeypatch.setattr(
        f"{module}.roofs.read_bandwidth", lambda *_: seen.append(torch.get_num_threads()) or 1.0
    )
    for asked, taken, roof in ((0, 1, 2), (2, 2, 2), (1, 1, 1)):
        backend, loaded = load(threads=asked)
        assert loaded.details["threads"] == backend.describe()["threads"] == taken
        backend.probe_read(1 << 20)
        assert seen.pop() == roof
        assert torch.get_num_threads() == taken
    assert threads_for(preset("smollm2-135m"), 2) == 2
    assert threads_for(TINY, 4) == 1


def test_prepared_weights_of_another_precision_are_refused(tmp_path):
    spec = prepare_spec(REF, "bf16", tmp_path).to_dict()
    backend = TorchBackend("cpu")
    with pytest.raises(UsageError, match="bf16"):
        backend.load(LoadSpec(spec, "fp32", 1, 64, 64, 32, threads=1))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_smollm2_answers_paris_token_by_token(precision):
    from chipmark_models.chat_template import render_chat
    from chipmark_models.pull import installed, resolve_model
    from chipmark_models.tokenizer import open_tokenizer

    for package in ("gguf", "tokenizers", "jinja2"):
        pytest.importorskip(package)
    if installed("smollm2-135m") is None:
        pytest.skip("smollm2-135m is not pulled: chipmark models pull smollm2-135m")
    ref = resolve_model("smollm2-135m")
    tokenizer = open_tokenizer(ref)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = np.array(
        tokenizer.encode(render_chat(tokenizer, question, add_generation_prompt=True))
    )
    backend = TorchBackend("cpu")
    spec = prepare_spec(ref, precision).to_dict()
    backend.load(LoadSpec(spec, precision, 1, 64, 64, 64, threads=1))
    backend.submit(Step(0, (), (plan("prefill_cold", rows([0], [prompt])),)))
    answer = backend.wait().sampled.tolist()
    while len(answer) < 8:
        at = len(prompt) + len(answer) - 1
        decode = plan("decode", rows([at], [np.array(answer[-1:])]))
        backend.submit(Step(len(answer), (), (decode,)))
        answer += backend.wait().sampled.tolist()
    assert tokenizer.decode(answer, skip_special=True) == "The capital of France is Paris."


def test_probe_without_memory_is_none_and_the_cell_goes_on(monkeypatch):
    class OutOfMemoryError(RuntimeError):
        pass

    def full(*_, **__):
        raise OutOfMemoryError("tried to allocate 44 GiB")

    backend, _ = load()
    monkeypatch.setattr(torch, "ones", full)
    monkeypatch.setattr(torch, "randn", full)
    assert backend.probe_read(1 << 20) is None
    assert backend.probe_matmul("fp32") is None


def test_probes_buffer_is_a_safe_part_of_what_is_free(monkeypatch):
    backend, _ = load()
    monkeypatch.setattr("chipmark.backends.torch_device.roofs.free_bytes", lambda _: 1 << 30)
    assert backend.probe_bytes(1 << 20) == 1 << 20
    assert backend.probe_bytes(8 << 30) == 1 << 29


def test_a_device_is_known_by_uuid_address_and_cache(monkeypatch):
    found = types.SimpleNamespace(
        name="NVIDIA H200",
        uuid="aaaa-bbbb",
        pci_domain_id=0,
        pci_bus_id=0x17,
        pci_device_id=0,
        L2_cache_size=60 << 20,
    )
    module = types.SimpleNamespace(get_device_properties=lambda _: found)
    monkeypatch.setattr(torch, "cuda", module)
    assert devices.hardware(types.SimpleNamespace(type="cuda")) == {
        "name": "NVIDIA H200",
        "uuid": "aaaa-bbbb",
        "pci": "00000000:17:00.0",
        "l2_cache_bytes": 60 << 20,
    }
    found.__dict__.clear()
    assert devices.hardware(types.SimpleNamespace(type="cuda")) == {}
    assert devices.hardware(torch.device("cpu")) == {}
