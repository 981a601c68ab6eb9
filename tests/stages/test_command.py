"""`scripts/gpu` as a process: the plan, the exit codes, an interrupt, another card."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from chipmark.kernel_bench.stages import command, document
from chipmark.kernel_bench.stages.contract import Stage

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def _start(*options):
    roots = [str(HERE), *(str(ROOT / name) for name in ("kernels", "models", "harness"))]
    return subprocess.Popen(
        [sys.executable, str(HERE / "stages_call.py"), *options],
        env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join(roots)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _parts(folder, key):
    path = folder / "stage-1.json"
    if not path.exists():
        return {}
    return json.loads(path.read_text())["steps"].get(key, {}).get("parts", {})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_call_that_is_interrupted_is_130_with_whole_files_and_no_process(
    number, tmp_path
) -> None:
    call = _start("-o", str(tmp_path))
    until = time.monotonic() + 60
    while "c ok" not in _parts(tmp_path, "hanging") and time.monotonic() < until:
        assert call.poll() is None, call.communicate()
        time.sleep(0.05)
    call.send_signal(number)
    _, told = call.communicate(timeout=30)
    assert call.returncode == 130, told
    assert "interrupted" in told
    stored = json.loads((tmp_path / "stage-1.json").read_text())["steps"]
    assert (stored["first"]["state"], stored["hanging"]["state"]) == ("done", "cut")
    assert list(stored["hanging"]["parts"]) == ["c ok"]
    with pytest.raises(ProcessLookupError):
        os.kill(stored["hanging"]["parts"]["c ok"]["pid"], 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.tar.gz", "stage-1.json"]
    with tarfile.open(tmp_path / "results.tar.gz") as packed:
        assert packed.getnames() == ["stage-1.json"]


@pytest.fixture
def here(fakes, monkeypatch, tmp_path, capsys):
    """Calls the command in this process over some steps: (exit code, stdout, stderr)."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(command, "BENCH", "fake_works:Fragile")

    def call(steps, *options):
        monkeypatch.setattr(command, "all_steps", lambda: tuple(steps))
        before = signal.getsignal(signal.SIGTERM)
        try:
            code = command.main(["-o", str(tmp_path / "out"), *options])
        finally:
            signal.signal(signal.SIGTERM, before)
        return code, *capsys.readouterr()

    return call


def test_the_plan_fits_80_columns_and_says_who_does_not_fit(here, fakes, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    steps = fakes.stages_call.STEPS
    code, out, _ = here(steps, "--plan")
    assert code == 0
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    assert "stage 3: records of whole models" in out
    assert "10 s in 1 call of 540 s" in out
    assert "fits no call of 540 s: large" in out
    code, out, _ = here(steps, "--plan", "--format", "json", "--stage", "1")
    plan = json.loads(out)
    assert [(s["key"], s["call"], s["state"]) for s in plan["steps"]] == [
        ("first", 1, "open"), ("hanging", 1, "open"),
    ]  # fmt: skip
    assert plan["needed_s"] == 10.0
    assert plan["verified"] == "unverified on hardware"


def test_exit_codes_and_what_is_printed(here, fakes, tmp_path) -> None:
    step = fakes.stages_call.step
    good, bad = step("good", "a ok", "b file"), step("bad", "a raise")
    big = step("big", "a ok", estimate_s=10_000.0)
    code, out, _ = here([good], "--pack", str(tmp_path / "elsewhere.tar.gz"))
    assert code == 0
    assert "file it is" in out
    assert not (tmp_path / "out" / "results.tar.gz").exists()
    with tarfile.open(tmp_path / "elsewhere.tar.gz") as packed:
        assert sorted(packed.getnames()) == ["stage-1.json", "words.bin"]
    code, out, err = here([good, bad, big], "--format", "json")
    document = json.loads(out)
    assert (code, document["exit_code"], document["left"]) == (3, 3, ["big"])
    assert document["steps"][1]["failures"] == {"a raise": "ValueError: does not compile"}
    assert "big: not begun, needs 10000 s" in err
    assert here([good, bad, big], "--only", "bad,good")[0] == 1
    code, _, err = here([good, bad], "--only", "goof")
    assert code == 2
    assert "did you mean good" in err
    assert here([good], "--budget-s", "5")[0] == 2
    (tmp_path / "out" / "stage-2.json").write_text("{")
    code, _, err = here([good])
    assert code == 2
    assert "stage-2.json" in err


def test_results_of_an_earlier_call_seed_a_new_machine(here, fakes, tmp_path) -> None:
    good = fakes.stages_call.step("good", "a ok", "b file")
    packed = tmp_path / "carried.tar.gz"
    assert here([good], "--pack", str(packed))[0] == 0
    (tmp_path / "out").rename(tmp_path / "old")
    code, out, _ = here([good], "--from", str(packed), "--plan", "--format", "json")
    assert json.loads(out)["steps"][0]["state"] == "done"
    assert (tmp_path / "out" / "words.bin").read_bytes() == b"1" * 100
    (tmp_path / "out" / "stage-1.json").unlink()
    code, out, _ = here([good], "--from", str(tmp_path / "old"), "--plan", "--format", "json")
    assert json.loads(out)["steps"][0]["state"] == "done"
    (tmp_path / "out" / "stage-1.json").unlink()
    code, _, err = here([good], "--from", str(tmp_path / "old" / "words.bin"), "--plan")
    assert code == 2
    assert "not an archive" in err


def test_another_kind_of_card_starts_anew_and_the_old_file_is_kept(fakes, tmp_path, capsys) -> None:
    step = fakes.stages_call.step("one")
    card = {"device": "A", "capability": "9.0", "torch": "2", "triton": "3", "uuid": "1"}
    file = document.opened(tmp_path, Stage.RUNS, card)
    file.begin(step, document.fresh(step, "1"))
    file.save()
    again = document.opened(tmp_path, Stage.RUNS, card | {"uuid": "2"})
    assert list(again.entries) == ["one"]
    other = document.opened(tmp_path, Stage.RUNS, card | {"device": "B"})
    assert (other.entries, other.identity["device"]) == ({}, "B")
    assert "kept as" in capsys.readouterr().err
    kept = json.loads((tmp_path / "stage-1.other-1.json").read_text())
    assert list(kept["steps"]) == ["one"]


def test_a_machine_without_a_card_is_3_and_one_whose_card_fails_says_why(here, monkeypatch) -> None:
    monkeypatch.setattr(command, "BENCH", "fake_works:Unable")
    code, _, err = here([])
    assert code == 2
    assert "no driver" in err
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = here([])
    assert code == 3
    assert "no CUDA device" in err
