"""Entry point of group `pytest11`: options, and the rest only where a `benchmark` fixture is.

This module loads in every pytest run of an environment that holds chipmark, so it imports
nothing but pytest; NumPy, torch and the backends come with the first test that asks for them.
"""

from __future__ import annotations

import pytest

PROVIDERS = ("benchmark", "codspeed")
"""Plug-ins whose `benchmark` fixture has `pedantic`: pytest-benchmark and pytest-codspeed."""

DEFAULT_BACKEND = "torch:cpu"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of chipmark, all with its prefix."""
    group = parser.getgroup("chipmark", "chipmark: device time, rates and joules in benchmarks")
    group.addoption(
        "--chipmark-backend",
        metavar="KIND:DEVICE",
        help=f"Backend of chipmark's own workloads, and the accelerator whose identity goes into "
        f"the JSON: torch:cuda, ort:cpu, sim:golden. Default: the ini value chipmark_backend, "
        f"then {DEFAULT_BACKEND}.",
    )
    group.addoption(
        "--chipmark-strict",
        action="store_true",
        help="Refuse too: a baseline without an accelerator's identity, one whose driver or other "
        "context differs, and timing of a device without sync= or event=.",
    )
    group.addoption(
        "--chipmark-storage",
        action="store_true",
        help="Keep pytest-benchmark's storage in a folder of its own for each accelerator.",
    )
    group.addoption(
        "--chipmark-power-w",
        type=float,
        metavar="W",
        help="Declared power where no meter is here; marked as declared.",
    )
    group.addoption(
        "--chipmark-price-per-hour",
        type=float,
        metavar="PRICE",
        help="Price of the unit and hour; gives cost per million tokens at this very load.",
    )
    parser.addini("chipmark_backend", "Default of --chipmark-backend.", default=DEFAULT_BACKEND)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the fixture and the hooks before pytest-benchmark loads its baselines."""
    if not any(config.pluginmanager.hasplugin(name) for name in PROVIDERS):
        return
    from chipmark.pytest_plugin import hooks

    hooks.check_options(config)
    if config.getoption("chipmark_storage") and config.pluginmanager.hasplugin("benchmark"):
        hooks.move_storage(config)
    config.pluginmanager.register(hooks.Hooks(config), "chipmark-hooks")
