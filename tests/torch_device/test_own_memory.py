"""A torch device off the host, with memory of its own: contract, fallback, a cell."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

SILU = "silu.out"

DEVICE = """
import json, torch, torch_ownmem
a = torch.arange(12.0).view(3, 4)
with torch.inference_mode():
    b = a.to("ownmem")
    sent, fetched = torch_ownmem.bytes_across()
    product = b @ b.t()
    between = torch_ownmem.bytes_across()
    equal = torch.equal(product.cpu(), a @ a.t())
print(json.dumps([
    sent, fetched, between == (sent, fetched), equal,
    torch.ops.ownmem.address(b) >> 55 & 1, torch.ops.ownmem.address(a) >> 55 & 1,
]))
"""


def test_off_host_memory_is_reached_by_counted_copies_alone(ownmem, told):
    sent, fetched, quiet, equal, marked, plain = told(DEVICE, ownmem())
    assert (sent, fetched) == (48, 0)
    assert quiet  # a product moves nothing across
    assert equal
    assert (marked, plain) == (1, 0)  # its addresses are none of the host's


LOAD = """
import dataclasses, json
from chipmark.backends.torch_device.backend import TorchBackend
from chipmark.engine.conformance import CHECKS, Subject, conformance_load
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import WeightSpec
from chipmark_models.weights.source import WeightRef
model = WeightSpec(WeightRef("synthetic", "tiny", None, 7), "fp32", None).to_dict()
backend = TorchBackend("ownmem")
loaded = backend.load(conformance_load(model, "fp32", threads=1))
peak = backend.peak_device_bytes()
if CHECKED:
    subject = Subject(backend, loaded, vocab_size=preset("tiny").vocab_size, tolerance=1e-3)
    for check in CHECKS:
        check(subject)
backend.close()
print(json.dumps({
    "coverage": loaded.ep_coverage,
    "operators": [dataclasses.asdict(left) for left in loaded.host_operators],
    "notes": [list(map(str, note)) for note in loaded.notes],
    "peak": peak, "kv": loaded.kv_bytes, "weights": loaded.weight_bytes,
    "described": dict(backend.describe()),
}))
"""


def test_off_host_device_keeps_the_contract_and_takes_all(ownmem, told):
    found = told(f"CHECKED = True{LOAD}", ownmem())
    assert found["coverage"] == 1.0
    assert found["operators"] == []
    assert found["peak"] >= found["weights"] + found["kv"]
    assert found["notes"] == [["unverified_provider", "torch:ownmem: unverified on hardware"]]
    assert found["described"]["torch_device"] == "ownmem:0"


@pytest.mark.parametrize(
    ("operators", "name"),
    [((SILU,), "aten::silu"), (("mm.out",), "aten::mm"), (("index_select",), "aten::index_select")],
)
def test_fallback_is_found_by_the_profiler_and_named(ownmem, told, operators, name):
    found = told(f"CHECKED = False{LOAD}", ownmem(*operators))
    (left,) = found["operators"]
    assert left["name"] == name
    assert left["count"] > 1
    share = max(left["flops_share"], left["bytes_share"])
    assert found["coverage"] == pytest.approx(1 - share)
    assert found["coverage"] < 0.99
    assert (left["flops_share"] > 0.5) == (name == "aten::mm")


BLIND = """
import json, torch, torch_ownmem
from chipmark.backends.torch_device import coverage
from chipmark.backends.torch_device.devices import open_device
device = torch.device("ownmem:0")
a = torch.ones(64, 64, device=device)
coverage._COPIES.clear()
print(json.dumps(coverage.coverage(device, [lambda: a @ a]).share))
"""


def test_fallback_is_unknown_where_the_profiler_does_not_see_the_devices_copies(ownmem, told):
    assert told(BLIND, ownmem()) is None


def test_off_host_index_that_is_not_there_names_those_that_are(ownmem, told):
    program = """
import json
from chipmark.backends.torch_device.devices import open_device
from chipmark.errors import UnknownNameError
try:
    open_device("ownmem:3")
except UnknownNameError as error:
    print(json.dumps([error.message, error.hint, error.exit_code]))
"""
    message, hint, code = told(program, ownmem())
    assert "ownmem:3" in message
    assert "ownmem:0" in f"{message} {hint}"
    assert code == 2


@pytest.mark.parametrize("fallback", [(), (SILU,)], ids=["all", "one"])
def test_off_host_cell_passes_parity_and_a_fallback_bars_its_rank(ownmem, tmp_path, fallback):
    out = tmp_path / "run"
    small = ["-m", "tiny@synthetic", "--precision", "fp32", "--scale", "1/64,1/64,0"]
    small += ["--sessions", "2", "--concurrency", "2", "--repeats", "1", "--idle-s", "0"]
    chipmark = [sys.executable, "-m", "chipmark"]
    environment = ownmem(*fallback)
    run = [*chipmark, "run", "quick", "-b", "torch:ownmem", *small, "-o", str(out)]
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    printed = " ".join(done.stdout.split())
    shown = [*chipmark, "table", str(out), "--format", "json"]
    table = subprocess.run(shown, capture_output=True, text=True, env=environment, check=True)
    (row,) = json.loads(table.stdout)
    notes = {note["code"]: note["text"] for note in row["notes"]}
    assert row["parity"] == "pass"
    assert row["peak_device_bytes"] > 1_000_000
    assert "unverified on hardware" in notes["unverified_provider"]
    if fallback:
        assert row["ep_coverage"] < 0.99
        assert "aten::silu" in notes["ep_coverage"]
        assert f"ep_coverage {row['ep_coverage']:.3g} is below 0.99" in printed
    else:
        assert row["ep_coverage"] == 1.0
        assert "ep_coverage" not in notes
        assert "is below 0.99" not in printed
