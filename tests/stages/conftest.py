"""Steps over fake works, in real measuring processes."""

from __future__ import annotations

import importlib
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from chipmark.kernel_bench.stages.contract import Stage
from chipmark.kernel_bench.stages.document import opened
from chipmark.kernel_bench.stages.runner import Call, run
from chipmark.kernel_bench.supervisor import Worker

KIND = {"device": "fake card", "capability": "9.0", "torch": "2", "triton": "3"}


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def stage(self, text: str) -> None:
        pass

    def step(self) -> None:
        pass


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of this folder that a child process can import too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    names = ("fake_works", "stages_call")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture
def calling(fakes, tmp_path):
    """Runs steps in one call: (what is left, files by stage, lines)."""

    def call(*steps, code="1", within_s=600.0, bench="fake_works:Fragile", **options):
        files = {stage: opened(tmp_path, stage, KIND) for stage in Stage}
        told = Told()
        worker_of = options.pop("worker_of", None)
        with nullcontext() if worker_of else Worker(bench, {}) as worker:
            made = Call(
                worker_of or (lambda step: worker), files,
                {step.key: code for step in steps}, tmp_path, told,
                time.monotonic() + within_s, "card-1", **options,
            )  # fmt: skip
            left = run(made, steps)
        return [step.key for step in left], files, told.lines

    return call
