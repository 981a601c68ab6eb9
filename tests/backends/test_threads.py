"""OMP_NUM_THREADS reaches every CPU backend, so that `ab --b-env OMP_NUM_THREADS=1` compares."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from chipmark.backends import host


@pytest.mark.parametrize(
    ("value", "threads"),
    [("1", 1), ("3", 3), ("64", 8), (" 2 ", 2), ("3,2", 3), ("0", 8), ("-1", 8), ("x", 8), ("", 8)],
)
def test_the_smaller_of_the_cores_and_what_is_asked_for(monkeypatch, value, threads):
    monkeypatch.setattr(host, "physical_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert host.chosen_threads() == threads


def test_without_the_variable_the_cores_are_taken(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert host.chosen_threads() == host.physical_cores()


@pytest.mark.parametrize("backend", ["torch", "ort"])
@pytest.mark.parametrize("asked", ["1", None])
def test_a_backend_takes_the_threads_that_its_environment_names(tmp_path, backend, asked):
    pytest.importorskip("torch" if backend == "torch" else "onnxruntime")
    if host.physical_cores() < 2:
        pytest.skip("one core: one thread either way")
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    if asked is not None:
        environment["OMP_NUM_THREADS"] = asked
    # In the process of a cell the variable is there before any library is imported.
    done = subprocess.run(
        [sys.executable, "-c", LOAD[backend], str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == (1 if asked else host.physical_cores())


_SMALL = """
import json, sys
from pathlib import Path
from chipmark.engine.contract import LoadSpec
from chipmark_models.presets import preset
"""

LOAD = {
    # Of a model whose products are worth a second thread; loading it would take seconds.
    "torch": _SMALL
    + """
from chipmark.backends.torch_device.threads import threads_for
print(json.dumps(threads_for(preset("smollm2-135m"), 2)))
""",
    "ort": _SMALL
    + """
from chipmark.backends.ort.backend import OrtBackend
from chipmark_models.weights.prepared import prepare_spec
from chipmark_models.weights.source import WeightRef
folder = Path(sys.argv[1])
spec = prepare_spec(WeightRef("synthetic", "tiny", None, 7), "fp32", folder).to_dict()
backend = OrtBackend("cpu")
loaded = backend.load(LoadSpec(spec, "fp32", 1, 64, 64, 32, scratch=str(folder)))
print(json.dumps(loaded.details["threads"]))
backend.close()
""",
}
