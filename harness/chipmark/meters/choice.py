"""`--meter NAME[:TARGET][,KEY=VALUE...]`: a meter that the user names, with what it needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from chipmark.errors import UnknownNameError, UsageError


@dataclass(frozen=True, slots=True)
class MeterChoice:
    """A meter by name. `target` is what it reads (a file, an address), "" where it needs none."""

    name: str
    target: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> str:
        """`NAME[:TARGET]` as a record keeps it: without options and without the user and password
        of an address, which readers of the record must not get."""
        target = re.sub(r"//[^/]*@", "//", self.target)
        return f"{self.name}:{target}" if target else self.name

    def check_options(self, known: tuple[str, ...]) -> None:
        """Raise UnknownNameError for an option that this meter does not have."""
        for key in self.options:
            if key not in known:
                raise UnknownNameError(f"option of --meter {self.name}", key, known)


def parse_choice(text: str) -> MeterChoice:
    """`rapl`, `redfish:https://bmc.example`, `csv:wall.csv,time=Time,power=Watts`.

    The target ends at the first comma that is followed by `KEY=`. Raises UsageError.
    """
    head, *rest = _split(text)
    name, _, target = head.partition(":")
    if not name.strip():
        raise UsageError(f"--meter {text!r} names no meter", "for example --meter rapl")
    options: dict[str, str] = {}
    for part in rest:
        key, _, value = part.partition("=")
        if key in options:
            raise UsageError(f"--meter {text!r} gives {key} twice", "give each option once")
        options[key] = value
    return MeterChoice(name.strip(), target.strip(), options)


def _split(text: str) -> list[str]:
    """At commas that begin a `KEY=`; others belong to what stands before."""
    parts: list[str] = []
    for piece in text.split(","):
        key, equals, _ = piece.partition("=")
        if parts and not (equals and key.strip().isidentifier()):
            parts[-1] += "," + piece
        else:
            parts.append(piece.strip())
    return parts
