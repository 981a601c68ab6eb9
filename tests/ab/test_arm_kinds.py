"""Arms of commands, backends and configurations to their verdicts, with commands that are quick."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from chipmark.ab import readings, rounds
from chipmark.ab.arms import CACHES
from chipmark.ab.process import Finished
from chipmark.cli.main import main

# What `pytest --benchmark-json FILE` writes, in a hundredth of its time.
PYTEST = """
import json, os, sys
target = next(w for w in sys.argv if w.startswith("--benchmark-json=")).partition("=")[2]
data = [float(sys.argv[1]) * float(os.environ.get("SLOWER", "1"))] * 3
stats = {n: data[0] for n in ("min", "max", "mean", "median")}
stats |= {"stddev": 0.0, "data": data, "rounds": 3, "iterations": 1}
names = sys.argv[2].split(",")
entries = [{"fullname": n, "name": n, "stats": stats, "extra_info": {}} for n in names]
with open(target, "w") as file:
    json.dump({"version": "5.1.0", "machine_info": {}, "benchmarks": entries}, file)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("chipmark.ab.rounds.run_canary", lambda _: 0.01)
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "bin" / "pytest"
    program.parent.mkdir()
    program.write_text("#!/usr/bin/env python" + PYTEST)
    program.chmod(0o755)
    return tmp_path


def ab(capsys, *words):
    code = main(["ab", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_two_commands_that_write_pytest_benchmarks_json(capsys, folder):
    arms = ["--a", "bin/pytest 0.5 t::x,t::gone", "--b", "bin/pytest 0.5001 t::x"]
    code, out, _ = ab(capsys, *arms, "-o", "out", "--format", "json")
    assert code == 0
    (row,) = json.loads(out)["rows"]
    assert (row["benchmark"], row["verdict"]) == ("t::x", "equivalent")
    assert "t::gone (time_s): only in arm A" in json.loads(out)["notes"]
    # The two files are pairs again for the gate, which has the same verdict.
    capsys.readouterr()
    assert main(["gate", "out/A.json", "out/B.json", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["estimate"] == row["estimate"]


def test_arms_without_a_common_benchmark_end_after_the_warm_up(capsys, folder):
    code, _, err = ab(capsys, "--a", "bin/pytest 1 t::x", "--b", "bin/pytest 1 t::y", "-o", "out")
    assert code == 3
    assert "arm A has t::x; arm B has t::y" in err
    assert not (folder / "out").exists()


def test_configurations(capsys):
    words = ["--a-env", "SLOWER=1", "--b-env", "SLOWER=1.001", "--format", "json"]
    code, out, _ = ab(capsys, *words, "--", "bin/pytest", "1", "t::x")
    assert code == 0
    found = json.loads(out)
    assert (found["base"], found["new"]) == ("SLOWER=1", "SLOWER=1.001")
    assert found["rows"][0]["verdict"] == "equivalent"


def test_backends(capsys, monkeypatch):
    real, real_read = rounds.run_process, readings.read_records
    ran, read = [], {}

    def once_for_each_backend(argv, cwd, env, limit_s, what):
        # A cell takes seconds: the first of each arm stands for its later ones.
        if what[:5] in read:
            return Finished(0, 1.0, "")
        ran.append(argv[argv.index("-b") + 1])
        return real(argv, cwd, env, limit_s, what)

    def read_once(folder, metrics, what, **more):
        if what[:5] not in read:
            read[what[:5]] = real_read(folder, metrics, what, **more)
        return read[what[:5]]

    monkeypatch.setattr(rounds, "run_process", once_for_each_backend)
    monkeypatch.setattr(readings, "read_records", read_once)
    monkeypatch.delitem(CACHES, "PYTHONPYCACHEPREFIX")  # compiling everything anew takes seconds
    suite = ["chipmark", "run", "quick", "-m", "tiny@synthetic", "--sessions", "1"]
    suite += ["--repeats", "1", "--concurrency", "1"]
    words = ["-b", "sim:golden", "-b", "sim:golden-slots", "--format", "json"]
    code, out, err = ab(capsys, *words, "--metric", "decode_tok_s", "--", *suite)
    assert ran == ["sim:golden", "sim:golden-slots"]
    (row,) = json.loads(out)["rows"]
    assert row["metric"] == "decode_tok_s"
    assert row["direction"] == "higher"
    assert row["verdict"] in ("improved", "regressed")
    assert code == (row["verdict"] == "regressed")
    assert row["confirmed"]["n"] == 16
    assert "backends are paired by workload" in err


def test_cells_of_two_backends_pair_by_their_work(folder):
    """`sim:` has no model, and a provider may name its arithmetic otherwise."""
    record = Path(__file__).parents[1] / "results" / "data" / "record-1"
    shutil.copytree(record, folder / "one" / "record-1")
    by_work, by_all = (
        {r.benchmark for r in readings.read_records(folder / "one", ["total_tok_s"], "", by_work=w)}
        for w in (True, False)
    )
    (short,), (long,) = by_work, by_all
    assert "fp32" not in short
    assert "fp32" in long
    shutil.copytree(record, folder / "one" / "record-2")  # two of equal work: the whole name again
    found = readings.read_records(folder / "one", ["total_tok_s"], "", by_work=True)
    assert {r.benchmark for r in found} == by_all
