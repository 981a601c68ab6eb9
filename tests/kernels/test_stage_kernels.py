"""The steps of the stages for kernels, on a CPU: rows that `kernels run` reads, tiles by shape."""

from __future__ import annotations

import dataclasses
import time

import pytest

from chipmark.kernel_bench.order import GROUPS
from chipmark.kernel_bench.selection import Peers
from chipmark.kernel_bench.stages import kernel_steps
from chipmark.kernel_bench.stages.contract import Asked, Stage
from chipmark_kernels.device import TARGETS

GROUP = {"groups": ["others"], "peers": "none"}


def _asked(folder, parameters, have=(), **fields):
    return Asked(parameters, frozenset(have), folder, time.monotonic() + 1e6, **fields)


class Bench:
    """Every case passes and takes a millisecond; words by case name change that."""

    def __init__(self, words=None) -> None:
        self.words, self.asked, self.lost = words or {}, [], False

    def identity(self):
        return {"device": "fake", "uuid": "card"}

    def usable(self) -> bool:
        return not self.lost

    def steps(self, request):
        if request["do"] == "roofs":
            yield "copy", lambda: {"copy_bytes_per_s": 1e12}
            return
        self.asked.append(request["case"][1])
        yield "parity", lambda: self._parity(self.words.get(request["case"][1]))
        yield "ours", lambda: {"median_s": 1e-3, "from_s": 0.0, "to_s": 0.0}

    def _parity(self, word):
        if word == "lose":
            self.lost = True
            raise RuntimeError("an illegal memory access was encountered")
        return {"ok": True, "results": []}


def test_the_plan_has_every_group_that_is_not_quantised_and_tells_the_time() -> None:
    keys = [step.key for step in kernel_steps.STEPS]
    assert len(set(keys)) == len(keys)
    groups = {g for s in kernel_steps.STEPS for g in s.parameters.get("groups", ())}
    assert groups <= {group.name for group in GROUPS}
    assert {"8b-1", "8b-64", "8b-prefill", "0.6b"} <= groups
    assert sum(s.estimate_s for s in kernel_steps.STEPS if s.stage is Stage.RUNS) <= 420
    for step in kernel_steps.STEPS:
        assert len(step.about) <= 60
        module, _, name = step.work.partition(":")
        assert module == kernel_steps.__name__
        assert callable(getattr(kernel_steps, name))


def test_a_step_writes_the_rows_that_the_command_reads(kernel_bench, tmp_path) -> None:
    cases = [c for c in kernel_bench.cases.cases(small=True) if c.kernel == "swiglu"]
    bench = Bench()
    parts = {n: make() for n, make in kernel_steps.rows_of(_asked(tmp_path, GROUP), bench, cases)}
    assert list(parts) == ["roofs", *(f"swiglu {c.name}" for c in cases)]
    assert parts[f"swiglu {cases[0].name}"]["median_s"] == 1e-3
    document = kernel_bench.document.read(tmp_path / kernel_steps.ROWS_FILE)
    assert [r["case"] for r in document["rows"]] == [c.name for c in cases]
    assert kernel_bench.phases.open_cases(document, cases, Peers.NONE) == []
    shown = kernel_bench.command.main(["--show", str(tmp_path / kernel_steps.ROWS_FILE)])
    assert shown == 1  # a millisecond misses the target of a small operation
    # A step that is done anew has what stands in the file, and asks the bench for nothing.
    again = Bench()
    [make() for _, make in kernel_steps.rows_of(_asked(tmp_path, GROUP), again, cases)]
    assert again.asked == []
    # Peers of the same rows come later.
    later = _asked(tmp_path, GROUP | {"peers": "eager"})
    [make() for _, make in kernel_steps.rows_of(later, again, cases)]
    assert again.asked == [c.name for c in cases]
    resumed = _asked(tmp_path, GROUP, [f"swiglu {c.name}" for c in cases[1:]])
    names = [name for name, _ in kernel_steps.rows_of(resumed, again, cases)]
    assert names == [f"swiglu {cases[0].name}"]


def test_a_lost_device_and_a_part_that_hung_are_rows_with_an_error(kernel_bench, tmp_path) -> None:
    cases = [c for c in kernel_bench.cases.cases(small=True) if c.kernel == "swiglu"]
    bench = Bench({cases[0].name: "lose"})
    parts = dict(kernel_steps.rows_of(_asked(tmp_path, GROUP), bench, cases))
    parts["roofs"]()
    assert "illegal memory" in parts[f"swiglu {cases[0].name}"]()["error"]
    with pytest.raises(RuntimeError, match="does not answer"):
        parts[f"swiglu {cases[1].name}"]()
    name = f"swiglu {cases[1].name}"
    asked = _asked(tmp_path, GROUP, [name], broke=frozenset([name]))
    [make() for _, make in kernel_steps.rows_of(asked, Bench(), cases)]
    rows = kernel_bench.document.read(tmp_path / kernel_steps.ROWS_FILE)["rows"]
    failures = [kernel_bench.document.failed(row) for row in rows]
    assert failures == ["RuntimeError: an illegal memory access was encountered",
                        "late, or it took the process or the device with it", ""]  # fmt: skip


def test_tiles_are_tuned_a_part_a_shape_and_the_table_lies_beside(kernel_bench, tmp_path) -> None:
    shapes = [s for s in kernel_bench.tile_bench.MODEL_SHAPES if s.name == "qwen3-8b"]
    cases = kernel_bench.tiling.tunable_cases(shapes, [1], ["skinny_gemm"])[:2]
    facts = dataclasses.replace(TARGETS["sm_90"], product="nvidia-h200")
    identity = {"device": "NVIDIA H200", "facts": dataclasses.asdict(facts), "triton": "3.6.0"}

    class Fast:
        def ask(self, request, step_s, until_s):
            named = (kernel_bench.tiling.name_of(kernel_bench.tile_bench.Tile(**t))
                     for t in request["tiles"])  # fmt: skip
            prefix = kernel_bench.tile_bench.AGAIN if request["again"] else ""
            parts = {prefix + n: {"median_s": 0.5 if " n=8 " in n else 1.0} for n in named}
            return kernel_bench.supervisor.Answer(parts, "done")

    asked = _asked(tmp_path, {})
    parts = {n: make() for n, make in kernel_steps.tiles_of(asked, Fast(), identity, cases)}
    assert [part["share_of_rule"] for part in parts.values()] == [0.5, 0.5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nvidia-h200.json", "tiles.json"]
