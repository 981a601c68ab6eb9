"""Steps of the stages for single kernels: the rows of `chipmark kernels run`, and tuned tiles.

Rows go to `kernels.json` of the output folder, which `chipmark kernels run --show` prints and
`kernels run -o` continues; what was tried to tune to `tiles.json`, and the table of the card
next to it. A row whose sources were not edited is taken from there, though its step is done anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from chipmark.kernel_bench.stages.contract import MAIN, Asked, Part, Stage, StageStep
from chipmark.kernel_bench.supervisor import Answer

if TYPE_CHECKING:
    from chipmark.kernel_bench.phases import Asker
    from chipmark.kernel_bench.worker import Bench

_BENCH = "chipmark.kernel_bench"
_USES = (
    "chipmark_kernels", f"{_BENCH}.bench", f"{_BENCH}.measuring", f"{_BENCH}.timing",
    f"{_BENCH}.attention_cases", f"{_BENCH}.gemm_cases", f"{_BENCH}.row_cases",
    f"{_BENCH}.sampling_cases",
)  # fmt: skip
"""A step that is done anew measures only the rows whose own sources were edited."""

TILE_S = 30.0
"""Of one tile, its compilation included."""

ROWS_FILE, TILES_FILE = "kernels.json", "tiles.json"


def _step(
    key: str, about: str, estimate_s: float, groups: list[str], peers: str = "none"
) -> StageStep:
    return StageStep(
        key, Stage.RUNS, about, estimate_s, 60.0, "chipmark.kernel_bench.stages.kernel_steps:rows",
        {"groups": groups, "peers": peers}, uses=_USES,
    )  # fmt: skip


STEPS = (
    _step("kernels-8b-1", "kernels of qwen3-8b, one row: parity and time", 90, ["8b-1"]),
    _step("kernels-8b", "kernels of qwen3-8b, 8 and 64 rows, prompts", 100,
          ["8b-64", "8b-prefill"]),
    _step("kernels-0.6b", "kernels of qwen3-0.6b", 90, ["0.6b"]),
    _step("kernels-peers", "the same kernels next to cuBLAS and SDPA", 120,
          ["8b-1", "8b-64", "8b-prefill", "0.6b"], "eager"),
    StageStep(
        "tune", Stage.DESIGNS, "tiles of decode, with production's flags", 210, 240.0,
        "chipmark.kernel_bench.stages.kernel_steps:tiles",
        {"models": ["qwen3-8b", "qwen3-1.7b", "qwen3-0.6b"], "rows": [1],
         "kernels": ["skinny_gemm", "gemv_hopper", "decode_attention"]},
        uses=("chipmark_kernels", f"{_BENCH}.tiling", f"{_BENCH}.tile_bench", f"{_BENCH}.timing"),
    ),
)  # fmt: skip


class InProcess:
    """Asks a bench in this very process, which the runner of the stages watches over."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._lost = bench, False

    def ask(self, request: Mapping[str, Any], step_s: float, until_s: float) -> Answer:
        """As `supervisor.Worker.ask`, but nothing here ends a step that is late."""
        from chipmark.kernel_bench.worker import error_text

        if self._lost:  # the runner ends this process, and continues in another
            raise RuntimeError("the device does not answer any more")
        parts: dict[str, Any] = {}
        for name, work in self._bench.steps(request):
            try:
                value = work()
            except Exception as error:  # a kernel that does not compile here is a result
                value = {"error": error_text(error)}
            if value is not None:
                parts[name] = value
            if not self._bench.usable():
                self._lost = True
                return Answer(parts, "lost", name, "the device did not answer after it")
        return Answer(parts, "done")


class Quiet:
    """The runner reports a part's figures."""

    def say(self, text: str) -> None:
        """Nothing."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""


def rows(asked: Asked) -> Iterator[Part]:
    """Roofs of the card where they are missing, then a part a case of the groups."""
    from chipmark.kernel_bench.bench import CudaBench
    from chipmark.kernel_bench.cases import cases

    return rows_of(asked, CudaBench(), cases())


def rows_of(asked: Asked, bench: Bench, order: list[Any]) -> Iterator[Part]:
    """`rows` by any bench."""
    from chipmark.kernel_bench import document, phases
    from chipmark.kernel_bench.order import group_of
    from chipmark.kernel_bench.row_sources import codes_of
    from chipmark.kernel_bench.selection import Peers
    from chipmark.kernel_bench.targets import read_targets

    path, peers = asked.folder / ROWS_FILE, Peers(asked.parameters["peers"])
    identity = dict(bench.identity())
    uuid = identity.pop("uuid", "")
    codes, keys = codes_of(order, identity), [(c.kernel, c.name) for c in order]
    found = document.opened(path, identity, codes)
    found["watch_missing"] = "clocks and power are not sampled within a stage"
    call = phases.Call(
        InProcess(bench), found, lambda: document.save(path, found, keys), Quiet(),
        lambda *_: [], uuid, math.inf, asked.until_s, codes, read_targets(),
    )  # fmt: skip
    if uuid not in found["roofs"]:
        yield "roofs", partial(_roofs, call)
    for case in (c for c in order if group_of(c).name in asked.parameters["groups"]):
        name = f"{case.kernel} {case.name}"
        if name in asked.broke and not phases.known(found, case):
            phases.row_of(call, case)["parity"] = {"ok": False, "error": "late, or it took the"
                                                   " process or the device with it"}  # fmt: skip
            call.save()
        if name not in asked.have:
            yield name, partial(_row, call, case, peers)


def _roofs(call: Any) -> dict[str, Any]:
    from chipmark.kernel_bench.phases import fill_roofs

    fill_roofs(call)
    return dict(call.document["roofs"][call.uuid])


def _row(call: Any, case: Any, peers: Any) -> dict[str, Any] | None:
    """The case's figures, without the raw samples that the file has."""
    from chipmark.kernel_bench import phases
    from chipmark.kernel_bench.document import failed

    if phases.open_cases(call.document, [case], peers):
        try:
            phases.measure(call, case, peers)
        finally:
            call.save()
    row = phases.row_of(call, case)
    if problem := failed(row):
        return {"error": problem}
    seconds = (row.get("time") or {}).get("ours", {}).get("median_s")
    named = ("fraction_of_roof", "best_peer", "time_of_best_peer")
    figures = {"median_s": seconds} | {key: row.get(key) for key in named}
    text = f"{case.kernel} {case.name}" + ("" if seconds is None else f": {seconds * 1e6:.2f} us")
    return figures | {MAIN: text[:60]}


def tiles(asked: Asked) -> Iterator[Part]:
    """A part a shape, by a process of its own: a tile that hangs or takes the device with it costs
    itself. The runner cuts this process, and it the other one, when the time is over."""
    from chipmark.kernel_bench import tune
    from chipmark.kernel_bench.supervisor import Worker
    from chipmark.kernel_bench.tiling import tunable_cases
    from chipmark_kernels.manifest import MODEL_SHAPES

    p = dict(asked.parameters)
    shapes = [s for name in p["models"] for s in MODEL_SHAPES if s.name == name]
    with Worker(tune.BENCH, p) as worker:
        found = tunable_cases(shapes, p["rows"], p["kernels"])
        yield from tiles_of(asked, worker, dict(worker.identity), found)


def tiles_of(
    asked: Asked, worker: Asker, identity: dict[str, Any], found: list[Any]
) -> Iterator[Part]:
    """`tiles` by any worker."""
    from chipmark.kernel_bench import tune

    tuning, _ = tune.begun(
        worker, identity, found, [asked.folder / TILES_FILE], asked.folder, Quiet(), TILE_S,
        asked.until_s + TILE_S,
    )  # fmt: skip
    for case in found:
        name = f"{case.kernel} {case.name}"
        if name not in asked.have:
            yield name, partial(_tiles, tuning, case)


def _tiles(tuning: Any, case: Any) -> dict[str, Any]:
    from chipmark.kernel_bench import tune

    begun = time.monotonic()
    if tune.open_cases(tuning, [case]):
        tune.tune_case(tuning, case)
        tuning.save()
    row = tune.row_of(tuning, case)
    if "error" in row:
        return {"error": row["error"]}
    text = f"{case.kernel} {case.name}: {row['share_of_rule']:.2f} of rule"
    return {
        "tile": row["tile"], "share_of_rule": row["share_of_rule"],
        "seconds": time.monotonic() - begun, MAIN: text[:60],
    }  # fmt: skip
