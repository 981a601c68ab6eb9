from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from chipmark.errors import MissingBackendError, UnknownNameError
from chipmark.registry import BUILT_IN, load_plugin, split_backend

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_built_in_plugins_are_those_of_the_distribution() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    points = project["entry-points"]
    assert {group: points[group] for group in points if group != "pytest11"} == BUILT_IN


def test_every_chip_and_meter_plugin_can_be_loaded() -> None:
    for group in ("chipmark.chips", "chipmark.meters"):
        for name in BUILT_IN[group]:
            assert callable(load_plugin(group, name))
    for name in BUILT_IN["chipmark.meters"]:
        assert callable(load_plugin("chipmark.meters", name).for_request)


def test_unknown_plugin_and_missing_package_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UnknownNameError, match="sim"):
        load_plugin("chipmark.backends", "sym")
    monkeypatch.setattr(
        "chipmark.registry.import_module",
        lambda name: (_ for _ in ()).throw(ModuleNotFoundError("no", name="torch")),
    )
    with pytest.raises(MissingBackendError) as caught:
        load_plugin("chipmark.backends", "torch")
    assert "chipmark[torch]" in caught.value.hint


def test_backend_names_are_split_at_the_first_colon() -> None:
    assert split_backend("torch:cuda:1") == ("torch", "cuda:1")
    with pytest.raises(UnknownNameError):
        split_backend("torch:")
