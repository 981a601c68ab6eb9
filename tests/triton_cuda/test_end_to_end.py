"""`chipmark kernels models` and `scripts/results`, as far as they go without a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from chipmark.cell.suite import Overrides, load_suite
from chipmark.workload.generate import generate
from chipmark.workload.profile import load_profiles
from chipmark.workload.scale import scale_named

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests" / "results" / "data" / "record-1"


@pytest.fixture
def end_to_end(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.chdir(ROOT)
    return importlib.import_module("chipmark.kernel_bench.end_to_end")


def test_the_suite_covers_every_model_and_load(end_to_end):
    suite = load_suite(str(end_to_end.SUITE), Overrides(), ())
    models = {"qwen3-0.6b", "qwen3-1.7b", "llama-3.2-1b", "qwen3-8b"}
    assert {cell.model for cell in suite.cells} == {f"{m}@synthetic" for m in models}
    decode = {c.concurrency for c in suite.cells if "decode-1k" in c.workload}
    assert decode == {1, 8, 64}
    # Providers of ONNX Runtime come last, where their packages are installed.
    backends = [c.backend for c in suite.cells]
    own = backends.count("triton:cuda")
    assert backends[:own] == ["triton:cuda"] * own
    assert set(backends[own:]) <= {"ort:webgpu", "ort:ggml"}
    assert suite.repeats == 3
    assert suite.idle_once
    assert all(c.estimate_s for c in suite.cells)


def test_the_first_cells_are_those_of_most_value(end_to_end):
    suite = load_suite(str(end_to_end.SUITE), Overrides(), ())
    first = [(c.model.split("@")[0], Path(c.workload).stem, c.concurrency) for c in suite.cells[:7]]
    assert first == [
        ("qwen3-8b", "decode-1k", 1), ("qwen3-1.7b", "decode-1k", 1),
        ("qwen3-0.6b", "decode-1k", 1), ("llama-3.2-1b", "decode-1k", 1),
        ("qwen3-8b", "decode-1k", 64), ("qwen3-8b", "prefill-8k", 1),
        ("qwen3-8b", "append-512-at-16k", 1),
    ]  # fmt: skip


def test_the_plan_tells_each_cell_once_and_no_call_is_over_its_time(end_to_end, capsys):
    assert end_to_end.main(["--plan", "--budget-s", "530"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    rows = [row for row in rows if row[0].isdigit()]
    suite = load_suite(str(end_to_end.SUITE), Overrides(), ())
    assert sorted(int(row[0]) for row in rows) == list(range(1, len(suite.cells) + 1))
    assert rows[0][4] == "qwen3-8b@synthetic"
    calls = {row[1] for row in rows}
    assert all(sum(float(r[2]) for r in rows if r[1] == call) <= 501 for call in calls)
    assert end_to_end.main(["--plan", "--budget-s", "100"]) == 0
    assert "in no call of 70 s" in capsys.readouterr().out


def test_records_are_packed_while_a_run_is_under_way(end_to_end, tmp_path, monkeypatch):
    monkeypatch.setattr(end_to_end, "_LOOK_S", 0.1)
    out, file = tmp_path / "a-chip", tmp_path / "records.tar.gz"
    packer = end_to_end.Packer(out, file)
    code = (
        "import pathlib, shutil, sys, time\n"
        f"shutil.copytree({str(RECORD)!r}, {str(out / 'one')!r})\n"
        f"while not pathlib.Path({str(file)!r}).exists(): time.sleep(0.05)\n"
    )
    assert end_to_end.run_within([sys.executable, "-c", code], 30, None, packer.look) == (0, False)
    into = tmp_path / "results"
    assert end_to_end.main(["--unpack", str(file), "-o", str(into)]) == 0
    assert (into / "a-chip" / "one" / "record.json").is_file()


def test_any_device_needs_a_folder(end_to_end, capsys):
    assert end_to_end.main(["--any-device", "-b", "torch:cpu"]) == 2
    assert "name one: -o FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "turns"),
    [("decode-1k", [(1024, 128)]), ("prefill-8k", [(8192, 2)]),
     ("append-512-at-16k", [(16384, 2), (16898, 2)])],
)  # fmt: skip
def test_each_shape_is_the_one_in_its_name(end_to_end, name, turns):
    profiles = load_profiles(end_to_end.SUITE.parent / "profiles" / f"{name}.toml")
    trace = generate(profiles[name], scale_named("1,1,0"), 0, 2, 1000)
    for session in trace.sessions:
        assert [(t.prompt_tokens, t.n_out) for t in session.turns] == turns
        assert session.turns[-1].n_new in (1024, 8192, 512)


def test_the_suite_adds_repeats_only_within_the_budget_of_its_call(end_to_end):
    words = end_to_end.command(Path("results/x"), ["-m", "tiny@synthetic"], 431.6)
    assert words[words.index("--budget-s") + 1] == "432"
    assert words[-2:] == ["-m", "tiny@synthetic"]


def test_a_budget_ends_a_call_softly_and_in_time(end_to_end):
    code = "import time, sys\ntry: time.sleep(60)\nexcept KeyboardInterrupt: sys.exit(7)"
    begun = time.monotonic()
    assert end_to_end.run_within([sys.executable, "-c", code], 1.0) == (7, True)
    assert time.monotonic() - begun < 30
    assert end_to_end.run_within([sys.executable, "-c", "raise SystemExit(4)"], 30) == (4, False)


def test_an_interrupt_waits_for_whole_records_and_is_130(end_to_end, tmp_path):
    done = tmp_path / "done"
    code = (
        "import os, pathlib, signal, sys, time\n"
        "try:\n"
        f"    os.kill({os.getpid()}, signal.SIGINT)\n"
        "    time.sleep(60)\n"
        f"except KeyboardInterrupt: pathlib.Path({str(done)!r}).touch()\n"
    )
    assert end_to_end.run_within([sys.executable, "-c", code], 30) == (130, False)
    assert done.exists()


def test_folders_are_named_by_the_device(end_to_end):
    assert end_to_end.folder_of("NVIDIA H200") == "nvidia-h200"
    assert end_to_end.folder_of("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_it_says_so_and_exits_3(end_to_end, capsys):
    assert end_to_end.main([]) == 3
    assert "no CUDA device here" in capsys.readouterr().err


@pytest.fixture
def a_gpu(end_to_end, monkeypatch):
    """A device by name, and the command line that would have run with its environment."""
    ran = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")

    def run_within(argv, budget_s, env, look):
        code = "import carried_wheel; print(carried_wheel.WORD)"
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
        )
        ran.append((list(argv), done.stdout))
        return 0, False

    monkeypatch.setattr(end_to_end, "run_within", run_within)
    return ran


def _wheel(folder: Path, tag: str = "py3-none-any") -> None:
    folder.mkdir()
    info = "carried_wheel-1.dist-info"
    with zipfile.ZipFile(folder / f"carried_wheel-1-{tag}.whl", "w") as wheel:
        wheel.writestr("carried_wheel.py", "WORD = 'carried'\n")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: carried_wheel\nVersion: 1\n"
        )
        wheel.writestr(
            f"{info}/WHEEL",
            f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n",
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_wheels_from_a_folder_are_seen_by_both_processes_and_gone_afterwards(
    end_to_end, a_gpu, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(end_to_end, "NEEDS", {"carried_wheel": "carried-wheel"})
    assert end_to_end.main([]) == 2
    told = capsys.readouterr().err
    assert "lacks: carried-wheel (No module named 'carried_wheel')" in told
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"pip download carried-wheel --python-version {version} --platform manylinux" in told
    assert "--wheels FOLDER" in told
    assert a_gpu == []
    _wheel(tmp_path / "wheels")
    assert end_to_end.main(["--wheels", str(tmp_path / "wheels"), "--repeats", "1"]) == 0
    argv, seen = a_gpu[0]
    assert seen == "carried\n"
    assert argv[-2:] == ["--repeats", "1"]
    monkeypatch.delitem(sys.modules, "carried_wheel")
    assert importlib.util.find_spec("carried_wheel") is None


def test_a_folder_without_wheels_or_with_those_of_another_python_is_refused(
    end_to_end, a_gpu, tmp_path, capsys
):
    assert end_to_end.main(["--wheels", str(tmp_path)]) == 2
    assert "holds no wheel" in capsys.readouterr().err
    _wheel(tmp_path / "wheels", "cp27-cp27m-win32")
    assert end_to_end.main(["--wheels", str(tmp_path / "wheels")]) == 2
    assert "not a supported wheel" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_needs_no_package_that_only_reads_model_files(tmp_path):
    """What a GPU machine lacks raises when it is imported; a cell of synthetic weights runs."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("gguf", "safetensors", "tokenizers", "jinja2", "transformers", "onnx",
                 "onnxruntime", "ml_dtypes", "matplotlib"):  # fmt: skip
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not here')\n")
    command = [
        sys.executable, "-m", "chipmark.cli.main", "run", "quick", "-b", "torch:cpu", "-m",
        "tiny@synthetic", "-w", "agent-code-32k", "--scale", "1/256,1/64,0", "--sessions", "1",
        "--concurrency", "1", "--repeats", "1", "--precision", "fp32", "-o", str(tmp_path / "out"),
    ]  # fmt: skip
    roots = os.pathsep.join(str(ROOT / n) for n in ("harness", "models", "kernels"))
    env = dict(os.environ) | {"PYTHONPATH": f"{blocked}{os.pathsep}{roots}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").rglob("*.json"))


def test_the_results_page_is_made_from_records(tmp_path):
    script = str(ROOT / "scripts" / "results")
    empty = subprocess.run([script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert empty.returncode == 3
    assert "there is no record" in empty.stderr
    shutil.copytree(RECORD, tmp_path / "a-chip" / "record-1")
    done = subprocess.run([script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "## a-chip" in page
    assert "| torch:cpu |" in page
