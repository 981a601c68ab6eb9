"""No environment that pyproject.toml allows is one that cannot run the tests."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]

# Tried in environments of their own: these fail with pytest 9.2.0, in every test or in every one
# under --codspeed, for want of attributes of pytest that it no longer has.
BROKEN = [
    ("pytest-benchmark", "5.0.0"),
    ("pytest-benchmark", "5.2.3"),
    ("pytest-benchmark", "5.3.0"),
    ("pytest-codspeed", "4.0.0"),
    ("pytest-codspeed", "5.0.3"),
]


def requirements() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        listed += extra
    return {r.name: r for r in map(Requirement, listed) if r.name != "chipmark"}


@pytest.mark.parametrize(("name", "version"), BROKEN)
def test_a_pair_that_cannot_run_is_excluded(name: str, version: str) -> None:
    found = requirements()
    assert not (Version("9.2.0") in found["pytest"].specifier and version in found[name].specifier)


def test_the_versions_that_are_tested_together_are_allowed() -> None:
    found = requirements()
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if re.match(r"[\w.-]+==", line))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    for name, requirement in found.items():
        version = pinned.get(name.lower().replace("_", "-"))
        assert version is None or version in requirement.specifier, name
