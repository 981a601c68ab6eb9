"""Arms of commands, backends and configurations to their verdicts, with commands that are quick."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chipmark.ab import readings, session
from chipmark.ab.arms import CACHES, Arm
from chipmark.ab.process import ArmFailedError, Finished
from chipmark.ab.readings import Command
from chipmark.ab.schedule import Slot
from chipmark.cli.main import main
from chipmark.results.record import document_text

pytestmark = pytest.mark.long

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
    monkeypatch.setattr("chipmark.ab.session.run_canary", lambda _: 0.01)
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
    code, out, _ = ab(capsys, *arms, "-o", "out", "--format", "json", "--junit", "j.xml")
    assert code == 1
    gone, row = json.loads(out)["rows"]
    assert (gone["benchmark"], gone["verdict"]) == ("t::gone", "missing")
    assert (row["benchmark"], row["verdict"]) == ("t::x", "equivalent")
    assert (folder / "j.xml").read_text(encoding="utf-8").count("<failure") == 1
    # The two files are pairs again for the gate, which has the same verdict.
    assert main(["gate", "out/A.json", "out/B.json", "--format", "json"]) == 1
    again = {r["benchmark"]: r for r in json.loads(capsys.readouterr().out)["rows"]}
    assert again["t::gone"]["verdict"] == "missing"
    assert again["t::x"]["estimate"] == row["estimate"]
    rules = '[[ignore]]\nbenchmark = "t::gone"\nreason = "removed on purpose"\n'
    (folder / "rules.toml").write_text(rules, encoding="utf-8")
    code, out, _ = ab(capsys, *arms, "--thresholds", "rules.toml")
    assert code == 0
    assert "removed on purpose" in out


def test_the_files_of_an_unfit_run_are_unfit_for_the_gate(capsys, folder, monkeypatch):
    canary = itertools.cycle([0.01, 0.02])
    monkeypatch.setattr("chipmark.ab.session.run_canary", lambda _: next(canary))
    arms = ["--a", "bin/pytest 0.5 t::x", "--b", "bin/pytest 0.7 t::x", "-o", "out"]
    assert ab(capsys, *arms)[0] == 3
    assert main(["gate", "out/A.json", "out/B.json", "--format", "json"]) == 3
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["verdict"] == "unfit"
    assert "the canary's time jumps" in row["reasons"][0]


def test_arms_without_a_common_benchmark_have_lost_all_of_them(capsys):
    arms = ["--a", "bin/pytest 1 t::x", "--b", "bin/pytest 1 t::y"]
    code, out, _ = ab(capsys, *arms, "--format", "json")
    assert code == 1
    (row,) = json.loads(out)["rows"]
    assert (row["benchmark"], row["verdict"]) == ("t::x", "missing")
    assert "t::y (time_s): only in arm B" in json.loads(out)["notes"]


def test_an_address_in_a_name_is_the_same_benchmark_in_both_arms(capsys):
    arms = [f"bin/pytest {s} 't::x[<f at 0x7f3a5c0d1e{i}0>]'" for i, s in enumerate((1, 1.001))]
    code, out, _ = ab(capsys, "--a", arms[0], "--b", arms[1], "-o", "out", "--format", "json")
    assert code == 0
    (row,) = json.loads(out)["rows"]
    assert (row["benchmark"], row["verdict"]) == ("t::x[<f at 0x>]", "equivalent")
    assert main(["gate", "out/A.json", "out/B.json"]) == 0


BENCHMARKS = """
import os, pytest

@pytest.mark.parametrize("kind", ["sound", "raises", "asserts"])
def test_it(benchmark, kind):
    broken = os.environ["CHIPMARK_AB_ARM"] == "B" and "BREAK" in os.environ

    def work():
        if kind == "raises" and broken:
            raise ZeroDivisionError("no such thing")

    benchmark.pedantic(work, rounds=3)
    assert not (kind == "asserts" and broken)

def test_plain():
    assert os.environ["CHIPMARK_AB_ARM"] == "A" or "PLAIN" not in os.environ
"""


def test_a_test_that_fails_in_arm_b_loses_its_benchmark_alone(folder, monkeypatch):
    (folder / "test_b.py").write_text(BENCHMARKS, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = (sys.executable, "-m", "pytest", "test_b.py", "-p", "no:cacheprovider")
    arm = Arm("A", "", folder, folder, command, Path(sys.executable))
    runner = session.ProcessRunner(
        kind="configurations",
        arms={"A": arm, "B": replace(arm, name="B", env={"BREAK": "1"})},
        commands={name: Command.of(command, ()) for name in ("A", "B")},
        scratch=folder / "scratch",
        project=folder,
    )
    monkeypatch.delitem(CACHES, "PYTHONPYCACHEPREFIX")
    # pytest-benchmark stores nothing in what it takes for a worker of xdist.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    runner.warm(0)
    measured = runner.run(Slot(0, 0, 1, "B"), ())
    assert [reading.benchmark for reading in measured.readings] == ["test_b.py::test_it[sound]"]
    lost = {found.benchmark[18:]: found for found in measured.lost}
    assert lost.keys() == {"[raises]", "[asserts]"}
    assert "ZeroDivisionError: no such thing" in lost["[raises]"].reason
    assert all(found.failed for found in lost.values())
    plain = {"PLAIN": "1"}
    runner.arms = {"A": arm, "B": replace(arm, name="B", env=plain)}
    with pytest.raises(ArmFailedError, match=r"outside the benchmarks of arm A: .*test_plain"):
        runner.warm(1)


def test_configurations(capsys):
    words = ["--a-env", "SLOWER=1", "--b-env", "SLOWER=1.001", "--format", "json"]
    code, out, _ = ab(capsys, *words, "--", "bin/pytest", "1", "t::x")
    assert code == 0
    found = json.loads(out)
    assert (found["base"], found["new"]) == ("SLOWER=1", "SLOWER=1.001")
    assert found["rows"][0]["verdict"] == "equivalent"


def test_backends(capsys, monkeypatch):
    real, real_read = session.run_process, readings.read_records
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

    monkeypatch.setattr(session, "run_process", once_for_each_backend)
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
        {r.benchmark for r in read(folder / "one", by_work=w)} for w in (True, False)
    )
    (short,), (long,) = by_work, by_all
    assert "fp32" not in short
    assert "fp32" in long
    shutil.copytree(record, folder / "one" / "record-2")  # two of equal work: the whole name again
    assert {r.benchmark for r in read(folder / "one", by_work=True)} == by_all


def read(folder, *metrics, by_work=False):
    return readings.read_records(folder, metrics or ["total_tok_s"], "", by_work=by_work).found


def test_cells_that_only_their_backend_tells_apart_keep_it(folder):
    for number, backend in enumerate(("sim:one", "sim:two")):
        changed(folder / "runs" / str(number), lambda d, b=backend: d["manifest"].update(backend=b))
    assert [r.benchmark.split()[0] for r in read(folder / "runs")] == ["sim:one", "sim:two"]


def changed(folder, change):
    record = Path(__file__).parents[1] / "results" / "data" / "record-1"
    document = json.loads((record / "record.json").read_text(encoding="utf-8"))
    change(document)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(document_text(document), encoding="utf-8")
    return folder


def test_a_failed_cell_is_lost_with_its_cause(folder):
    def fail(document):
        document["manifest"] |= {"status": "failed", "load": None}
        document["manifest"]["failure"] = {"code": "cell", "text": "killed by SIGKILL"}
        document["metrics"] |= {"values": {}, "per_repeat": [], "intervals": {}}

    found = readings.read_records(changed(folder / "x", fail), ["total_tok_s"], "")
    assert found.found == ()
    (lost,) = found.lost
    assert (lost.metric, lost.reason, lost.failed) == ("total_tok_s", "killed by SIGKILL", True)


@pytest.mark.parametrize("source", ["declared", "assumed"])
def test_energy_that_was_not_measured_is_compared_with_nothing(folder, source):
    def written_down(document):
        document["manifest"]["meter"]["source"] = source
        document["metrics"]["values"]["tok_per_joule"] = 3.0

    path = changed(folder / "x", written_down)
    found = readings.read_records(path, ["tok_per_joule"], "")
    assert found.found == ()
    assert f"energy is {source}, not measured" in found.lost[0].reason
    assert not found.lost[0].failed


def test_a_cell_that_left_work_out_is_compared_with_nothing(folder):
    """Half of the turns failed, so the other half went faster."""

    def lost(document):
        note = {"code": "turns_lost", "text": "22 turns failed"}
        document["metrics"]["notes"] = [note]

    found = readings.read_records(changed(folder / "x", lost), ["total_tok_s"], "")
    assert found.found == ()
    assert "turns_lost: 22 turns failed" in found.lost[0].reason
    assert not found.lost[0].failed


def test_cells_pair_by_their_default_metric_whatever_n_the_sweep_found(folder):
    def capacity(n):
        def change(document):
            document["manifest"] |= {"lane": "capacity", "concurrency": n}
            document["metrics"]["values"] |= {"sessions_per_hour": 100.0 * n, "slo_attainment": 1.0}
            document["metrics"]["schema"] = "chipmark.metrics/2"

        return change

    small, large = (
        readings.read_records(changed(folder / str(n), capacity(n)), (), "").found for n in (4, 8)
    )
    assert {r.key for r in small} == {r.key for r in large}
    assert [r.metric for r in small] == ["sessions_per_hour"]


def test_a_run_that_ended_by_an_error_of_its_own_has_not_measured(folder):
    """It ends as a run with a failed cell does, which leaves a record that says so."""
    command = Command.of(["chipmark", "run", "quick"], ())
    whole = folder / "whole" / "records"
    changed(whole / "one", lambda document: None)
    assert not command.survives(4, folder / "whole")
    assert not command.survives(4, folder / "nothing")

    def fail(document):
        document["manifest"] |= {"status": "failed", "load": None}
        document["manifest"]["failure"] = {"code": "cell", "text": "killed by SIGKILL"}

    changed(whole / "two", fail)
    assert command.survives(4, folder / "whole")
