from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

import chipmark

FAULTS = Path(__file__).parents[1] / "cell" / "faults"


class Heard:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.staged: list[str] = []
        self.done = self.ahead = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def stage(self, text: str) -> None:
        self.staged.append(text)

    def steps(self, total: int) -> None:
        self.ahead += total

    def step(self) -> None:
        self.done += 1


def test_a_run_prints_nothing_and_resumes(
    records: chipmark.Records, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reporter = Heard()
    again = chipmark.run(
        chipmark.Suite.quick(), ("sim:golden", "sim:golden-slots"), sessions=2, budget_s=0,
        out=folder, reporter=reporter,
    )  # fmt: skip
    assert [r.id for r in again] == [r.id for r in records]
    assert len(reporter.said) == 2
    assert capfd.readouterr() == ("", "")


def test_a_workload_and_its_settings(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "chipmark.api.run")
    found = chipmark.run(
        "func-call", "sim:golden", models="smollm2-135m", precision="fp32", concurrency=2,
        scale="quick", sessions=1, repeats=1, scenario="equal_n", seed=3, out=tmp_path / "runs",
    )  # fmt: skip
    m = found[0].manifest
    assert (m.workload.name, m.concurrency, m.repeats, m.scenario) == ("func-call", 2, 1, "equal_n")
    assert (m.model.name, m.precision.weights) == ("smollm2-135m", "fp32")
    assert "nothing is ranked" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_steps_are_reported(tmp_path: Path) -> None:
    reporter = Heard()
    chipmark.run("quick", "sim:golden", sessions=1, repeats=1, out=str(tmp_path), reporter=reporter)
    assert reporter.staged
    assert reporter.done == reporter.ahead > 0


def test_a_failed_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(known))
    reporter = Heard()

    def run(check: bool) -> chipmark.Records:
        return chipmark.run(
            "quick", ["sim:golden", "sim:faulty-crash"], sessions=1, repeats=1, out=tmp_path,
            reporter=reporter, check=check,
        )  # fmt: skip

    with pytest.raises(chipmark.CellFailedError) as caught:
        run(check=True)
    assert "sim:faulty-crash" in caught.value.message
    found = run(check=False)
    assert [r.backend for r in found.failed] == ["sim:faulty-crash"]
    assert found.failed[0].failure
    assert len(found) == 2


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"what": "quik"}, chipmark.UnknownNameError),
        ({"backends": "smi:golden"}, chipmark.UnknownNameError),
        ({"precision": "fp31"}, chipmark.UnknownNameError),
        ({"scenario": "equal"}, chipmark.UnknownNameError),
        ({"feedback": "free"}, chipmark.UnknownNameError),
        ({"power_w": 0.0}, chipmark.UsageError),
        ({"limit_s": float("inf")}, chipmark.UsageError),
        ({"audit_s": float("nan")}, chipmark.UsageError),
        ({"concurrency": 0}, chipmark.UsageError),
        ({"python": "no-such-python"}, chipmark.UsageError),
        ({"python": "python3", "backends": ()}, chipmark.UsageError),
        ({"transcript": "a.jsonl", "trace": "b.jsonl"}, chipmark.UsageError),
        ({"block_tokens": 16}, chipmark.UsageError),
        ({"what": "none.toml"}, chipmark.BadInputError),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    given: dict[str, object], kind: type[Exception], tmp_path: Path
) -> None:
    arguments = {"what": "quick", "backends": "sim:golden", "out": tmp_path / "runs", **given}
    with pytest.raises(kind):
        chipmark.run(**arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()


def test_workloads_in_place_of_a_suites(tmp_path: Path) -> None:
    settings = {"sessions": 1, "repeats": 1, "out": tmp_path}
    two = ["func-call", "agent-code-32k"]
    found = chipmark.run("quick", "sim:golden", workloads=two, **settings)  # type: ignore[arg-type]
    assert sorted(r.manifest.workload.name for r in found) == sorted(two)
    again = chipmark.run(two[0], "sim:golden", workloads=two[1], **settings)  # type: ignore[arg-type]
    assert [r.id for r in again] == [r.id for r in found]


def test_options_objective_and_idle_time_are_in_the_record(tmp_path: Path) -> None:
    found = chipmark.run(
        "func-call", "sim:golden", scale="1/256,1/64,0", sessions=1, repeats=1,
        options={"caps": {"prefill_rows": 2}}, slo={"tpot_s": 0.5, "name": "slow"}, idle_s=40,
        out=tmp_path,
    )  # fmt: skip
    manifest = found[0].manifest
    assert (manifest.slo.name, manifest.slo.tpot_s) == ("slow", 0.5)
    assert manifest.options["backend_options"] == {"caps": {"prefill_rows": 2}}
    assert manifest.options["idle_s"] == 40
    with pytest.raises(chipmark.UnknownNameError, match="tpot_s"):
        chipmark.run("func-call", "sim:golden", slo="tpt_s=1", out=tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"limit_s": 0}, "limit_s is 0"),
        ({"limit_s": float("inf")}, "limit_s is inf"),
        ({"audit_s": -1}, "audit_s is -1"),
        ({"threads": -1}, "threads is -1"),
        ({"max_chunk": 0}, "max_chunk is 0"),
        ({"slo": 5}, "slo is 5"),
        ({"idle_s": 20}, "idle-s is 20"),
        ({"options": ["caps"]}, "KEY=VALUE"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_measured(
    tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(chipmark.UsageError, match=words):
        chipmark.run("func-call", "sim:golden", out=tmp_path / "runs", **given)
    assert not (tmp_path / "runs").exists()


def test_a_failed_cell_says_why(tmp_path: Path) -> None:
    with pytest.raises(chipmark.CellFailedError, match="unknown capability 'page'"):
        chipmark.run(
            "func-call", "sim:golden", scale="1/256,1/64,0", sessions=1, repeats=1,
            options={"caps": {"page": 1}}, out=tmp_path,
        )  # fmt: skip
