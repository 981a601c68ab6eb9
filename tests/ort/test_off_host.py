"""A provider with memory of its own, really run: the WebGPU plug-in on a software Vulkan device.

Each test needs `webgpu_device.py` beside this file to have made the device ready, and is skipped
with the reason where it cannot. The plug-in is in child processes only.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

_CELLS = """
[offhost]
title = "one small cell on a device with memory of its own and on the CPU"
repeats = 1
limit_s = 900
[[offhost.cells]]
workload = "agent-code-32k"
scale = "{scale},1/64,0"
sessions = 1
model = "tiny"
precision = "fp32"
backend = {backends}
concurrency = 1
scenario = "equal_n"
"""


def beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def webgpu():
    """The environment of a process that sees the device."""
    device = beside("webgpu_device")
    try:
        return os.environ | device.webgpu_environment()
    except device.NotHereError as why:
        pytest.skip(f"no device with memory of its own: {why}")


def run_cells(env, folder, scale, backends):
    folder.mkdir()
    suite = folder / "cells.toml"
    suite.write_text(_CELLS.format(scale=scale, backends=json.dumps(backends)))
    command = [sys.executable, "-m", "chipmark", "run", str(suite), "-o", str(folder / "out")]
    done = subprocess.run(
        [*command, "--idle-s", "0"],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return done, folder / "out"


def table(env, out):
    command = [sys.executable, "-m", "chipmark", "table", str(out), "--format", "json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return {row["backend"]: row for row in json.loads(done.stdout)}


def steps_of(out):
    """(h2d, d2h, kv) bytes of steps by the launches' phases, of the one repeat of `ort:webgpu`."""
    import pandas as pd

    (repeat,) = out.glob("ort-webgpu-*/repeat-0")
    steps = pd.read_parquet(repeat / "steps.parquet").set_index("step")
    launches = pd.read_parquet(repeat / "launches.parquet")
    phases = launches.groupby("step")["phase"].agg(set)
    decode = 3  # its index in contract.PHASES
    alone = steps.loc[[step for step, found in phases.items() if found == {decode}]]
    return len(steps), alone[["h2d_bytes", "d2h_bytes", "kv_copied_bytes"]].to_numpy().tolist()


def test_a_cell_off_host_is_right_and_moves_no_kv(webgpu, tmp_path):
    done, out = run_cells(webgpu, tmp_path / "short", "1/128", ["ort:webgpu", "ort:cpu"])
    assert done.returncode == 0, done.stderr[-2000:]
    rows = table(webgpu, out)
    assert {row["parity"] for row in rows.values()} == {"pass"}
    row = rows["ort:webgpu"]
    assert row["ep_coverage"] >= 0.99
    assert row["mbu"] is None
    assert 0 < row["bus_bytes_per_step"] < 1536  # a token's K and V is 768 bytes
    assert rows["ort:cpu"]["bus_bytes_per_step"] is None
    assert row["graph"] == "plain"
    codes = {note["code"] for note in row["notes"]}
    assert not codes & {"cell_failed", "kv_over_bus", "logits_over_bus"}
    # Nodes of shapes and sizes, which are the host's, by name and with no share of the work.
    (left,) = [note["text"] for note in row["notes"] if note["code"] == "ep_coverage"]
    assert "Squeeze x" in left
    assert set(re.findall(r"x\d+ \((.*?)\)", left)) == {"0.00% of FLOPs, 0.00% of bytes"}
    (record,) = out.glob("ort-webgpu-*/record.json")
    load = json.loads(record.read_text())["manifest"]["load"]
    assert load["details"]["binding"] == "device"
    assert {shape["chunk"] for shape in load["details"]["compile"]} == {1, 32}
    n_steps, short = steps_of(out)
    assert n_steps <= 60
    # Contexts of twice the length: a decode step moves the same bytes, and none of KV.
    done, longer = run_cells(webgpu, tmp_path / "long", "1/64", ["ort:webgpu"])
    assert done.returncode == 0, done.stderr[-2000:]
    n_steps, long = steps_of(longer)
    assert n_steps <= 60
    plain = [moved for moved in (*short, *long) if moved[2] == 0]
    # A token, its place and those of its rows; the ids and values of the two largest logits. The
    # other steps are those of which the record holds logits, or where the cache grew.
    assert min(plain) == [4 + 4 + 2 * 2 * 3 * 8, 24, 0]
    for moved in (short, long):
        assert sum(step == min(plain) for step in moved) >= 0.6 * len(moved)


_ASSIGNED = """
import json, sys
from pathlib import Path
from chipmark.backends.ort.backend import OrtBackend
from chipmark.engine.contract import LoadSpec
spec, options = json.loads(sys.argv[1])
loaded = OrtBackend("webgpu").load(LoadSpec(
    model=spec, precision="fp32", scratch=".", n_seqs=2, max_context=128, kv_tokens=256,
    max_chunk=32, threads=2, options=options))
print(json.dumps({
    "coverage": loaded.ep_coverage, "binding": loaded.details["binding"],
    "sampling": loaded.sampling, "left": [one.name for one in loaded.host_operators],
    "shares": [max(one.flops_share, one.bytes_share) for one in loaded.host_operators],
    "shapes": [[s["batch"], s["chunk"], s["context"]] for s in loaded.details["compile"]]}))
"""


@pytest.mark.parametrize("static", [False, True])
def test_operators_off_host_and_on_the_cpu_are_told_by_name(
    static, webgpu, prepared, helpers, tmp_path
):
    spec, _ = prepared(helpers.preset("tiny"))
    given = json.dumps([spec, {"static": True} if static else {}])
    command = [sys.executable, "-c", _ASSIGNED, given]
    done = subprocess.run(
        command, env=webgpu, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["binding"], told["sampling"]) == ("device", "device")
    if static:
        assert (told["coverage"], told["left"]) == (1.0, [])
        assert sorted(told["shapes"]) == [[1, 64, 512], [2, 1, 512]]
    else:
        # Sizes of values, a few integers each: no work, and named all the same.
        assert told["coverage"] >= 0.99
        assert set(told["left"]) == {"Cast", "Concat", "Mul", "Slice", "Squeeze"}
        assert max(told["shares"]) < 0.01


def test_a_plug_in_that_does_not_start_has_no_fallback(webgpu, tmp_path):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    broken = webgpu | {"VK_ICD_FILENAMES": str(nothing), "LD_LIBRARY_PATH": str(nothing)}
    done, out = run_cells(broken, tmp_path / "cells", "1/128", ["ort:webgpu"])
    assert done.returncode == 4
    row = table(webgpu, out)["ort:webgpu"]
    assert (row["total_tok_s"], row["parity"], row["comparable"]) == (None, "unchecked", [])
    (text,) = [note["text"] for note in row["notes"] if note["code"] == "cell_failed"]
    assert "Failed to get a WebGPU adapter" in text
    assert "Conflicting session configuration" not in text
