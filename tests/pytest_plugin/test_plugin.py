"""The plug-in beside pytest-benchmark, in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from chipmark.benchmark_json.read import read_benchmark_json

V3 = Path(__file__).parents[1] / "benchmark_json" / "data" / "v3.json"

STEP_S = 2 * 1e-3 + 2 * 41 * 1e-8
"""sim:golden: 1 ms a decode row, 10 ns a token of its context."""


def needs(package: str) -> None:
    """Skip without a package; it is imported in the inner process alone."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def test_a_decode_step_is_the_closed_form_in_stats_and_extra_info(bench) -> None:
    document = bench.test().json()
    (entry,) = document["benchmarks"]
    assert entry["stats"]["data"] == pytest.approx([STEP_S] * 64)
    assert entry["options"]["timer"] == "device_clock"
    block = entry["extra_info"]["chipmark"]
    assert block["schema"] == "chipmark.pytest/1"
    assert block["tok_s"] == pytest.approx(2 / STEP_S)
    assert block["p95_s"] == pytest.approx(STEP_S)
    assert block["tpot_p50_s"] == pytest.approx(STEP_S)
    assert block["energy_j"] == pytest.approx(STEP_S * 200.0)
    assert (block["energy_source"], block["power_scope"]) == ("counter", "sim")
    assert block["cost_per_mtok"] is None
    assert block["null_reasons"]["cost_per_mtok"] == "no_price"
    (accelerator,) = document["machine_info"]["chipmark"]["accelerators"]
    assert accelerator["backend"] == "sim:golden"
    run = read_benchmark_json(bench.path / "run.json")
    assert run.accelerators is not None
    assert run.benchmarks[0].chipmark == block


def test_cost_is_that_of_the_rented_hour(bench) -> None:
    block = bench.test().json("--chipmark-price-per-hour=3.6")["benchmarks"][0]["extra_info"]
    assert block["chipmark"]["cost_per_mtok"] == pytest.approx(1e6 * 0.001 * STEP_S / 2)


def test_p95_needs_59_rounds_of_one_call(bench) -> None:
    bench.test("def test_a(chipmark):\n    chipmark(len, 'ab', tokens=1, rounds=58)\n")
    block = bench.json()["benchmarks"][0]["extra_info"]["chipmark"]
    assert block["null_reasons"]["p95_s"] == "n_too_small"
    bench.test("def test_a(chipmark):\n    chipmark(len, 'ab', rounds=60, calls=5)\n")
    block = bench.json()["benchmarks"][0]["extra_info"]["chipmark"]
    assert (block["p95_s"], block["calls_per_sample"]) == (None, 5)
    assert block["null_reasons"]["p95_s"] == "mean_of_calls"
    assert block["null_reasons"]["tok_s"] == "no_tokens"


def test_sessions_through_the_engine(bench) -> None:
    document = bench.test("def test_a(chipmark):\n    chipmark.run(rounds=2)\n").json()
    (entry,) = document["benchmarks"]
    block = entry["extra_info"]["chipmark"]
    assert block["ttft_p50_s"] > 0
    assert block["tpot_p50_s"] > 1e-3
    assert entry["stats"]["ops"] * block["n_tokens"] == pytest.approx(block["tok_s"])
    assert block["details"]["parity"] == "unchecked"


def test_rounds_of_the_same_turns_are_no_further_samples(bench) -> None:
    """The few turns of a session run forty times are as few: no p95 comes of the copies."""
    document = bench.test("def test_a(chipmark):\n    chipmark.run(rounds=40)\n").json()
    block = document["benchmarks"][0]["extra_info"]["chipmark"]
    for name in ("ttft_p95_s", "tpot_p95_s"):
        assert block[name] is None
        assert block["null_reasons"][name] == "n_too_small"


def test_torch_on_the_cpu(bench) -> None:
    needs("torch")
    block = bench.test().json("--chipmark-backend=torch:cpu")["benchmarks"][0]["extra_info"]
    assert block["chipmark"]["clock"] == "host"
    assert block["chipmark"]["tok_s"] > 0
    assert block["chipmark"]["null_reasons"]["cost_per_mtok"] == "no_price"


def test_declared_power_is_marked(bench) -> None:
    needs("torch")
    options = ("--chipmark-backend=torch:cpu", "--chipmark-power-w=50")
    block = bench.test().json(*options)["benchmarks"][0]["extra_info"]["chipmark"]
    assert block["energy_source"] == "declared"
    assert block["energy_j"] >= 50 * block["p50_s"] * 0.1


def test_device_events_give_the_time(bench) -> None:
    source = (
        "class Event:\n"
        "    now = 0.0\n"
        "    def record(self): Event.now += 2.0; self.at = Event.now\n"
        "    def synchronize(self): pass\n"
        "    def elapsed_time(self, end): return end.at - self.at\n"
        "def test_a(chipmark):\n"
        "    assert chipmark(lambda: 7, event=Event, tokens=4, rounds=60) == 7\n"
    )
    (entry,) = bench.test(source).json()["benchmarks"]
    assert entry["stats"]["data"] == pytest.approx([0.002] * 60)
    assert entry["extra_info"]["chipmark"]["clock"] == "device_events"
    assert entry["extra_info"]["chipmark"]["p95_s"] == pytest.approx(0.002)


def test_disable_runs_once(bench) -> None:
    source = (
        "calls = []\n"
        "def test_a(chipmark):\n"
        "    chipmark(calls.append, 1, rounds=9, calls=9)\n"
        "    assert calls == [1] and not chipmark.enabled\n"
    )
    bench.test(source).run("--benchmark-disable").assert_outcomes(passed=1)


def test_skip_and_only(bench) -> None:
    bench.test("def test_plain(): pass\ndef test_a(chipmark): chipmark(len, 'a', rounds=1)\n")
    bench.run("--benchmark-skip").assert_outcomes(passed=1, skipped=1)
    bench.run("--benchmark-only").assert_outcomes(passed=1, skipped=1)


def test_xdist_disables_as_pytest_benchmark_does(bench) -> None:
    needs("xdist")
    source = (
        "calls = []\n"
        "def test_a(chipmark):\n"
        "    chipmark(calls.append, 1)\n"
        "    assert calls == [1]\n"
    )
    result = bench.test(source).run("-n", "1", "-W", "default")
    result.assert_outcomes(passed=1)
    assert "Benchmarks are automatically disabled" in result.stdout.str() + result.stderr.str()


def test_groups_marks_and_the_section(bench) -> None:
    source = (
        "import pytest\n"
        "@pytest.mark.benchmark(group='steps')\n"
        "@pytest.mark.parametrize('batch', [1, 2])\n"
        "def test_a(chipmark, batch):\n"
        "    chipmark.decode_step(batch=batch, context=32, rounds=3)\n"
    )
    result = bench.test(source).run("--benchmark-json=run.json")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*benchmark 'steps': 2 tests*", "*chipmark, backend sim:golden*"])
    run = read_benchmark_json(bench.path / "run.json")
    assert {benchmark.group for benchmark in run.benchmarks} == {"steps"}


def test_autosave_compare_and_compare_fail(bench) -> None:
    bench.test().run("--benchmark-autosave").assert_outcomes(passed=1)
    same = bench.run("--benchmark-compare", "--benchmark-compare-fail=mean:1%", "-W", "default")
    same.assert_outcomes(passed=1)
    same.stdout.fnmatch_lines(["*test_step (NOW)*"])
    assert same.ret == 0
    bench.test(
        "def test_step(chipmark):\n    chipmark.decode_step(batch=3, context=40, rounds=64)\n"
    )
    slower = bench.run("--benchmark-compare", "--benchmark-compare-fail=mean:5%", "-W", "default")
    assert slower.ret == 1
    assert "Performance has regressed" in slower.stdout.str() + slower.stderr.str()


def test_another_accelerator_is_refused(bench) -> None:
    bench.test().run("--benchmark-autosave").assert_outcomes(passed=1)
    other = bench.run("--benchmark-compare", "--chipmark-backend=sim:slots", "-W", "default")
    assert other.ret == pytest.ExitCode.USAGE_ERROR
    assert "the baseline ran on sim:golden" in other.stderr.str()
    assert "this run is on sim:slots" in other.stderr.str()


def test_storage_is_moved_only_when_asked(bench) -> None:
    bench.test().run("--benchmark-autosave").assert_outcomes(passed=1)
    (plain,) = (bench.path / ".benchmarks").rglob("*.json")
    assert len(plain.relative_to(bench.path).parts) == 3
    bench.run("--benchmark-autosave", "--chipmark-storage").assert_outcomes(passed=1)
    moved = list((bench.path / ".benchmarks").glob("sim-golden-*/*/*.json"))
    assert len(moved) == 1


def test_an_older_baseline_is_read_and_refused_only_when_strict(bench) -> None:
    bench.test()
    (bench.path / "old.json").write_bytes(V3.read_bytes())
    read = bench.run("--benchmark-compare=old.json", "-W", "default")
    read.assert_outcomes(passed=1)
    strict = bench.run("--benchmark-compare=old.json", "--chipmark-strict", "-W", "default")
    assert strict.ret == pytest.ExitCode.USAGE_ERROR
    assert "does not say on which accelerator" in strict.stderr.str()


def test_strict_wants_a_sync_on_a_device(bench) -> None:
    bench.test("def test_a(chipmark):\n    chipmark(len, 'a')\n")
    result = bench.run("--chipmark-strict", "-W", "default")
    assert "give sync= or event=" in result.stdout.str()
    assert result.ret == 1


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--chipmark-backend=nothing:here", "unknown backend 'nothing:here'"),
        ("--chipmark-power-w=-1", "--chipmark-power-w is -1"),
        ("--chipmark-price-per-hour=nan", "--chipmark-price-per-hour is nan"),
    ],
)
def test_a_wrong_option_is_a_usage_error(bench, option: str, says: str) -> None:
    result = bench.test().run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in result.stderr.str()


def test_a_timer_of_the_users_is_refused(bench) -> None:
    source = (
        "import pytest, time\n"
        "@pytest.mark.benchmark(timer=time.time)\n"
        "def test_a(chipmark): chipmark(len, 'a')\n"
    )
    result = bench.test(source).run()
    assert "brings its own timer" in result.stdout.str() + result.stderr.str()
    assert result.ret != 0


def test_nothing_happens_without_pytest_benchmark(bench) -> None:
    bench.test("def test_plain(): pass\n")
    bench.run("-p", "no:benchmark", "-p", "no:codspeed").assert_outcomes(passed=1)


def test_beside_codspeed(bench) -> None:
    needs("pytest_codspeed")
    bench.test("def test_a(chipmark):\n    assert chipmark(len, 'ab', rounds=2) == 2\n")
    bench.run().assert_outcomes(passed=1)
    result = bench.run("--codspeed", "--codspeed-mode=walltime", "-W", "default")
    result.assert_outcomes(passed=1)


def test_the_entry_point_imports_nothing_heavy() -> None:
    code = (
        "import sys, json, pytest\n"
        "before = set(sys.modules)\n"
        "import chipmark.pytest_plugin.plugin\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == [
        "chipmark", "chipmark.pytest_plugin", "chipmark.pytest_plugin.plugin",
    ]  # fmt: skip


def test_two_runs_of_the_fixture_go_through_import_and_gate(bench, capsys) -> None:
    """The block in `extra_info` must not be taken for what `chipmark ab` writes there."""
    from chipmark.cli.main import main

    for name in ("one", "two"):
        bench.test().json()
        file = bench.path / f"{name}.json"
        (bench.path / "run.json").rename(file)
        assert main(["import", str(file), "-o", str(bench.path / name)]) == 0
    capsys.readouterr()
    code = main(["gate", str(bench.path / "one"), str(bench.path / "two"), "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    # Two sessions without A/A between them: nothing moved, and no more can be said.
    assert (code, row["verdict"], row["estimate"]["effect"]) == (3, "inconclusive", 0.0)
