"""An interrupted run goes on from its stored rounds, if it is the same run."""

from __future__ import annotations

import fcntl
import json

import pytest

from chipmark.cli.main import main

pytestmark = pytest.mark.long

BENCH = """
import json, os, sys
with open(os.environ["CHIPMARK_AB_SAMPLES"], "w") as file:
    json.dump({"step": {"unit": "s", "samples": [1.0, float(sys.argv[1]), 3.0]}}, file)
with open("ran", "a") as file:
    file.write(os.environ["CHIPMARK_AB_ARM"])
"""


class Canary:
    """A canary that interrupts before slot number `at`."""

    def __init__(self):
        self.at, self.calls = -1, 0

    def __call__(self, _):
        if self.calls == self.at:
            raise KeyboardInterrupt
        self.calls += 1
        return 0.01


@pytest.fixture
def canary(tmp_path, monkeypatch):
    found = Canary()
    monkeypatch.setattr("chipmark.ab.session.run_canary", found)
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench.py").write_text(BENCH)
    return found


def ab(*words, b="1.3001"):
    arms = ["--a", "python bench.py 1.3", "--b", f"python bench.py {b}"]
    return main(["ab", *arms, "-o", "out", "--format", "json", *words])


def interrupted(canary, capsys, at=7, **arm):
    canary.at = at
    assert ab(**arm) == 130
    canary.at = -1
    return capsys.readouterr()


def lines(tmp_path):
    found = [json.loads(x) for x in (tmp_path / "out" / "slots.jsonl").read_text().splitlines()]
    return [x for x in found if "readings" in x]


def test_it_goes_on_and_the_half_round_is_run_again(canary, capsys, tmp_path):
    said = interrupted(canary, capsys, b="1.5")
    assert "the same command resumes" in said.err
    assert said.out == ""
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["slots.jsonl", "start.json"]
    assert len(lines(tmp_path)) == 7
    (tmp_path / "ran").unlink()
    assert ab(b="1.5") == 1
    said = capsys.readouterr()
    assert "rounds kept in out: 3; going on" in said.err
    assert json.loads(said.out)["rows"][0]["verdict"] == "regressed"
    # Warm-up, 20 - 6 slots of the first session; warm-up and 32 slots of the second.
    assert len((tmp_path / "ran").read_text()) == 2 + 14 + 2 + 32
    stored = json.loads((tmp_path / "out" / "ab.json").read_text())
    first = [s for s in stored["slots"] if s["session"] == 0]
    assert [s["slot"] for s in first] == list(range(20))
    assert [s["attempt"] for s in first] == [0] * 6 + [1] * 14
    assert [len(readings) for readings in stored["canary"]["readings_s"]] == [6, 15, 33]


def test_every_raw_sample_is_kept(canary, capsys, tmp_path):
    interrupted(canary, capsys)
    ab()
    kept = lines(tmp_path)
    assert len(kept) == 7 + 6  # the half round's too
    raw = {tuple(s["readings"][0]["raw"]) for s in kept if s["arm"] == "B"}
    assert raw == {(1.0, 1.3001, 3.0)}


def test_in_the_second_session_too_and_more_than_once(canary, capsys, tmp_path):
    interrupted(canary, capsys, at=20 + 1 + 5, b="1.5")
    (tmp_path / "ran").unlink()
    canary.calls = 0
    interrupted(canary, capsys, at=3, b="1.5")
    assert len((tmp_path / "ran").read_text()) == 2 + 3
    assert ab(b="1.5") == 1
    rounds = json.loads(capsys.readouterr().out)["rows"][0]["confirmed"]["n"]
    assert rounds == 16
    found = json.loads((tmp_path / "out" / "ab.json").read_text())["slots"]
    assert {s["attempt"] for s in found if s["session"] == 1} == {0, 1, 2}


def test_another_plan_is_refused_by_what_differs(canary, capsys, tmp_path):
    interrupted(canary, capsys)
    before = (tmp_path / "out" / "slots.jsonl").read_bytes()
    assert ab("--seed", "3", b="1.6") == 2
    said = capsys.readouterr().err
    assert "seed 0, not 3" in said
    assert "B.command 'python bench.py 1.3001', not 'python bench.py 1.6'" in said
    (tmp_path / "bench.py").write_text(BENCH + "# another\n")
    assert ab() == 2
    assert "bench.py was changed" in capsys.readouterr().err
    assert (tmp_path / "out" / "slots.jsonl").read_bytes() == before


def test_a_run_that_has_ended_and_a_strange_folder_are_refused(canary, capsys, tmp_path):
    assert ab() == 0
    assert ab() == 2
    assert "out already exists" in capsys.readouterr().err
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "file").write_text("x")
    assert ab("-o", "strange") == 2
    assert "already exists" in capsys.readouterr().err


def test_a_line_that_was_cut_is_run_again_and_one_that_is_wrong_is_named(canary, capsys, tmp_path):
    interrupted(canary, capsys)
    file = tmp_path / "out" / "slots.jsonl"
    whole = file.read_text()
    file.write_text(whole.replace('"slot"', '"place"', 1))
    assert ab() == 2
    assert "slots.jsonl:1: invalid reading" in capsys.readouterr().err
    file.write_text(whole[:-40])
    assert ab() == 0
    assert len(lines(tmp_path)) == 6 + 6


def test_readings_beyond_the_limit_are_refused_and_left_whole(
    canary, capsys, tmp_path, monkeypatch
):
    interrupted(canary, capsys)
    file = tmp_path / "out" / "slots.jsonl"
    long = file.read_text() + "{" + " " * 1_000_000
    file.write_text(long)
    monkeypatch.setattr("chipmark.ab.journal.DATA_BYTES", 1_000_000)
    assert ab() == 2
    assert "at most 1,000,000 are read" in capsys.readouterr().err
    assert file.read_text() == long


def test_two_at_once_do_not_share_a_folder(canary, capsys, tmp_path):
    interrupted(canary, capsys)
    with (tmp_path / "out" / "slots.jsonl").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert ab() == 2
    assert "another chipmark is measuring" in capsys.readouterr().err


def test_a_run_that_fails_leaves_nothing(canary, capsys, tmp_path):
    (tmp_path / "bench.py").write_text(
        BENCH + "if len(open('ran').read()) == 6: raise SystemExit(3)\n"
    )
    assert ab() == 2
    assert "round 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
