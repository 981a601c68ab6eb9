"""A/A runs from measured slots to a stored bound that `ab` and `gate` find."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from chipmark.ab.aa_run import check_same, keep, report_of
from chipmark.ab.between_sessions import compare_sessions, load_session
from chipmark.ab.compare import host_identity, machine_bound
from chipmark.ab.looks import run_sequence
from chipmark.ab.machine import look
from chipmark.ab.modules import Module, SameCodeError
from chipmark.ab.readings import Reading
from chipmark.ab.schedule import slots
from chipmark.ab.session import Measured
from chipmark.errors import BadInputError, UsageError
from chipmark.gate.machine_bounds import Bound, fingerprint, load_bound, session_margin, store_bound
from chipmark.gate.stored_series import load_run
from chipmark.gate.stored_verdicts import judge_stored
from chipmark.gate.thresholds import Thresholds
from chipmark.gate.verdict import Margins

STATE = look(())
MACHINE = {"chip": "a chip", "used": 2}


class Silent:
    def say(self, text):
        pass

    stage = say
    steps = say

    def step(self):
        pass


class Noisy:
    """An A/A runner: noise of 1 % a process, a canary that is quiet or jumps."""

    def __init__(self, jump=0.0):
        self.draws = np.random.Generator(np.random.Philox(3))
        self.jump = jump
        self.warmed, self.ran = [], []

    def warm(self, session):
        self.warmed.append(session)

    def canary(self):
        return 0.01 * math.exp(self.jump * self.draws.normal())

    def run(self, slot, decided):
        assert not decided
        self.ran.append(slot)
        value = 0.1 * math.exp(self.draws.normal(0, 0.01))
        readings = (Reading("decode", "time_s", "s", "lower", value, 5),)
        return Measured(slot, readings, self.canary(), STATE, STATE, 1.0)


def report(rounds=40, jump=0.0, machine=MACHINE):
    from chipmark.ab.aa_run import _MEASURE_ALL

    runner = Noisy(jump)
    outcome = run_sequence(runner, lambda key: _MEASURE_ALL, 0, Silent(), looks=(rounds,))
    assert runner.warmed == [0]
    assert runner.ran == list(slots(rounds, 0))
    return report_of(outcome, Thresholds(), 0, command="x", machine=machine)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))


def test_forty_pairs_give_rates_and_a_bound_that_is_kept():
    found = report()
    (metric,) = found.metrics
    assert found.exit_code == 0
    assert metric.noise.noise == pytest.approx(0.01 * math.sqrt(2), rel=0.4)
    assert 0.004 < metric.within < 0.02
    assert metric.delta_red == 0.03
    assert 0.03 < metric.detectable < 0.06
    assert found.reds.suite.bound < 0.01
    kept = keep(found)
    stored = load_bound(fingerprint(MACHINE))
    assert kept.stored is not None
    assert (stored.within, stored.pairs, stored.across) == (found.within, 40, None)
    json.dumps(kept.to_dict(), allow_nan=False)


def test_too_few_pairs_tell_noise_and_no_rate():
    found = report(rounds=20)
    assert found.exit_code == 3
    assert found.reds is None
    assert found.within is None
    assert found.metrics[0].noise.pairs == 20
    assert any("20 pairs: a rate" in note for note in found.notes)
    assert keep(found).stored is None
    assert load_bound(fingerprint(MACHINE)) is None


def test_an_unfit_machine_gives_no_bound():
    found = report(jump=0.3)
    assert found.exit_code == 3
    assert "canary" in found.faults[0]
    assert keep(found).stored is None
    assert load_bound(fingerprint(MACHINE)) is None


def test_a_second_run_keeps_the_margin_across_sessions():
    store_bound(
        Bound(schema="chipmark.aa/1", fingerprint=fingerprint(MACHINE), within=0.5, across=0.07,
              pairs=40, created="before")
    )  # fmt: skip
    found = keep(report())
    stored = load_bound(fingerprint(MACHINE))
    assert (stored.within, stored.across) == (found.within, 0.07)


def test_ab_finds_the_bound_of_this_machine_and_no_other():
    runner = SimpleNamespace(identity={})
    keep(report(machine=MACHINE))
    assert machine_bound(runner) == 0.0  # of another machine
    found = keep(report(machine=host_identity()))
    assert machine_bound(runner) == found.within
    assert Margins(0.001).widened(machine_bound(runner)).delta_red == found.within


def test_arms_of_other_code_are_no_aa():
    module = Module("m", "m.py", "1", True)
    same = SimpleNamespace(modules={"A": {"m": module}, "B": {"m": module}})
    check_same(same)
    other = {"A": {"m": module}, "B": {"m": replace(module, sha256="2")}}
    with pytest.raises(SameCodeError, match="not an A/A"):
        check_same(SimpleNamespace(modules=other))


def pytest_file(folder, name, factor, cpu="a chip"):
    data = [0.01 * factor * (1 + 0.0005 * i) for i in range(12)]
    document = {
        "version": "5.2.3", "datetime": "2026-11-25T07:00:00", "commit_info": {},
        "machine_info": {"machine": "x86_64", "system": "Linux",
                         "cpu": {"brand_raw": cpu, "count": 2}},
        "benchmarks": [{
            "name": "test_decode", "fullname": "t.py::test_decode", "group": None, "param": None,
            "params": None, "extra_info": {}, "options": {},
            "stats": {"min": data[0], "max": data[-1], "mean": sum(data) / 12, "stddev": 0.0,
                      "median": (data[5] + data[6]) / 2, "rounds": 12, "iterations": 1,
                      "data": data},
        }],
    }  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_sessions_give_gate_its_margin_and_no_other_machine_has_it(tmp_path):
    factors = (1, 1.01, 0.99, 1.005, 0.995, 1.002)
    paths = [pytest_file(tmp_path, f"s{i}", f) for i, f in enumerate(factors)]
    found = compare_sessions(paths)
    assert found.stored is not None
    assert 0.02 < found.across < 0.09
    base = load_run(paths[0])
    margin = session_margin(fingerprint(base.identity))
    assert margin.value == found.across
    assert "A/A across sessions of this machine" in margin.source
    slow = [load_run(pytest_file(tmp_path, f"slow{i}", 1.12 + i / 1000)) for i in range(2)]
    own = judge_stored([base], slow, Thresholds(), margin).rows[0].verdict
    other = pytest_file(tmp_path, "other", 1, cpu="another chip")
    default = session_margin(fingerprint(load_run(other).identity))
    assert "chipmark aa --across" in default.source
    assert default.value > found.across
    assert own == "regressed"
    assert judge_stored([base], slow, Thresholds(), default).rows[0].verdict == "inconclusive"


def test_sessions_that_do_not_make_a_margin(tmp_path):
    paths = [pytest_file(tmp_path, f"s{i}", 1 + i / 100) for i in range(4)]
    found = compare_sessions(paths)
    assert (found.exit_code, found.across, found.stored) == (3, None, None)
    assert "4 sessions" in found.notes[0]
    with pytest.raises(UsageError, match="the same run"):
        compare_sessions([paths[0], paths[1], paths[0]])
    with pytest.raises(UsageError, match="different machines"):
        compare_sessions([paths[0], pytest_file(tmp_path, "x", 1, cpu="another chip")])
    with pytest.raises(UsageError, match="two runs or more"):
        compare_sessions(paths[:1])


def aa_folder(tmp_path, name, document):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "aa.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_a_folder_of_aa_is_a_session(tmp_path):
    readings = [{"benchmark": "d", "metric": "time_s", "value": v} for v in (1.0, 2.0, 4.0)]
    good = {"run": "r", "machine": MACHINE, "findings": {"faults": []},
            "slots": [{"readings": [r]} for r in readings]}  # fmt: skip
    session = load_session(aa_folder(tmp_path, "good", good))
    assert session.medians == {("d", "time_s"): 2.0}
    assert session.fingerprint == fingerprint(MACHINE)
    unfit = good | {"findings": {"faults": ["noise"]}}
    with pytest.raises(BadInputError, match="unfit: noise"):
        load_session(aa_folder(tmp_path, "unfit", unfit))
    with pytest.raises(BadInputError, match="not an A/A run"):
        load_session(aa_folder(tmp_path, "cut", {"run": "r"}))
    zero = good | {"slots": [{"readings": [readings[0] | {"value": 0.0}]}]}
    with pytest.raises(BadInputError, match="not above zero"):
        load_session(aa_folder(tmp_path, "zero", zero))
