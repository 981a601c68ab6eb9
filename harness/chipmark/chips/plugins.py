"""Chip identifiers by name, held to the contract when they are loaded."""

from __future__ import annotations

from chipmark.chips.contract import ChipIdentifier
from chipmark.registry import check_members, load_plugin


def chip_identifier(name: str) -> ChipIdentifier:
    """The identifier of that name.

    Raises UnknownNameError, MissingBackendError where its module needs a package that is not here,
    and BrokenPluginError where it cannot be called.
    """
    identify: ChipIdentifier = load_plugin("chipmark.chips", name)
    check_members("chipmark.chips", name, identify, ChipIdentifier)
    return identify
