"""Data files of the user's own, added to the built-in ones: chips, providers, torch devices.

They are in the folder that the variable `CHIPMARK_CONFIG` names, else in `chipmark` under
`XDG_CONFIG_HOME` or `~/.config`. Standard library only: the measured process reads them too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chipmark.errors import BadInputError
from chipmark_models.foreign_file import SETTINGS_BYTES, decode, parse_toml, read_bytes

VARIABLE = "CHIPMARK_CONFIG"
"""Environment variable with the folder; an empty folder there switches the user's files off."""


@dataclass(frozen=True, slots=True)
class UserFile:
    """A TOML file of the user's that was read."""

    path: Path
    data: dict[str, Any]
    label: str
    """What a record says of it: name and SHA-256 (12 digits), without the folder."""

    def refuse_reserved(self, names: Collection[str], reserved: Collection[str]) -> None:
        """Raise BadInputError for a name that the package defines.

        Otherwise a file could decide what `ort:cpu`, or a chip of the catalogue, means.
        """
        for name in names:
            if name in reserved:
                raise BadInputError(
                    self.path, "is a built-in name, which is reserved", field=name, hint="rename it"
                )


def user_file(name: str) -> UserFile | None:
    """The user's file `name` ("chips.toml"), None where there is none.

    Raises BadInputError where it cannot be read or is invalid TOML.
    """
    path = config_folder() / name
    if os.environ.get(VARIABLE) and not path.parent.is_dir():
        raise BadInputError(path.parent, f"is not a folder, but {VARIABLE} names it")
    if not os.path.lexists(path):
        return None
    raw = read_bytes(path, SETTINGS_BYTES)
    data = parse_toml(decode(raw, path), path)
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return UserFile(path, data, f"the user's {name}, sha256 {digest}")


def config_folder() -> Path:
    """The folder of the user's files, which need not exist."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path("~/.config").expanduser()) / "chipmark"
