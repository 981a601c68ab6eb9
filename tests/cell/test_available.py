"""What a suite without `-b` tries: of built-in and of other plug-ins, on machines of all kinds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import pytest

from chipmark import registry
from chipmark.cell.available import Offer, candidates

TORCH = "pip install 'chipmark[torch]'"


@dataclass
class Imagined:
    """A machine with these modules, devices and capability; OpenVINO lists nothing unless told."""

    modules: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    capability: tuple[int, int] | None = None
    openvino: dict[str, object] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def has_module(self, name: str) -> bool:
        return name in self.modules

    def has_device(self, kind: str) -> bool:
        return kind in self.devices

    def cuda_capability(self) -> tuple[int, int] | None:
        return self.capability

    def run_module(
        self, module: str, *arguments: str, limit_s: float
    ) -> subprocess.CompletedProcess[str]:
        self.asked += [module, *arguments]
        told = {"name": "openvino", "here": True, "text": "a CPU"} | self.openvino
        line = "chipmark-device " + json.dumps(told)
        return subprocess.CompletedProcess([], 0, line, "")


def offers(machine: Imagined) -> dict[str, Offer]:
    return {offer.backend: offer for offer in candidates(machine)}


def test_what_is_left_out_has_a_reason_and_a_remedy() -> None:
    found = offers(Imagined(("torch",)))
    assert found["torch:cpu"] == Offer("torch:cpu")
    assert found["ort:cpu"].missing == "onnxruntime is not installed"
    assert "pip install" in found["ort:openvino"].remedy
    assert all(offer.missing and offer.remedy for offer in candidates(Imagined()))


def test_the_order_is_that_of_measurement() -> None:
    order = ["torch:cpu", "ort:cpu", "ort:openvino", "triton:cuda", "torch:cuda"]
    assert [offer.backend for offer in candidates(Imagined())] == order


def test_a_whole_machine_lacks_nothing() -> None:
    modules = ("torch", "triton", "onnxruntime", "onnxruntime_ep_openvino")
    machine = Imagined(modules, ("cuda",), (9, 0))
    assert [offer.missing for offer in candidates(machine)] == [""] * 5
    assert machine.asked == ["chipmark.backends.ort.provider_scan", "openvino"]


def test_a_provider_that_lists_no_device_is_left_out_in_its_own_words() -> None:
    modules = ("onnxruntime", "onnxruntime_ep_openvino")
    refused = {"here": False, "text": "lists no device", "remedy": "another CPU"}
    found = offers(Imagined(modules, openvino=refused))
    assert found["ort:openvino"] == Offer("ort:openvino", "lists no device", "another CPU")


@pytest.mark.parametrize(
    ("machine", "missing"),
    [
        (Imagined(("torch",)), "triton is not installed"),
        (Imagined(("torch", "triton")), "no card that torch calls cuda is here"),
        (Imagined(("torch", "triton"), ("cuda",), (7, 5)), "compute capability 7.5; the kernels"),
        (Imagined(("torch", "triton"), ("cuda",)), ""),
    ],
)
def test_kernels_need_triton_a_card_and_its_capability(machine: Imagined, missing: str) -> None:
    found = offers(machine)["triton:cuda"].missing
    assert found.startswith(missing) if missing else not found


def test_a_vendors_own_torch_device_is_offered_where_it_is_seen() -> None:
    assert "torch:npu" not in offers(Imagined(("torch", "torch_npu")))
    here = offers(Imagined(("torch", "torch_npu"), ("npu",)))
    assert here["torch:npu"] == Offer("torch:npu")
    lacking = offers(Imagined(("torch",), ("npu", "mlu")))
    assert lacking["torch:npu"].missing == "torch_npu is not installed"
    assert "torch_mlu" in lacking["torch:mlu"].remedy
    assert offers(Imagined((), ("musa",)))["torch:musa"].missing == "torch is not installed"


Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution with one backend on the path: its name, and its module's source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, source: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (tmp_path / f"{name}_module.py").write_text(dedent(source))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-wheel\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[chipmark.backends]\n{name} = {name}_module:Backend\n"
        )
        sys.modules.pop(f"{name}_module", None)
        registry._known.cache_clear()

    yield put
    registry._known.cache_clear()


VENDOR = """
from chipmark.engine.contract import BackendDefaults
from chipmark.engine.machine import Candidate

class Backend(BackendDefaults):
    @staticmethod
    def candidates(machine):
        here = machine.has_device("dcu")
        return [Candidate("0"), Candidate("1", "" if here else "one card", "plug another in")]
"""


def test_another_distributions_backend_is_offered_behind_the_built_in_ones(
    install: Install,
) -> None:
    install("vendor", VENDOR)
    assert candidates(Imagined())[5:] == [
        Offer("vendor:0"),
        Offer("vendor:1", "one card", "plug another in"),
    ]
    assert offers(Imagined((), ("dcu",)))["vendor:1"] == Offer("vendor:1", "", "plug another in")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_package_of_a_vendor", "no_such_package_of_a_vendor"),
        ("1 / 0", "ZeroDivisionError"),
        ("Backend = object()", "has no 'needs_weights_file'"),
        ("class Backend:\n    needs_weights_file = False", "has no 'precisions'"),
        (VENDOR.replace("here = ", "raise RuntimeError('no driver') #"), "no driver"),
        (VENDOR.replace("return [", "return ['x'] and ['y'] or ["), "not Candidate"),
    ],
)
def test_a_broken_plugin_is_named_and_left_out(install: Install, source: str, said: str) -> None:
    install("broken", source)
    *built_in, last = candidates(Imagined())
    assert len(built_in) == 5
    assert last.backend == "broken"
    assert said in last.missing
    assert last.remedy
    assert "chipmark[" not in last.remedy


def test_looking_imports_nothing_heavy() -> None:
    code = (
        "import sys; from chipmark.cell.available import ThisMachine, candidates; "
        "m = ThisMachine(); m.run_module = None; m.has_module = lambda name: False; candidates(m); "
        "print(*{m.partition('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "triton", "onnxruntime", "onnx", "pynvml"}
