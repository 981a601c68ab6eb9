"""What stage 1's own steps make of a machine, without a card."""

from __future__ import annotations

import json
import math
import sys
import time

import pytest
import torch

from chipmark.kernel_bench.stages import card, environment, nodes, smoke, trace
from chipmark.kernel_bench.stages.contract import Asked
from chipmark.kernel_bench.stages.document import as_json

CPU = torch.device("cpu")


def asked(tmp_path, **parameters):
    return Asked(parameters, frozenset(), tmp_path, time.monotonic() + 60)


def test_the_environment_of_this_machine_is_json(tmp_path) -> None:
    parts = dict(environment.environment(asked(tmp_path)))
    assert list(parts) == ["versions", "triton_needs", "cache", "packages_of_records", "card"]
    found = as_json(parts["versions"]())
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"] is not None
    if not torch.cuda.is_available():
        assert parts["card"]() == {"left_out": "no CUDA device"}


def test_a_machine_without_a_compiler_or_python_h_is_said_to_run_no_kernel(monkeypatch) -> None:
    monkeypatch.setenv("CC", sys.executable)
    monkeypatch.setattr(environment.sysconfig, "get_paths", lambda: {"include": "/nowhere"})
    with pytest.raises(FileNotFoundError, match=r"Python\.h"):
        environment.triton_needs()
    monkeypatch.setenv("CC", "/nowhere/cc")
    with pytest.raises(FileNotFoundError, match="a C compiler"):
        environment.triton_needs()


def test_the_row_of_the_card_is_found_by_its_uuid() -> None:
    def row(name, uuid):
        return ", ".join([name, uuid, *(f"v{i}" for i in range(len(card.FIELDS) - 2))])

    two = f"{row('A', 'GPU-1')}\n{row('B', 'GPU-2')}\n"
    assert card.card_of(two, "2")["name"] == "B"
    assert card.card_of(two, "3") == {}
    assert card.card_of(row("A", "GPU-1"), "")["driver_version"] == "v0"
    assert card.card_of("Unable to determine the device\n", "1") == {}


def test_smoke_takes_each_kernel_at_its_smallest_and_names_a_wrong_one(
    tmp_path, monkeypatch
) -> None:
    smallest = smoke.smallest()
    names = [case.kernel for case in smallest]
    assert len(names) == len(set(names)) >= 10
    assert [case.bytes for case in smallest] == sorted(case.bytes for case in smallest)
    case = next(case for case in smallest if case.check is None and case.oracle is None)
    import dataclasses

    right = dataclasses.replace(case, ours=case.reference)
    assert smoke.launched(right, CPU, torch.float16)["ok"]

    def wrong(*inputs):
        found = case.reference(*inputs)
        return found + 1 if torch.is_tensor(found) else tuple(f + 1 for f in found)

    with pytest.raises(ArithmeticError, match=case.name.split()[0]):
        smoke.launched(dataclasses.replace(case, ours=wrong), CPU, torch.float16)
    # After a fault its sanitizer comes first.
    monkeypatch.setattr(smoke, "tool", lambda name: None)
    broke = frozenset({names[0], "start", "compute-sanitizer x"})
    after = Asked({"device": "cpu"}, broke, tmp_path, 0.0, broke)
    assert sum(part.startswith("compute-sanitizer") for part, _ in smoke.smoke(after)) == 1
    name, look = next(smoke.smoke(after))
    assert name == f"compute-sanitizer {names[0]}"
    assert look() == {"left_out": "compute-sanitizer is not here"}


def test_a_node_costs_what_one_more_adds() -> None:
    class Paper:
        """A replay takes 10 us, and 2 us a node."""

        def capture(self, calls):
            return lambda: 10e-6 + 2e-6 * len(calls)

    seconds, samples = nodes.node_s(Paper(), lambda: None, repeats=3)
    assert math.isclose(seconds, 2e-6)
    assert len(samples) == 3


def test_a_launch_is_timed_from_an_idle_device_and_until_its_end() -> None:
    now = 0.0

    class Graph:
        def replay(self):
            nonlocal now
            now += 5.0

    def synchronize():
        nonlocal now
        now += 1.0

    cost = nodes.launch_cost(Graph(), synchronize, lambda: now, repeats=4)
    assert (cost.host_s, cost.until_done_s) == (5.0, 6.0)


def test_a_trace_is_summed_by_kernel_without_the_gaps_between_replays() -> None:
    def event(name, ts, dur, cat="kernel"):
        return {"name": name, "ts": ts, "dur": dur, "cat": cat}

    one = [event("gemv", 0, 10), event("norm", 12, 3), event("gemv", 15, 10)]
    two = [event(e["name"], e["ts"] + 1000, e["dur"]) for e in one]
    host = [event("cudaGraphLaunch", 0, 500, "cuda_runtime"), {"name": "x", "ts": 1}]
    found = trace.summary([*two, *host, *one], 2)
    assert (found["launches"], found["kernels_us"], found["gaps_us"]) == (3, 23, 2)
    assert found["kernels"] == [
        {"kernel": "gemv", "count": 2, "us": 20, "gap_us": 0},
        {"kernel": "norm", "count": 1, "us": 3, "gap_us": 2},
    ]
    assert found["span_us"] == 25
    # A dependent launch that starts before the one ahead has ended leaves no gap.
    overlapping = [event("a", 0, 10), event("b", 8, 5), event("a", 20, 1)]
    found = trace.summary(overlapping, 1)
    assert (found["span_us"], found["kernels_us"], found["gaps_us"]) == (21, 16, 7)
    with pytest.raises(ValueError, match="not 4 times"):
        trace.summary(one + two, 4)
    with pytest.raises(ValueError, match="no event of the device"):
        trace.summary(host, 1)


@pytest.fixture
def paper_cache(tmp_path, monkeypatch):
    """A folder of Triton's cache with one kernel."""
    kernel = tmp_path / "triton" / "KEY"
    kernel.mkdir(parents=True)
    (kernel / "k.cubin").write_bytes(b"code")
    listed = {"child_paths": {"k.cubin": str(kernel / "k.cubin")}}
    (kernel / "__grp__k.json").write_text(json.dumps(listed))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    return tmp_path / "triton"


def test_the_cache_says_whether_it_hits_and_is_packed_into_one_file(paper_cache, tmp_path) -> None:
    from chipmark.kernel_bench.stages import cache

    before = cache.state("sm_90")
    assert before["carried"] is None
    assert not cache.hits(before)
    found = cache.packed(paper_cache, tmp_path / "out.tar.gz", "sm_90")
    assert (found["kernels"], found["file"]) == (1, "out.tar.gz")
    assert cache.hits(cache.state("sm_90"))
    assert "made for sm_90, here is sm_80" in cache.state("sm_80")["misses"]
    assert as_json(cache.state("sm_90"))["carried"]["kernels"] == 1
    (tmp_path / "none").mkdir()
    with pytest.raises(RuntimeError, match="no compiled kernel"):
        cache.packed(tmp_path / "none", tmp_path / "out.tar.gz", "sm_90")


def test_what_the_cache_lacks_is_made_by_a_process_of_its_own(
    paper_cache, tmp_path, monkeypatch
) -> None:
    import subprocess

    from chipmark.kernel_bench.stages import cache
    from chipmark_kernels.device import TARGETS

    told = {"failed": [], "made": 3, "found": 1, "compile_s": 2.5}
    commands = []

    def answer(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, json.dumps(told), "")

    monkeypatch.setattr(cache.subprocess, "run", answer)
    monkeypatch.setattr(cache, "facts_of", lambda device: TARGETS["sm_90"])
    request = asked(tmp_path, models="tiny", contexts="64")
    [(_, make)] = cache.precompile(request)
    assert make()["main"] == "3 made, 1 were there, in 2.5 s"
    assert commands[0][3:] == [
        "ahead", "--cache", str(paper_cache), "--models", "tiny", "--contexts", "64",
        "--target", "sm_90", "--product", "", "--format", "json",
    ]  # fmt: skip
    told["failed"] = ["gemv: spills"]
    with pytest.raises(RuntimeError, match="gemv: spills"):
        make()
    cache.packed(paper_cache, tmp_path / "out.tar.gz", "sm_90")
    assert make()["main"] == "the carried cache hits"
    assert len(commands) == 2


@pytest.mark.long  # the first start of a profiler
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_the_trace_itself_is_one_file_next_to_the_figures(tmp_path, monkeypatch) -> None:
    import gzip
    from types import SimpleNamespace

    played = []
    step = SimpleNamespace(play=lambda: played.append(torch.ones(3) + 1))
    paper = SimpleNamespace(PORTABLE="portable", whole_step=lambda *_, **__: step)
    monkeypatch.setitem(sys.modules, "chipmark.kernel_bench.whole_step", paper)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(trace, "facts_of", lambda device: None)
    monkeypatch.setattr(trace, "designs_for", lambda facts: ("portable", "pdl"))
    one = {"models": ["tiny"], "context": 64, "replays": 2}
    assert [name for name, _ in trace.trace(asked(tmp_path, **one, designs=[]))] == ["tiny pdl"]
    [(name, make)] = trace.trace(asked(tmp_path, **one, designs=["portable"]))
    assert name == "tiny portable"
    with pytest.raises(ValueError, match="no event of the device"):  # for there is none here
        make()
    assert len(played) == 3
    [left] = tmp_path.iterdir()
    assert left.name == "trace-tiny-portable.json.gz"
    assert "traceEvents" in json.loads(gzip.decompress(left.read_bytes()))


def test_people_read_each_contestants_rate() -> None:
    from chipmark.kernel_bench.stages.step_steps import main_line

    times = {
        "portable": {"tok_s": 209.4, "mbu_nameplate": 0.66},
        "torch": {"tok_s": 100.0, "mbu_nameplate": None},
        "pdl": {"error": "does not compile"},
    }
    line = main_line(times)
    assert line == "portable 209 tok/s (66% of nameplate), torch 100 tok/s, pdl fails"


def test_packages_that_stage_3_lacks_are_named_in_stage_1(monkeypatch) -> None:
    from chipmark.kernel_bench import wheels

    monkeypatch.setattr(wheels, "lacking", lambda needs: {"pydantic": "No module named 'pydantic'"})
    found = environment.packages_of_records()
    assert found["missing"] == {"pydantic": "No module named 'pydantic'"}
    assert "kernels wheels" in found["way_out"]
    monkeypatch.setattr(wheels, "lacking", lambda needs: {})
    assert environment.packages_of_records() == {"missing": {}}
