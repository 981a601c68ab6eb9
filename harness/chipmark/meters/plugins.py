"""Meters by name, held to the contract when they are loaded."""

from __future__ import annotations

from chipmark.meters.contract import MeterFactory
from chipmark.registry import check_members, load_plugin


def meter_factory(name: str) -> MeterFactory:
    """The factory of that name.

    Raises UnknownNameError, MissingBackendError where its module needs a package that is not here,
    and BrokenPluginError naming the member that it lacks.
    """
    factory: MeterFactory = load_plugin("chipmark.meters", name)
    check_members("chipmark.meters", name, factory, MeterFactory)
    return factory
