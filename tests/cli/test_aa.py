"""`chipmark aa` as a command, with a quick command of a known time, and its interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

# Times by a counter in the arm's own cache folder, so that no wall time is asked for.
QUICK = """
import json, os, pathlib
count = pathlib.Path(os.environ["COUNT"])
n = int(count.read_text()) if count.exists() else 0
count.write_text(str(n + 1))
value = 0.01 * (1 + 0.001 * ((n * 7919) % 11 - 5))
document = {"decode": {"unit": "s", "direction": "lower", "samples": [value]}}
pathlib.Path(os.environ["CHIPMARK_AB_SAMPLES"]).write_text(json.dumps(document))
"""


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    Path("quick.py").write_text(QUICK, encoding="utf-8")


@pytest.fixture
def quiet(monkeypatch):
    """A canary of a quiet machine, since this one is not."""
    monkeypatch.setattr("chipmark.ab.session.run_canary", lambda environ: 0.01)


@pytest.mark.usefixtures("quiet")
@pytest.mark.long
def test_forty_pairs_are_measured_kept_and_stored(chipmark):
    answer = chipmark("aa", "--format", "json", "-o", "runs/aa", "--", "python", "quick.py")
    assert answer.code == 0, answer.err
    found = answer.json
    assert (found["rounds"], found["metrics"][0]["pairs"]) == (40, 40)
    assert found["false_reds"]["suite_of_20"]["of"] == 1000
    assert 0 < found["within"] < 0.01
    bound = json.loads(Path(found["stored"]).read_text(encoding="utf-8"))
    assert (bound["fingerprint"], bound["within"]) == (found["fingerprint"], found["within"])
    document = json.loads(Path("runs/aa/aa.json").read_text(encoding="utf-8"))
    assert (document["kind"], document["same_code"], len(document["slots"])) == ("same", True, 80)
    assert document["slots"][0]["before"]["load1"] >= 0
    assert chipmark("aa", "-o", "runs/aa", "--", "python", "quick.py").code == 2


@pytest.mark.usefixtures("quiet")
def test_too_few_pairs_say_what_cannot_be_concluded(chipmark):
    answer = chipmark("aa", "--rounds", 6, "--", "python", "quick.py")
    assert answer.code == 3
    assert "6 pairs: a rate of false reds and a margin need" in answer.out
    assert not Path("cache/aa").exists()


def test_wrong_usage_is_2_and_writes_nothing(chipmark):
    assert chipmark("aa", "--format", "xml").code == 2
    assert chipmark("aa", "--rounds", 5).code == 2
    assert chipmark("aa", "--across", "one").code == 2
    assert "before the first run" in chipmark("aa", "--across", "a", "b", "--no-store").err
    failed = chipmark("aa", "-o", "runs/aa", "--", "python", "-c", "raise SystemExit(7)")
    assert failed.code == 2
    assert "exit code 7" in failed.err
    assert not Path("runs/aa").exists()


def test_sessions_are_compared(chipmark):
    for n in range(5):
        folder = Path(f"aa{n}")
        folder.mkdir()
        reading = {"benchmark": "decode", "metric": "time_s", "value": 0.01 * (1 + n / 500)}
        document = {"run": str(n), "machine": {"chip": "x"}, "findings": {"faults": []},
                    "slots": [{"readings": [reading]}]}  # fmt: skip
        (folder / "aa.json").write_text(json.dumps(document), encoding="utf-8")
    folders = [f"aa{n}" for n in range(5)]
    answer = chipmark("aa", "--across", "--format", "json", *folders)
    assert answer.code == 0
    assert answer.json["across"] > 0
    assert Path(answer.json["stored"]).is_file()
    few = chipmark("aa", "--across", *folders[:3])
    assert few.code == 3
    assert "3 sessions" in few.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process_and_no_folder(tmp_path, number):
    code = "import os,time; open(os.environ['COUNT'],'w').close(); time.sleep(60)"
    run = subprocess.Popen(
        [sys.executable, "-m", "chipmark.cli.main", "aa", "-o", "runs/aa", "--", sys.executable,
         "-c", code],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "count").exists():
        assert run.poll() is None, run.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(run.pid).children(recursive=True)
    assert children
    run.send_signal(number)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 128 + number
    assert b"Traceback" not in err
    _, left = psutil.wait_procs(children, timeout=10)
    assert all(p.status() == psutil.STATUS_ZOMBIE for p in left)
    assert list(Path("runs").iterdir()) == []
