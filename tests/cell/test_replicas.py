"""Replicas of the engine on the dies of one card: from the plan to the record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import chipmark
from chipmark.cell import measure, prepare
from chipmark.cell.given import replicas_given
from chipmark.cell.parent import ChildProcess
from chipmark.cell.protocol import ChildSpec, Load, LoadAnswer, Run
from chipmark.cell.replicas import Replicas, alike, check_replicas, replicas_of, worst_parity
from chipmark.cell.suite import CellPlan, Overrides, load_suite
from chipmark.chips.contract import ChipIdentity
from chipmark.closed_form.check import check_record
from chipmark.engine.events import load_events
from chipmark.errors import BadInputError, CellFailedError, UsageError
from chipmark.prices.book import EXAMPLE
from chipmark.results.manifest import ParityResult
from chipmark.results.recompute import Recomputed, recompute
from chipmark.results.store import load_record
from chipmark.results.validate import validate_record
from chipmark.workload.trace import save_trace

DUO = ChipIdentity(
    "ascend-310p-duo", "Huawei", "310P3", "card", 1, 2, devices=("npu:0", "npu:1"), verified=False
)
CPU = ChipIdentity("cpu-x", "AMD", "x", "package", 1, 1)
PLAN = CellPlan("torch:npu", "m", "fp16", "w", "profile", "quick", 4, 8, "equal_n")


@pytest.mark.parametrize(
    ("plan", "backends"),
    [
        ({}, ("torch:npu", "torch:npu:1")),
        ({"backend": "torch:npu:1"}, ("torch:npu:1", "torch:npu:0")),
        ({"replicas": 2}, ("torch:npu", "torch:npu:1")),
        ({"scenario": "capacity"}, ("torch:npu", "torch:npu:1")),
        ({"replicas": 1}, ("torch:npu",)),
    ],
)
def test_a_replica_on_each_device(plan: dict[str, Any], backends: tuple[str, ...]) -> None:
    assert replicas_of(replace(PLAN, **plan), DUO) == Replicas(backends)


def test_a_card_of_one_device_has_one() -> None:
    assert replicas_of(PLAN, CPU) == Replicas(("torch:npu",))


def test_what_cannot_be_shared_runs_on_one_and_says_why() -> None:
    plan = replace(PLAN, concurrency=3)
    found = replicas_of(plan, DUO)
    assert found.backends == ("torch:npu",)
    assert "N=3 sessions cannot be divided by 2" in found.why_fewer
    with pytest.raises(UsageError, match="cannot be divided by 2"):
        check_replicas(replace(plan, replicas=2), DUO)


def test_more_replicas_than_devices_are_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="4 replicas on a card that has npu:0, npu:1"):
        check_replicas(replace(PLAN, replicas=4), DUO)
    with pytest.raises(UsageError, match="2 replicas on a package that has one device"):
        check_replicas(replace(PLAN, replicas=2), CPU)
    # A card that its loaded process has yet to name is asked then.
    check_replicas(replace(PLAN, replicas=2), replace(DUO, devices=(), of=1))


def test_replicas_are_a_count_or_the_unit(tmp_path: Path) -> None:
    assert (replicas_given("unit"), replicas_given("2"), replicas_given(3)) == (0, 2, 3)
    for wrong in ("0", "-1", "two", True, 65, 1.5):
        with pytest.raises(UsageError, match="not a count"):
            replicas_given(wrong)
    path = tmp_path / "own.toml"
    path.write_text('[own]\n[[own.cells]]\nworkload = "agent-code-32k"\nreplicas = 2\n')
    assert load_suite(str(path), Overrides(), ["sim:twin"]).cells[0].replicas == 2
    assert load_suite(str(path), Overrides(replicas=0), ["sim:twin"]).cells[0].replicas == 0
    path.write_text(path.read_text().replace("replicas = 2", "replicas = 0"))
    with pytest.raises(BadInputError, match=r"own\.cells\[0\]\.replicas"):
        load_suite(str(path), Overrides(), ["sim:twin"])


def test_replicas_that_are_not_the_same_engine_are_refused(load_answer: LoadAnswer) -> None:
    slow = replace(load_answer, load_s=3.0, ep_coverage=0.5)
    both = alike([load_answer, slow])
    assert (both.load_s, both.ep_coverage) == (3.0, 0.5)
    assert alike([load_answer, replace(slow, ep_coverage=None)]).ep_coverage is None
    with pytest.raises(CellFailedError, match="replica 1 loads another weight_bytes"):
        alike([load_answer, replace(slow, weight_bytes=7)])


def test_the_unit_has_the_worst_parity() -> None:
    good, less = (ParityResult(verdict="pass", rms_rel=x) for x in (1e-6, 1e-5))
    assert worst_parity([good, less]).rms_rel == 1e-5
    bad = worst_parity([good, ParityResult(verdict="fail", reason="rms", rms_rel=0.5)])
    assert (bad.verdict, bad.reason) == ("fail", "replica 1: rms")


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a card of two simulated dies."""
    out = tmp_path_factory.mktemp("twin")
    records = chipmark.run(
        "quick", "sim:twin", concurrency=4, sessions=3, repeats=2, budget_s=0, out=out
    )
    return Path(records[0].path)


def test_a_card_of_two_dies_is_measured_as_one_unit(twin: Path) -> None:
    manifest = load_record(twin).manifest
    assert (manifest.replicas, manifest.concurrency) == (2, 4)
    assert (manifest.chip.used, manifest.chip.of) == (2, 2)
    assert (manifest.parity.verdict, manifest.audit.verdict) == ("pass", "pass")
    codes = {note.code for note in manifest.notes}
    assert "replicas" in codes
    assert "unit_partly_used" not in codes
    row = chipmark.load(twin).table(prices=EXAMPLE)[0]
    assert (row["unit"], row["replicas"], row["concurrency"]) == ("card 2/2 dies", 2, 4)
    assert row["sessions"] == 2 * 3 * 2
    assert row["cost_per_session"] is not None
    assert row["tok_per_joule"] is not None


def test_it_is_twice_a_die_and_the_card(twin: Path) -> None:
    assert validate_record(twin) == []
    assert check_record(twin, EXAMPLE) == []


def test_its_metrics_are_derived_anew(twin: Path, tmp_path: Path) -> None:
    (found,) = recompute([twin], tmp_path / "again")
    assert isinstance(found, Recomputed)
    assert found.changes == ()
    assert validate_record(found.new.path) == []


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda path: shutil.rmtree(path / "repeat-1/replica-1"), "missing"),
        (lambda path: (path / "repeat-1/replica-1/turns.parquet").write_bytes(b"x"), "bytes"),
    ],
)
def test_a_replica_that_is_lost_is_found(
    twin: Path, tmp_path: Path, break_it: Callable[[Path], None], text: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(twin, copy)
    break_it(copy)
    found = validate_record(copy)
    assert any(text in f.text and f.severity == "error" for f in found)


@pytest.mark.long
def test_the_capacity_of_a_card_is_that_of_its_dies(tmp_path: Path) -> None:
    """At twice the sessions, with twice a die's watts and the card's, it has a price of its own."""
    rows = {}
    for backend, most in (("sim:golden", 2), ("sim:twin", 4)):
        records = chipmark.run(
            "quick", backend, scenario="capacity", concurrency=most, sessions=10, repeats=1,
            budget_s=0, out=tmp_path / backend,
        )  # fmt: skip
        assert validate_record(Path(records[0].path)) == []
        manifest = load_record(Path(records[0].path)).manifest
        rows[backend] = records.table(prices=EXAMPLE)[0]
        sweep = [(p.concurrency, p.sessions_per_hour, p.power_w) for p in manifest.sweep]
        rows[backend + " sweep"] = sweep
    die, card = rows["sim:golden"], rows["sim:twin"]
    assert (die["concurrency"], card["concurrency"]) == (2, 4)
    assert [n for n, _, _ in rows["sim:twin sweep"]] == [2, 4]
    for name in ("sessions_per_hour", "total_tok_s", "decode_tok_s"):
        assert card[name] == pytest.approx(2 * die[name]), name
    assert card["power_w"] == pytest.approx(2 * die["power_w"] + 40.0)
    joules = 2 * die["power_w"] + 40.0
    assert card["tok_per_joule"] == pytest.approx(2 * die["total_tok_s"] / joules, rel=1e-4)
    for (_, rate, watts), (_, one, one_w) in zip(
        rows["sim:twin sweep"], rows["sim:golden sweep"], strict=True
    ):
        assert (rate, watts) == (pytest.approx(2 * one), pytest.approx(2 * one_w + 40.0))
    assert card["cost_per_session"] is not None


def test_half_of_a_card_has_no_energy_and_no_cost(tmp_path: Path) -> None:
    row = chipmark.run(
        "quick", "sim:twin", concurrency=2, sessions=2, repeats=1, budget_s=0, replicas=1,
        out=tmp_path,
    ).table(prices=EXAMPLE)[0]  # fmt: skip
    assert (row["unit"], row["replicas"]) == ("card 1/2 dies", 1)
    for name in ("power_w", "tok_per_joule", "joule_per_session", "cost_per_session"):
        assert row[name] is None
    assert row["total_tok_s"] is not None
    assert "unit_partly_used" in {note["code"] for note in row["notes"]}


@pytest.mark.parametrize("replicas", ["unit", 2])
def test_a_card_that_only_its_loaded_process_names_is_laid_out_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replicas: int | str
) -> None:
    unknown = ChipIdentity("sim-unknown", "simulated", "", "card", 1, 1, verified=False)
    monkeypatch.setattr(prepare, "chip_of", lambda backend: unknown)
    records = chipmark.run(
        "quick", "sim:twin", concurrency=2, sessions=1, repeats=1, budget_s=0, out=tmp_path,
        replicas=replicas,
    )  # fmt: skip
    manifest = load_record(Path(records[0].path)).manifest
    assert (manifest.replicas, manifest.chip.name, manifest.chip.used) == (2, "sim-twin", 2)
    # `alike` has held the KV of both against each other; that of one session fits its longest.
    assert manifest.load is not None
    pages = manifest.load.caps["n_pages"] * manifest.load.caps["page_tokens"]
    assert pages < 2 * manifest.load.caps["max_context"]


@pytest.mark.usefixtures("faults")
def test_a_replica_that_fails_fails_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        measure, "replicas_of", lambda plan, chip: Replicas(("sim:golden", "sim:faulty-crash"))
    )
    records = chipmark.run(
        "quick", "sim:golden", concurrency=2, sessions=2, repeats=1, budget_s=0, out=tmp_path,
        check=False,
    )  # fmt: skip
    manifest = load_record(Path(records.failed[0].path)).manifest
    assert manifest.failure is not None
    assert "SIGSEGV" in manifest.failure.text


def test_replicas_wait_for_the_word(sim_spec: ChildSpec, tmp_path: Path) -> None:
    from chipmark.cell.parity import parity_trace

    save_trace(parity_trace(512), tmp_path / "trace.npz")
    run = Run(
        trace=str(tmp_path / "trace.npz"),
        events=str(tmp_path / "events.npz"),
        concurrency=3,
        scenario="equal_n",
        deadline_s=60.0,
        together=True,
    )
    with ChildProcess(sim_spec.to_json(), tmp_path / "child") as child:
        child.request(Load(), 60.0)
        child.send_request(run)
        child.await_ready(60.0)
        with pytest.raises(CellFailedError, match="no answer within 0 s"):
            child.answer(0.2)
        assert "started" not in child.marks
    with ChildProcess(sim_spec.to_json(), tmp_path / "child") as child:
        child.request(Load(), 60.0)
        child.send_request(run)
        child.await_ready(60.0)
        child.go()
        assert child.answer_to(run, 60.0).complete
        assert child.marks["ready"] <= child.marks["started"] <= child.marks["ended"]
    assert len(load_events(tmp_path / "events.npz")["turns"]["turn"])
