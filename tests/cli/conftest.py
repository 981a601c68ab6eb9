from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chipmark.cli.main import main

FAULTS = Path(__file__).parents[1] / "cell" / "faults"


@dataclass(frozen=True)
class Answer:
    """What a command line returned and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as one JSON document."""
        return json.loads(self.out)


Chipmark = Callable[..., Answer]


@pytest.fixture
def chipmark(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Chipmark:
    """Run a command line in this process; children are processes of their own all the same."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def run(*arguments: object) -> Answer:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return run


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children know `sim:faulty-FAULT`."""
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAULTS), *([before] if before else [])]))
