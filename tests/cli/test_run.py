from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from chipmark.results.store import find_records, load_records
from chipmark.table.columns import COLUMNS, EXTRA_KEYS


def test_the_whole_way_through_on_simulated_devices(chipmark, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    first = chipmark(
        "run", "quick", "-b", "sim:golden", "-b", "sim:golden-slots", "-o", out, "--format", "json"
    )
    assert first.code == 0, first.err
    rows = first.json
    assert sorted(row["backend"] for row in rows) == ["sim:golden", "sim:golden-slots"]
    for row in rows:
        assert set(row) == {*COLUMNS, *EXTRA_KEYS}
        assert row["parity"] == "pass"
        assert row["workload"] == "agent-code-32k"
        assert row["sessions"] == 12
        assert row["decode_tok_s"] > 0
        assert row["tok_per_joule"] > 0
        assert row["power_scope"] == "board"
        assert 0 < row["prefix_hit"] <= row["prefix_hit_ideal"]
        assert 0 < row["mbu"] < 1
    manifest = load_records([out]).records[0].manifest
    assert manifest.repeats == 3
    assert manifest.limits["run_s"] == 600.0
    assert manifest.environment["child_packages"]["numpy"]
    assert manifest.load is not None
    assert manifest.load.peak_rss_bytes > 1 << 20
    assert list(out.glob(".*")) == []

    table = chipmark("table", out, "--format", "json")
    assert table.code == 0
    assert table.json == rows
    shown = chipmark("table", out)
    assert shown.code == 0
    assert "sim:golden" in shown.out
    assert "example-2026.toml" in shown.err

    golden = next(p for p in find_records([out]) if "slots" not in p.name)
    checked = chipmark("validate", golden, "--closed-form", "--format", "json")
    assert checked.code == 0, checked.out
    assert checked.json == {"records": 1, "imported_runs": 0, "errors": 0, "findings": []}

    again = chipmark("run", "quick", "-b", "sim:golden", "-o", out, "--format", "csv")
    assert again.code == 0
    assert "sim:golden fp32 agent-code-32k N=4: its record is here already; skipped" in again.err
    assert len(find_records([out])) == 2
    other = chipmark("run", "quick", "-b", "sim:golden", "--seed", 1, "-o", out, "--repeats", 1)
    assert other.code == 0
    assert "repeats: 1, fewer than 3, so nothing is ranked" in other.err
    assert max(r.manifest.repeats for r in load_records([out]).records) == 3
    assert min(r.manifest.repeats for r in load_records([out]).records) == 1
    assert len(find_records([out])) == 3

    document = json.loads((golden / "record.json").read_text())
    document["manifest"]["concurrency"] = 1
    (golden / "record.json").write_text(json.dumps(document))
    tampered = chipmark("table", out, "--format", "json")
    assert tampered.code == 2
    assert len(tampered.json) == 2
    assert "does not match its own checksum" in tampered.err
    found = chipmark("validate", golden)
    assert found.code == 1
    assert "1 errors" in found.out


def test_faults_cost_their_own_cells(chipmark, faults: None, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    backends = [f"sim:faulty-{fault}" for fault in ("crash", "raise", "flood", "noload")]
    arguments = [part for backend in ["sim:golden", *backends] for part in ("-b", backend)]
    answer = chipmark(
        "run", "quick", *arguments, "--sessions", 2, "--repeats", 1, "-o", out, "--format", "json"
    )
    assert answer.code == 4
    rows = {row["backend"]: row for row in answer.json}
    assert rows["sim:golden"]["total_tok_s"] > 0
    for backend in backends:
        assert rows[backend]["total_tok_s"] is None
        assert rows[backend]["comparable"] == []
        assert "cell_failed" in {note["code"] for note in rows[backend]["notes"]}
    manifests = {r.manifest.backend: r.manifest for r in load_records([out]).records}
    texts = {name: m.failure.text for name, m in manifests.items() if m.failure}
    assert "SIGSEGV" in texts["sim:faulty-crash"]
    assert "the provider gave up" in texts["sim:faulty-raise"]
    assert "flooded" in texts["sim:faulty-flood"]
    assert "try golden" in texts["sim:faulty-noload"]
    assert "4 of 5 cells failed" in answer.err
    assert "Traceback" not in answer.err
    # The faults stand in for the built-in class, and that alone is wrong with the record.
    findings = chipmark("validate", out, "--format", "json").json["findings"]
    assert [finding["code"] for finding in findings] == ["plugin"]


def test_capacity_lane_is_a_sweep(chipmark, tmp_path: Path) -> None:
    answer = chipmark(
        "run", "quick", "-b", "sim:golden", "--scenario", "capacity", "--concurrency", 4,
        "--sessions", 8, "--repeats", 1, "-o", tmp_path / "runs", "--format", "json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (row,) = answer.json
    assert (row["scenario"], row["concurrency"], row["slo_attainment"]) == ("capacity", 4, 1.0)
    assert "capacity_cut" in {note["code"] for note in row["notes"]}
    assert "slo_not_met" not in {note["code"] for note in row["notes"]}
    manifest = load_records([tmp_path / "runs"]).records[0].manifest
    assert (manifest.capacity.concurrency, manifest.capacity.cut) == (4, True)
    assert [point.concurrency for point in manifest.sweep] == [1, 2, 4]
    assert all(point.slo_attainment == 1.0 and point.power_w > 0 for point in manifest.sweep)
    assert all(point.sessions_per_hour > 0 for point in manifest.sweep)


def test_a_sweep_goes_beyond_the_sessions_of_the_trace(chipmark, tmp_path: Path) -> None:
    answer = chipmark(
        "run", "quick", "-b", "sim:golden", "--scenario", "capacity", "--concurrency", 6,
        "--sessions", 2, "--repeats", 1, "-o", tmp_path / "runs", "--format", "json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (row,) = answer.json
    assert row["concurrency"] == 6
    # 15 turns are too few for a claim about 95 % of them, whatever their latencies are.
    assert "slo_not_met" in {note["code"] for note in row["notes"]}


def test_the_capacity_of_an_open_loop_is_refused_before_anything_starts(
    chipmark, tmp_path: Path
) -> None:
    answer = chipmark(
        "run", "quick", "-b", "sim:golden", "-w", "agent-code-32k", "-w", "toolagent-api",
        "--scenario", "capacity", "-o", tmp_path / "runs",
    )  # fmt: skip
    assert answer.code == 2
    assert "toolagent-api" in answer.err
    assert "equal_n" in answer.err
    assert not list((tmp_path / "runs").glob("*/record.json"))


def test_a_trace_is_replayed_at_the_block_size_that_is_given(chipmark, tmp_path: Path) -> None:
    trace = tmp_path / "moon.jsonl"
    request = {"timestamp": 0, "input_length": 200, "output_length": 4, "hash_ids": [1, 2, 3, 4]}
    trace.write_text(json.dumps(request) + "\n")
    arguments = ("run", "quick", "-b", "sim:golden", "--trace", trace, "--scale", "1,1,0")
    refused = chipmark(*arguments, "-o", tmp_path / "a")
    assert refused.code == 2
    assert "moon.jsonl:1: field 'hash_ids': has 4 ids" in refused.err
    assert "--block-tokens 64" in refused.err
    out = tmp_path / "b"
    taken = chipmark(*arguments, "--repeats", 1, "--block-tokens", 64, "-o", out)
    assert taken.code == 0, taken.err
    assert load_records([out]).records[0].manifest.workload.name == "replay:moon@64"


def test_fresh_starts_a_process_for_every_repeat(chipmark, tmp_path: Path) -> None:
    answer = chipmark(
        "run", "quick", "-b", "sim:golden", "--fresh", "--sessions", 1, "--repeats", 2,
        "-o", tmp_path / "runs", "--format", "json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    record = load_records([tmp_path / "runs"]).records[0]
    assert record.manifest.options["fresh"] is True
    assert len(record.metrics.per_repeat) == 2


def test_unwritable_output_is_said_before_the_run(chipmark, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = chipmark("run", "quick", "-b", "sim:golden", "-o", tmp_path / "file" / "out")
    assert answer.code == 2
    assert "cannot be written to" in answer.err
    assert answer.out == ""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("run", "quik", "-b", "sim:golden"), "did you mean quick"),
        (("run", "quick", "-b", "smi:golden"), "sim:golden"),
        (("run", "quick", "-b", "sim:golden", "-w", "agent-code-32"), "agent-code-32k"),
        (("run", "quick", "-b", "torch:cpu", "-m", "smollm2-135n"), "smollm2-135m"),
        (("run", "quick", "-b", "sim:golden", "--precision", "fp33"), "fp32"),
        (("run", "quick", "-b", "sim:golden", "--scenario", "capacty"), "capacity"),
        (("run", "quick", "-b", "sim:golden", "--scale", "quik"), "quick"),
        (("run", "quick", "-b", "sim:golden", "--feedback", "forcd"), "forced"),
        (("run", "quick", "-b", "sim:golden", "--format", "jsn"), "json"),
        (("run", "quick", "-b", "sim:golden", "--power-w", "-3"), "not a power"),
        (("run", "quick", "-b", "sim:golden", "--power-w", "nan"), "not a power"),
        (("run", "quick", "-b", "sim:golden", "--power-w", "inf"), "not a power"),
        (("run", "quick", "-b", "sim:golden", "--limit-s", "inf"), "limit_s is inf"),
        (("run", "quick", "-b", "sim:golden", "--audit-s", "inf"), "audit_s is inf"),
        (("run", "quick", "-b", "sim:golden", "--python", "no-such-python"), "interpreter"),
        (("run", "quick", "--python", "python3"), "-b"),
        (("run", "quick", "-b", "sim:golden", "--trace", "none.jsonl"), "none.jsonl"),
        (("run", "quick", "-b", "torch:cpu", "-m", "tiny", "--transcript", "none"), "none"),
        (("table", "nowhere"), "nowhere"),
        (("validate", "nowhere"), "nowhere"),
        (("chips", "show", "nvidia-h2"), "nvidia-h20"),
        (("workload", "show", "func-cal"), "func-call"),
        (("models", "pull", "smollm2-135"), "smollm2-135m"),
        (("run", "quick", "--no-such-option"), "No such option"),
        (("tabel",), "No such command"),
    ],
)
def test_wrong_input_ends_with_2_and_names_the_nearest(
    chipmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...],
    problem: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    answer = chipmark(*arguments)
    assert answer.code == 2
    assert problem in answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert not list(tmp_path.rglob("record.json"))


def test_a_context_that_does_not_fit_says_what_would(chipmark, tmp_path: Path) -> None:
    answer = chipmark(
        "run", "quick", "-b", "torch:cpu", "-m", "smollm2-135m@synthetic", "--scale", "full",
        "-o", tmp_path / "runs",
    )  # fmt: skip
    assert answer.code == 2
    assert "8192" in answer.err
    assert "fits" in answer.err


def test_an_empty_folder_has_nothing_to_judge(chipmark, tmp_path: Path) -> None:
    for command in ("table", "validate", "cost"):
        answer = chipmark(command, tmp_path)
        assert answer.code == 3
        assert "chipmark run quick" in answer.err


def test_failed_cells_are_tried_again_and_their_old_records_go(
    chipmark, faults: None, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    arguments = (
        "run", "quick", "-b", "sim:faulty-noload", "--sessions", 1, "--repeats", 1, "-o", out,
    )  # fmt: skip
    assert chipmark(*arguments).code == 4
    (first,) = find_records([out])
    answer = chipmark(*arguments)
    assert answer.code == 4
    assert "skipped" not in answer.err
    (second,) = find_records([out])
    assert second != first


def test_a_record_that_cannot_be_written_fails_its_cell_only(
    chipmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chipmark.cell import suite_run

    write = suite_run.record_raw

    def full_disk(out: Path, raw: Path) -> Path:
        if "golden-slots" in (raw / "cell.json").read_text():
            raise OSError(28, "No space left on device")
        return write(out, raw)

    monkeypatch.setattr(suite_run, "record_raw", full_disk)
    answer = chipmark(
        "run", "quick", "-b", "sim:golden-slots", "-b", "sim:golden", "--sessions", 1,
        "--repeats", 1, "-o", tmp_path / "runs", "--format", "json",
    )  # fmt: skip
    assert answer.code == 4
    assert "No space left on device" in answer.err
    assert [row["backend"] for row in answer.json] == ["sim:golden"]


def test_a_run_that_was_cut_by_its_time_limit_is_measured_again_with_more(
    chipmark, tmp_path: Path
) -> None:
    """What ended early is a record that is done, of repeats that are not: more time is another
    measurement, and the same time is not."""
    # Simulated seconds, of which 40 sessions take more than one.
    arguments = ("run", "quick", "-b", "sim:golden", "--sessions", 40, "-o", tmp_path / "runs")
    assert chipmark(*arguments, "--limit-s", 1, "--repeats", 1).code == 0
    more = chipmark(*arguments, "--repeats", 1, "--format", "json")
    assert "skipped" not in more.err
    assert len(more.json) == 2
    assert "skipped" in chipmark(*arguments, "--limit-s", 1, "--repeats", 1).err


def test_a_limit_makes_no_other_measurement_of_what_is_whole(chipmark, tmp_path: Path) -> None:
    arguments = ("run", "quick", "-b", "sim:golden", "--sessions", 1, "-o", tmp_path / "runs")
    arguments += ("--repeats", 1)
    assert chipmark(*arguments, "--limit-s", 900).code == 0
    for limit_s in (800, 5000):
        again = chipmark(*arguments, "--limit-s", limit_s, "--format", "json")
        assert "skipped" in again.err
        assert len(again.json) == 1


def test_without_any_record_failed_cells_are_exit_4(
    chipmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chipmark.cell import suite_run

    def full_disk(out: Path, raw: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(suite_run, "record_raw", full_disk)
    answer = chipmark(
        "run", "quick", "-b", "sim:golden", "--sessions", 1, "--repeats", 1, "-o", tmp_path / "runs"
    )
    assert answer.code == 4
    assert "No space left on device" in answer.err
    assert "Traceback" not in answer.err


def test_a_second_run_into_a_folder_is_told_who_holds_it(chipmark, tmp_path: Path) -> None:
    from chipmark.cell.lock import locked

    out = tmp_path / "runs"
    out.mkdir()
    with locked(out, print):
        answer = chipmark("run", "quick", "-b", "sim:golden", "-o", out)
    assert answer.code == 2
    assert f"is being measured into by process {os.getpid()} on " in answer.err
    assert list(out.iterdir()) == []
