"""Engine, events, metrics and record of simulated cells against their closed form."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from chipmark.backends.sim.backend import SimBackend
from chipmark.closed_form.check import check_record
from chipmark.engine.contract import LoadSpec
from chipmark.engine.events import save_events
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan
from chipmark.meters.replay import sim_info
from chipmark.metrics.derive import derive
from chipmark.prices.book import EXAMPLE
from chipmark.results.raw import load_raw
from chipmark.results.recompute import Recomputed, recompute
from chipmark.results.store import find_records, load_record
from chipmark.results.validate import validate_record
from chipmark.results.write import record_raw
from chipmark.workload.generate import generate
from chipmark.workload.profile import profile
from chipmark.workload.scale import SCALES, Scale
from chipmark.workload.trace import Trace, save_trace


def validate(path):
    """Findings on every record under a path."""
    return [found for folder in find_records([path]) for found in validate_record(folder)]


def simulated(
    rawcells: ModuleType,
    tmp_path: Path,
    device: str,
    trace: Trace,
    concurrency: int,
    **more: object,
) -> Path:
    """A raw folder of one repeat of `sim:device` over the trace."""
    backend = SimBackend(device)
    longest = trace.max_context_tokens
    loaded = backend.load(
        LoadSpec(
            model={"vocab_size": trace.vocab_size},
            precision="fp32",
            n_seqs=concurrency,
            max_context=longest,
            kv_tokens=2 * longest * (concurrency + 1),
            max_chunk=256,
        )
    )
    plan = RunPlan(
        caps=loaded.caps,
        concurrency=concurrency,
        scenario=more.get("scenario", "equal_n"),  # type: ignore[arg-type]
        clock=backend.clock,
    )
    result = run(backend, trace, plan)
    raw = tmp_path / "raw"
    (raw / "repeat-0").mkdir(parents=True)
    save_trace(trace, raw / "trace.npz")
    save_events(raw / "repeat-0" / "events.npz", result.tables)
    time_s, energy_j, power_w = backend.power_samples()
    with (raw / "repeat-0" / "power.npz").open("wb") as file:
        np.savez(file, time_s=time_s, energy_j=energy_j, power_w=power_w)
    totals = trace.totals
    document = rawcells.manifest(
        backend=f"sim:{device}",
        repeats=1,
        concurrency=concurrency,
        scenario=plan.scenario,
        load__caps=dataclasses.asdict(loaded.caps),
        meter={
            "name": "sim", "source": "counter", "scope": "board", "method": "closed form",
            "update_period_s": 0.0, "error_rel": 0.0,
        },
        model={
            "name": "sim", "source_kind": "sim", "source_hash": "", "weights_hash": "",
            "config": {},
        },
        workload={
            "name": trace.name, "hash": trace.hash, "seed": trace.seed, "loop": trace.loop,
            "scale": [trace.scale.context, trace.scale.output, trace.scale.tool_time],
            "sessions": totals.sessions, "turns": totals.turns, "n_new": totals.n_new,
            "n_cached": totals.n_cached, "n_out": totals.n_out,
        },
    )  # fmt: skip
    (raw / "cell.json").write_text(json.dumps(document))
    return raw


def small(sessions: int = 3, scale: Scale = SCALES["quick"]) -> Trace:
    return generate(profile("agent-code-32k"), scale, 5, sessions, vocab_size=512)


@pytest.mark.parametrize(
    ("device", "concurrency"),
    [("golden", 1), ("golden", 3), ("golden-slots", 1), ("golden-slots-none", 3), ("slow", 2)],
)
def test_the_way_through_the_house_agrees_with_the_closed_form(
    rawcells: ModuleType, tmp_path: Path, device: str, concurrency: int
) -> None:
    raw = simulated(rawcells, tmp_path, device, small(), concurrency)
    record = record_raw(tmp_path / "out", raw)
    assert [f for f in validate(record) if f.severity == "error"] == []
    assert [f.text for f in check_record(record, EXAMPLE)] == []
    metrics = load_record(record).metrics
    assert metrics.values["decode_tok_s"] is not None
    assert metrics.values["recomputed_tokens"] is not None
    if concurrency == 1:
        # A launch of one session gives one token, and its turn waits for at least that long.
        turns = load_raw(record, load_record(record).manifest).repeats[0].events["turns"]
        waited = float((turns["last_token_s"] - turns["first_token_s"]).sum())
        assert 1 / metrics.values["decode_tok_s"] <= waited / (turns["n_out"] - 1).sum() * (
            1 + 1e-9
        )
        assert metrics.values["decode_rows"] == 1.0
    phases = metrics.details["energy"]["phases"]
    assert {p["method"] for p in phases.values()} <= {"regressed", "pure", None}
    assert phases["decode"]["energy_j"] > 0
    energy = metrics.details["energy"]["by_session"]
    assert energy["allocated_j"] + energy["unallocated_j"] == pytest.approx(energy["energy_j"])


@pytest.mark.parametrize("device", ["golden-paged", "golden-buckets", "golden-mixed"])
def test_every_kind_of_cache_leaves_consistent_events(
    rawcells: ModuleType, tmp_path: Path, device: str
) -> None:
    record = record_raw(tmp_path / "out", simulated(rawcells, tmp_path, device, small(), 3))
    assert [f for f in validate(record) if f.severity == "error"] == []


def test_a_wrong_clock_shows_against_the_closed_form(rawcells: ModuleType, tmp_path: Path) -> None:
    raw = simulated(rawcells, tmp_path, "golden", small(), 1)
    path = raw / "repeat-0" / "power.npz"
    with np.load(path) as stored:
        columns = {name: stored[name] for name in stored.files}
    columns["energy_j"] *= 1.01
    with path.open("wb") as file:
        np.savez(file, **columns)
    record = record_raw(tmp_path / "out", raw)
    assert not [f for f in validate(record) if f.severity == "error"]
    texts = " ".join(f.text for f in check_record(record, EXAMPLE))
    assert "power_w" in texts
    assert "tok_per_joule" in texts
    assert "energy of decode" in texts


def test_a_polled_device_is_right_within_what_its_meter_states(
    rawcells: ModuleType, tmp_path: Path
) -> None:
    raw = simulated(rawcells, tmp_path, "pulsed", small(4), 2)
    document = json.loads((raw / "cell.json").read_text())
    document["meter"] = dataclasses.asdict(sim_info("pulsed"))
    (raw / "cell.json").write_text(json.dumps(document))
    record = record_raw(tmp_path / "out", raw)
    assert [f.text for f in check_record(record, EXAMPLE)] == []
    energy = load_record(record).metrics.details["energy"]
    assert energy["method"] == "trapezoid"
    assert 0 < energy["error_rel"] < 0.3
    (again,) = recompute([record], tmp_path / "again")
    assert isinstance(again, Recomputed)
    assert again.changes == ()
    assert again.new.metrics.details["energy"] == energy
    # A card that drew a third more is outside of it.
    values = load_raw(record, load_record(record).manifest)
    power = values.repeats[0].power
    assert power is not None
    more = dataclasses.replace(power, power_w=power.power_w * 4 / 3)
    off = derive(
        dataclasses.replace(values, repeats=(dataclasses.replace(values.repeats[0], power=more),))
    )
    ratio = (off.metrics["power_w"] or 0) / (load_record(record).metrics.values["power_w"] or 1)
    assert ratio == pytest.approx(4 / 3)
    assert ratio - 1 > energy["error_rel"]


def test_the_capacity_lane_uses_sessions_again(rawcells: ModuleType, tmp_path: Path) -> None:
    raw = simulated(rawcells, tmp_path, "golden", small(3), 3, scenario="capacity")
    record = load_record(record_raw(tmp_path / "out", raw))
    assert [f for f in validate(record.path) if f.severity == "error"] == []
    cell = load_raw(record.path, record.manifest)
    values = derive(cell).metrics
    assert (values["sessions"] or 0) >= 3
    assert values["sessions_per_hour"] is not None


def test_only_simulated_cells_have_a_closed_form(rawcells: ModuleType, tmp_path: Path) -> None:
    raw = simulated(rawcells, tmp_path, "golden", small(), 1)
    document = json.loads((raw / "cell.json").read_text())
    (raw / "cell.json").write_text(json.dumps(document | {"backend": "torch:cpu"}))
    found = check_record(record_raw(tmp_path / "out", raw), EXAMPLE)
    assert [f.code for f in found] == ["closed_form"]
    assert "torch:cpu has no closed form" in found[0].text
