"""`chipmark providers` and `chipmark providers probe`."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path

import pytest

from chipmark.backends.device_scan import DeviceHere
from chipmark.cell import provider_matrix, provider_probe

needs_ort = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"
)
SMALL = ("-m", "tiny@synthetic", "--context", "512")


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """What is looked up, and under which interpreter; `cpu` is here, `cann` crashes."""
    asked: list[tuple[list[str], str]] = []

    def scan(names, run):
        asked.append((list(names), run.keywords["python"]))
        said = {"cpu": (True, "a CPU"), "cann": (False, "looking for it ended with -11")}
        return [DeviceHere(name, *said.get(name, (False, "it is missing"))) for name in names]

    monkeypatch.setattr(provider_matrix.provider_scan, "scan", scan)
    monkeypatch.setattr(provider_matrix.device_scan, "scan", scan)
    return asked


def test_every_provider_is_here_or_says_how_to_get_it(chipmark, looked_up) -> None:
    answer = chipmark("providers", "--format", "json")
    assert answer.code == 0
    rows = {row["backend"]: row for row in answer.json}
    assert {"ort:cpu", "ort:cann", "ort:qnn", "torch:cpu", "torch:npu", "triton:cuda"} <= set(rows)
    assert rows["ort:cpu"] == {
        "backend": "ort:cpu", "here": True, "text": "a CPU", "remedy": "", "tried": True,
        "precisions": rows["ort:cpu"]["precisions"], "graph": "contrib", "origin": "",
    }  # fmt: skip
    assert rows["ort:cann"]["text"] == "looking for it ended with -11"
    assert "numpy<2" in rows["ort:cann"]["remedy"]
    assert not rows["ort:cann"]["tried"]
    assert "fp16" in rows["ort:cann"]["precisions"]
    assert rows["torch:cpu"]["tried"]
    assert not rows["torch:cuda"]["tried"]
    assert rows["torch:npu"]["remedy"]
    assert all(
        row["remedy"] for row in rows.values() if not row["here"] and "ort:" in row["backend"]
    )
    # Each provider in a process of its own: what one registers, another does not see.
    assert ["cann"] in [names for names, _ in looked_up]
    text = chipmark("providers").out
    assert "how to get it" in text
    assert "tried on" in text


def test_a_file_of_the_users_own_is_among_them_and_gone_afterwards(
    chipmark, looked_up, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[mychip]\nmodule = "ep_mychip"\ninstall = "ask the vendor"\n')
    rows = {
        r["backend"]: r for r in chipmark("providers", "--providers", path, "--format", "json").json
    }
    assert rows["ort:mychip"]["remedy"] == "ask the vendor"
    assert rows["ort:mychip"]["origin"].startswith("the user's mine.toml, sha256 ")
    assert "ort:mychip" not in {
        r["backend"] for r in chipmark("providers", "--format", "json").json
    }
    path.write_text("[mychip]\nmodul = 1\n")
    answer = chipmark("providers", "--providers", path)
    assert answer.code == 2
    assert "did you mean module" in answer.err
    assert str(path) in answer.err


def test_another_interpreter_is_the_one_that_looks(chipmark, looked_up, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")  # it has none of the plug-ins
    python.chmod(0o755)
    rows = chipmark("providers", "--python", python, "--format", "json").json
    assert {python for _, python in looked_up} == {str(python)}
    assert chipmark("providers", "--python", tmp_path / "missing").code == 2
    assert not [row for row in rows if row["backend"].startswith("triton")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ort:openvno",), "did you mean openvino"),
        (("torch:cdua",), "did you mean cuda"),
        (("otr:cpu",), "did you mean ort:cpu"),
        (("ort:cpu", "--option", "ort:grph=plain"), "did you mean graph"),
        (("ort:cpu", "--precision", "fp31"), "fp32"),
        (("ort:cpu", "--option", "torch:ops=1"), "kind of --option"),
        (("ort:cpu", "--python", "/nowhere/python"), "not an interpreter"),
        (("sim:golden",), "no provider to be probed"),
        (("ort:cpu", "--format", "jsn"), "json"),
    ],
)
def test_unknown_names_end_with_2_before_weights_are_prepared(
    chipmark, monkeypatch, arguments, said
) -> None:
    def prepared(*_: object) -> None:
        raise AssertionError("weights were prepared")

    monkeypatch.setattr(provider_probe, "prepare_model", prepared)
    answer = chipmark("providers", "probe", *arguments)
    assert answer.code == 2
    assert said in answer.err


@needs_ort
@pytest.mark.long
def test_a_probe_shows_what_is_taken_bound_compiled_and_right(chipmark) -> None:
    answer = chipmark("providers", "probe", "ort:cpu", *SMALL, "--format", "json")
    assert answer.code == 0, answer.err
    found = answer.json
    assert found["failure"] is None
    assert found["load"]["device"].startswith("CPUExecutionProvider of onnxruntime")
    assert found["load"]["details"]["binding"] == "shared"
    assert found["load"]["weight_bytes"] == 734_976
    assert found["load"]["kv_bytes"] > 0
    assert found["parity"]["verdict"] in ("pass", "unchecked")  # without torch there is no oracle
    levels = {level["graph"]: level for level in found["levels"]}
    assert {"plain", "contrib"} <= set(levels)
    for level in levels.values():
        assert level["taken"] == "whole"
        assert level["compile_s"] > 0
    shown = chipmark("providers", "probe", "ort:cpu", *SMALL, "--no-parity")
    assert shown.code == 0
    for text in ("KV is bound      shared", "left to the CPU  nothing", "contrib", "plain"):
        assert text in shown.out


@needs_ort
def test_a_library_that_is_none_ends_with_4_and_the_loaders_words(chipmark, tmp_path: Path) -> None:
    library = tmp_path / "libtext.so"
    library.write_text("not a library")
    answer = chipmark("providers", "probe", f"ort:{library}", *SMALL, "--no-parity")
    assert answer.code == 4
    assert "file too short" in answer.err or "invalid ELF header" in answer.err
    assert "not a shared library" in answer.err
    assert "as above" in answer.out


_DYING = """
import os, signal, sys
import chipmark.backends.ort.loading as loading
before = loading.load

def load(spec, located):
    if spec.options.get("graph") == "plain":
        sys.stderr.write("mychip: the compiler gave up\\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return before(spec, located)

loading.load = load
"""


@needs_ort
def test_a_level_whose_child_dies_costs_that_level_alone(
    chipmark, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_DYING)
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), *([before] if before else [])])
    )
    command = ("providers", "probe", "ort:cpu", *SMALL, "--no-parity")
    found = chipmark(*command, "--format", "json")
    assert found.code == 0
    levels = {level["graph"]: level for level in found.json["levels"]}
    assert levels["contrib"]["taken"] == "whole"
    assert levels["plain"]["taken"] == "refused"
    assert "SIGKILL" in levels["plain"]["words"]
    own = chipmark(*command, "--option", "ort:graph=plain")
    assert own.code == 4
    assert "mychip: the compiler gave up" in own.err


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_a_torch_device_has_no_levels(chipmark) -> None:
    answer = chipmark("providers", "probe", "torch:cpu", *SMALL, "--no-parity", "--format", "json")
    assert answer.code == 0, answer.err
    assert answer.json["levels"] == []
    assert answer.json["load"]["graph"] == "none"


def test_operators_left_to_the_cpu_and_compile_times_are_listed(
    chipmark, monkeypatch, load_answer
) -> None:
    from chipmark.cell.protocol import Remark, Words
    from chipmark.engine.contract import HostOperator
    from chipmark.results.manifest import ParityResult

    answer = dataclasses.replace(
        load_answer,
        compile_s=65.25,
        precision=Words("fp16", "fp16", "fp16", "provider"),
        graph="plain",
        ep_coverage=0.75,
        device="MyChip",
        details={
            "binding": "device",
            "compile": [
                {"batch": 1, "chunk": 64, "context": None, "seconds": 61.5},
                {"batch": 1, "chunk": 1, "context": 512, "seconds": 3.75},
                "a word that is not a bucket",
            ],
        },
        notes=(Remark("ep_coverage", "MyEP took 75% of the work"),),
        host_operators=(HostOperator("Softmax", 30, 0.001, 0.25),),
        emulated="MyChip on x86-64",
    )

    def probe(request: provider_probe.ProbeRequest, _: object) -> provider_probe.ProviderProbe:
        own = provider_probe.Attempt("plain", answer)
        refused = provider_probe.Attempt("contrib", None, "load: no such domain")
        parity = ParityResult(verdict="pass", rms_rel=1e-3, tolerance_rms_rel=1e-2)
        return provider_probe.ProviderProbe(request, own, parity, (own, refused))

    monkeypatch.setattr(provider_probe, "probe", probe)
    shown = chipmark("providers", "probe", "ort:cpu")
    assert shown.code == 0
    lines = [line.split() for line in shown.out.splitlines()]
    for line in (
        "left to the CPU Softmax x30",
        "emulated MyChip on x86-64",
        "KV is bound device",
        "on the device 75.00% of the work",
        "plain part 75.00% 1.00 65.25 MyEP took 75% of the work",
        "contrib refused - - - load: no such domain",
        "Softmax 30 0.10% 25.00%",
        "1 64 any 61.50",
        "1 1 512 3.75",
    ):
        assert line.split() in lines
    told = chipmark("providers", "probe", "ort:cpu", "--format", "json").json
    assert told["levels"][0]["host_operators"][0]["name"] == "Softmax"
    assert told["load"]["emulated"] == "MyChip on x86-64"


def test_parity_that_fails_ends_with_1(chipmark, monkeypatch) -> None:
    from chipmark.results.manifest import ParityResult

    def probe(request: provider_probe.ProbeRequest, _: object) -> provider_probe.ProviderProbe:
        failed = ParityResult(verdict="fail", reason="rms 5e-1 over 1e-3")
        return provider_probe.ProviderProbe(
            request, provider_probe.Attempt("plain", None), failed, ()
        )

    monkeypatch.setattr(provider_probe, "probe", probe)
    answer = chipmark("providers", "probe", "ort:cpu")
    assert answer.code == 1
    assert "rms 5e-1 over 1e-3" in answer.err
