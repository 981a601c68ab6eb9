from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from chipmark import registry
from chipmark.chips.plugins import chip_identifier
from chipmark.engine.contract import BackendDefaults
from chipmark.engine.plugins import backend_factory, needs_weights_file, open_backend
from chipmark.errors import BrokenPluginError, MissingBackendError, UnknownNameError
from chipmark.meters.plugins import meter_factory
from chipmark.registry import (
    BUILT_IN,
    GROUPS,
    identity_of,
    load_plugin,
    plugins,
    refused_plugins,
    split_backend,
)

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Entry points (distribution, group, name, value) as if they were installed."""

    def put(*points: tuple[str, str, str, str]) -> None:
        made = []
        for owner, group, name, value in points:
            point = EntryPoint(name=name, value=value, group=group)
            vars(point).update(dist=SimpleNamespace(name=owner, version="1.5"))
            made.append(point)
        monkeypatch.setattr(
            registry, "entry_points", lambda group: [p for p in made if p.group == group]
        )
        registry._known.cache_clear()

    yield put
    registry._known.cache_clear()


def test_built_in_plugins_are_those_of_the_distribution() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    points = project["entry-points"]
    assert {group: points[group] for group in points if group != "pytest11"} == BUILT_IN


def test_every_chip_and_meter_plugin_can_be_loaded() -> None:
    for name in BUILT_IN["chipmark.chips"]:
        assert callable(load_plugin("chipmark.chips", name))
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


def test_a_strangers_missing_package_is_not_an_extra_of_chipmark(install: Install) -> None:
    install(("vendor-wheel", "chipmark.backends", "npu", "no_such_package:Backend"))
    with pytest.raises(MissingBackendError, match="no_such_package") as caught:
        load_plugin("chipmark.backends", "npu")
    assert "chipmark[" not in caught.value.hint
    assert "vendor-wheel" in caught.value.hint


@pytest.mark.parametrize("kind", ["sim", "torch", "ort", "triton"])
def test_built_in_backends_keep_the_contract_of_factories(kind: str) -> None:
    factory = backend_factory(kind)
    assert factory.needs_weights_file == (kind == "ort")
    assert needs_weights_file(f"{kind}:cpu") == (kind == "ort")


def test_a_plugin_that_lacks_a_member_is_refused_by_its_name(install: Install) -> None:
    install(
        ("w", "chipmark.meters", "lacking", "json.decoder:JSONDecoder"),
        ("w", "chipmark.chips", "lacking", "json:__name__"),
        ("w", "chipmark.backends", "lacking", "json.decoder:JSONDecoder"),
    )
    with pytest.raises(BrokenPluginError, match=r"'lacking' of w has no 'for_request'"):
        meter_factory("lacking")
    with pytest.raises(BrokenPluginError, match="cannot be called"):
        chip_identifier("lacking")
    with pytest.raises(BrokenPluginError, match="needs_weights_file"):
        backend_factory("lacking")


def test_a_backend_that_a_factory_makes_is_held_to_the_contract(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lacks(BackendDefaults):
        def __init__(self, device: str) -> None:
            self.device = device

    install(("w", "chipmark.backends", "lacks", "json:JSONDecoder"))
    monkeypatch.setattr("json.JSONDecoder", Lacks)
    with pytest.raises(BrokenPluginError, match="has no 'load'"):
        open_backend("lacks:0")


def test_backend_names_are_split_at_the_first_colon() -> None:
    assert split_backend("torch:cuda:1") == ("torch", "cuda:1")
    with pytest.raises(UnknownNameError):
        split_backend("torch:")


def test_names_of_built_in_plugins_are_reserved(install: Install) -> None:
    taken = {"chipmark.backends": "torch", "chipmark.chips": "nvidia", "chipmark.meters": "nvml"}
    install(*(("bad-wheel", group, name, "evil:Thing") for group, name in taken.items()))
    for group in GROUPS:
        name = taken[group]
        assert plugins(group)[name].value == BUILT_IN[group][name]
        assert load_plugin(group, name).__module__.startswith("chipmark.")
        (text,) = refused_plugins(group)
        assert "bad-wheel" in text
        assert repr(name) in text


def test_chipmarks_own_entry_points_are_not_refused(install: Install) -> None:
    install(*(("chipmark", g, name, value) for g in GROUPS for name, value in BUILT_IN[g].items()))
    assert all(refused_plugins(group) == () for group in GROUPS)


def test_a_name_that_two_distributions_give_is_nobodys(install: Install) -> None:
    group = "chipmark.backends"
    install(("one", group, "npu", "one:B"), ("two", group, "npu", "two:B"))
    assert "npu" not in plugins("chipmark.backends")
    with pytest.raises(UnknownNameError) as caught:
        split_backend("npu:0")
    assert "one and two" in caught.value.hint


def test_a_plugin_is_identified_by_module_distribution_and_source(install: Install) -> None:
    install(("vendor", "chipmark.backends", "npu", "json.decoder:JSONDecoder"))
    factory = load_plugin("chipmark.backends", "npu")
    found = identity_of("chipmark.backends", "npu", factory())
    assert (found.module, found.distribution, found.version) == ("json.decoder", "vendor", "1.5")
    assert len(found.sha256) == 64
    assert not found.built_in
    own = identity_of("chipmark.chips", "nvidia", load_plugin("chipmark.chips", "nvidia"))
    assert own.built_in
    assert own.module == "chipmark.chips.identify"


def test_a_built_in_that_was_replaced_at_run_time_is_not_built_in() -> None:
    from chipmark.backends.sim.backend import SimBackend

    class Replaced(SimBackend):
        pass

    assert identity_of("chipmark.backends", "sim", SimBackend("golden")).built_in
    found = identity_of("chipmark.backends", "sim", Replaced("golden"))
    assert not found.built_in
    assert found.module == __name__
    assert found.distribution == ""
