"""What a process of an arm is given: caches of its own, the hook before another sitecustomize,
and its source roots, children included."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from chipmark.ab.arms import CACHES, Arm
from chipmark.ab.readings import Command
from chipmark.ab.schedule import Slot
from chipmark.ab.session import ProcessRunner

PROJECT = Path(__file__).parents[2]
BENCH = """
import json, os
variables = VARIABLES
for name in variables:
    path = os.path.join(os.environ[name], "used")
    with open("log", "a") as file:
        file.write(json.dumps([name, path, os.path.exists(path)]) + "\\n")
    open(path, "w").close()
with open(os.environ["CHIPMARK_AB_SAMPLES"], "w") as file:
    seconds = float(os.environ.get("FROM_SITECUSTOMIZE", "1.0"))
    json.dump({"step": {"unit": "s", "samples": [seconds]}}, file)
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr("chipmark.ab.session.run_canary", lambda _: 0.01)
    found = tmp_path / "tree"
    found.mkdir()
    (found / "bench.py").write_text(BENCH.replace("VARIABLES", repr(tuple(CACHES))))
    return found


def runner(tree, argv=("python", "bench.py")):
    arms = {n: Arm(n, n, tree, tree, tuple(argv), Path(sys.executable)) for n in ("A", "B")}
    commands = {n: Command.of(argv, ()) for n in arms}
    scratch = tree.parent / "scratch"
    return ProcessRunner("commands", arms, commands, scratch, tree)


def caches(tree):
    """(variable, file, whether it was there) of each use since the last call."""
    log = tree / "log"
    found = [json.loads(line) for line in log.read_text().splitlines()]
    log.unlink()
    return found


def test_each_session_warms_fresh_caches_for_both_arms(tree):
    runs = runner(tree)
    seen: set[str] = set()
    for session in (0, 1):
        runs.warm(session)
        warmed = caches(tree)
        assert {name for name, _, _ in warmed} == set(CACHES)
        assert not any(there for _, _, there in warmed), "fresh in this session"
        files = {path for _, path, _ in warmed}
        assert len(files) == 2 * len(CACHES), "no cache is shared between arms or variables"
        assert not files & seen, "nor between sessions"
        seen |= files
        for number, arm in enumerate("AB"):
            runs.run(Slot(session, 0, number, arm), ())
        timed = caches(tree)
        assert all(there for _, _, there in timed), "filled by the warm-up"
        assert {path for _, path, _ in timed} == files


def test_another_sitecustomize_is_run_too(tree, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(
        "import os, beside\nos.environ['FROM_SITECUSTOMIZE'] = beside.SECONDS\n"
    )
    (other / "beside.py").write_text("SECONDS = '7.0'\n")
    monkeypatch.setenv("PYTHONPATH", str(other))
    runs = runner(tree)
    runs.warm(0)
    measured = runs.run(Slot(0, 0, 0, "A"), ())
    assert [reading.value for reading in measured.readings] == [7.0]
    assert {m.path for m in runs.modules["A"].values()} == {"bench.py"}


def test_the_children_of_a_cell_report_their_modules(tree):
    argv = ["chipmark", "run", "quick", "-b", "sim:golden", "--sessions", "1", "--repeats", "1"]
    runs = runner(PROJECT, argv)
    runs.scratch = tree.parent / "scratch"
    runs.run(Slot(0, 0, 0, "A"), ())
    found = {m.name: m for m in runs.modules["A"].values()}
    # The engine and a backend are imported by the process of the cell alone.
    for name in ("chipmark.engine.loop", "chipmark.backends.sim.backend"):
        assert found[name].inside
        assert found[name].path.startswith("harness/chipmark/")
