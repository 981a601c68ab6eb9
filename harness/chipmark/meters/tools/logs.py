"""Logs of `name : value` lines in indented sections, a part for each device."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_DEEPEST = 12
_LONGEST_LINE = 1000

Place = tuple[str, str]
"""(section, name) of a value."""


@dataclass(frozen=True, slots=True)
class DeviceLog:
    """What a log says of a device. `begins`: the match of the line (or a JSON object's number)
    that begins it. `values`: by (section, name), both in lower case with single blanks; "" is the
    section of what is in none. A name may stand there several times."""

    begins: Mapping[str, str]
    values: Mapping[Place, Sequence[str]]

    def first(self, *places: Place) -> str | None:
        """The text at the first of these places that is there."""
        return next((self.values[place][0] for place in places if place in self.values), None)

    def fields(self, places: Mapping[str, Sequence[Place]]) -> dict[str, str | Sequence[str]]:
        """Texts of a reading's fields, of each one's places in their order."""
        return {
            name: tuple(self.values[place][0] for place in where if place in self.values)
            for name, where in places.items()
        }


def device_logs(text: str, begins: re.Pattern[str]) -> list[DeviceLog]:
    """The devices of a log; `begins` matches (from its start) the line that begins one, and its
    groups are kept. Lines before the first device belong to none."""
    devices: list[DeviceLog] = []
    values: dict[Place, list[str]] = {}
    sections: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not line.strip() or len(line) > _LONGEST_LINE:
            continue
        line = line.expandtabs(8)
        bare = line.strip()
        found = begins.match(bare)
        if found is not None:
            values, sections = {}, []
            groups = {name: value or "" for name, value in found.groupdict().items()}
            devices.append(DeviceLog(groups, values))
            continue
        indent = len(line) - len(line.lstrip())
        while sections and sections[-1][0] >= indent:
            sections.pop()
        name, colon, value = bare.partition(":")
        if colon and value.strip():
            section = sections[-1][1] if sections else ""
            values.setdefault((section, _plain(name)), []).append(value.strip())
        else:
            sections.append((indent, _plain(name)))
    return devices


def device_objects(devices: Any) -> list[DeviceLog]:
    """The same of a JSON array of objects, nested as sections are; [] for anything else."""
    if not isinstance(devices, list):
        return []
    logs = []
    for number, device in enumerate(devices):
        values: dict[Place, list[str]] = {}
        _flatten(device, "", values, _DEEPEST)
        if isinstance(device, dict):
            logs.append(DeviceLog({"number": str(number)}, values))
    return logs


def _flatten(value: Any, section: str, into: dict[Place, list[str]], depth: int) -> None:
    if not isinstance(value, dict) or depth == 0:
        return
    for name, inner in value.items():
        if isinstance(inner, dict):
            _flatten(inner, _plain(name), into, depth - 1)
        elif isinstance(inner, (str, int, float)) and not isinstance(inner, bool):
            into.setdefault((section, _plain(name)), []).append(str(inner).strip())


def _plain(name: str) -> str:
    return " ".join(name.lower().split())
