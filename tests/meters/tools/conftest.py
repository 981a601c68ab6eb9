"""Answers of vendors' tools as data, and programs on the PATH that print them."""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chipmark.meters.plugins import meter_factory
from chipmark.meters.tools.tool import Tool
from chipmark.registry import BUILT_IN

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Fixture:
    """One file of `data`: a tool's answers on one machine, and what is in them."""

    file: Path
    content: Mapping[str, Any]

    @property
    def tool(self) -> Tool:
        """The tool that it is of."""
        found = meter_factory(self.content["tool"])
        assert isinstance(found, Tool)
        return found

    @property
    def answers(self) -> list[dict[str, Any]]:
        """arguments, text, exit_code (0 if absent), and readings."""
        return list(self.content["answer"])

    def text(self, arguments: str) -> str:
        """What it prints for these arguments."""
        return next(a["text"] for a in self.answers if a["arguments"] == arguments)


def fixtures() -> list[Fixture]:
    """Every file of `data`."""
    return [Fixture(path, tomllib.loads(path.read_text())) for path in sorted(DATA.glob("*.toml"))]


def tools() -> list[Tool]:
    """Every registered tool."""
    found = (meter_factory(name) for name in BUILT_IN["chipmark.meters"])
    return [factory for factory in found if isinstance(factory, Tool)]


class Program:
    """A shell script on the PATH."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.with_name(f"{path.name}-answers")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.calls = self.folder / "calls"

    def does(self, script: str) -> None:
        """Do this whatever it is asked."""
        new = self.path.with_suffix(".new")
        new.write_text(f'#!/bin/sh\necho "$*" >> {shlex.quote(str(self.calls))}\n{script}\n')
        new.chmod(0o755)
        new.rename(self.path)  # a script that is running keeps its own file

    def prints(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Print these answers by their arguments, and refuse all others."""
        cases = []
        for number, answer in enumerate(answers):
            file = self.folder / f"answer-{number}"
            file.write_text(answer["text"], encoding="utf-8")
            case = f"cat {shlex.quote(str(file))}; exit {answer.get('exit_code', 0)}"
            cases.append(f"{shlex.quote(answer['arguments'])}) {case};;")
        refuse = "*) echo 'Error parameter of -t'; exit 255;;"
        self.does('case "$*" in\n' + "\n".join((*cases, refuse)) + "\nesac")

    @property
    def asked(self) -> list[str]:
        """Arguments of all calls so far."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Program]:
    """Makes a program of a name, first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return lambda name: Program(folder / name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of `stored` runs once a file of `data`, one of `registered` once a registered tool."""
    if "stored" in metafunc.fixturenames:
        found = fixtures()
        metafunc.parametrize("stored", found, ids=[one.file.stem for one in found])
    if "registered" in metafunc.fixturenames:
        metafunc.parametrize("registered", tools(), ids=lambda tool: tool.name)


@pytest.fixture(scope="session")
def every() -> list[Fixture]:
    """Every file of `data`."""
    return fixtures()
