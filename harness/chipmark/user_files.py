"""Data files of the user's own, added to the built-in ones: chips, providers, torch devices.

Each is named by a variable of its own (`VARIABLES`), else it is in the folder that the variable
`CHIPMARK_CONFIG` names, else in `chipmark` under `XDG_CONFIG_HOME` or `~/.config`. An option of the
command line sets the variable (`using`), so that a measured process reads the same file. Standard
library only: that process may have nothing else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chipmark.errors import BadInputError
from chipmark_models.foreign_file import SETTINGS_BYTES, decode, parse_toml, read_bytes

VARIABLE = "CHIPMARK_CONFIG"
"""Environment variable with the folder; an empty folder there switches the user's files off."""

PROVIDERS, CHIPS, TORCH_DEVICES = "providers.toml", "chips.toml", "torch_devices.toml"

VARIABLES: Mapping[str, str] = {
    PROVIDERS: "CHIPMARK_PROVIDERS",
    CHIPS: "CHIPMARK_CHIPS",
    TORCH_DEVICES: "CHIPMARK_TORCH_DEVICES",
}
"""Environment variable with the path of each file, which then is read in place of the folder's."""


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

    Raises BadInputError where it is named and not there, cannot be read or is invalid TOML.
    """
    found = user_bytes(name)
    return None if found is None else parsed(*found)


def user_bytes(name: str) -> tuple[Path, bytes] | None:
    """Path and content of the user's file `name`, for what keeps its meaning and must see another
    one. Errors as `user_file`."""
    variable = VARIABLES[name]
    if named := os.environ.get(variable):
        path = Path(named).expanduser()
        if not path.is_file():
            raise BadInputError(path, f"is not a file, but {variable} (or its option) names it")
        return path, read_bytes(path, SETTINGS_BYTES)
    path = config_folder() / name
    if os.environ.get(VARIABLE) and not path.parent.is_dir():
        raise BadInputError(path.parent, f"is not a folder, but {VARIABLE} names it")
    if not os.path.lexists(path):
        return None
    return path, read_bytes(path, SETTINGS_BYTES)


def parsed(path: Path, raw: bytes) -> UserFile:
    """A file of the user's from its content. BadInputError for invalid TOML."""
    data = parse_toml(decode(raw, path), path)
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return UserFile(path, data, f"the user's {path.name}, sha256 {digest}")


def labels() -> list[str]:
    """What a record says of every file of the user's that is in use here."""
    return [own.label for name in VARIABLES if (own := user_file(name)) is not None]


@contextmanager
def using(**files: str | os.PathLike[str] | None) -> Iterator[None]:
    """Read these files of the user's meanwhile, here and in every process started: `providers`,
    `chips`, `torch_devices`, each a path, or None for what the environment says.

    Raises BadInputError for one that is not there.
    """
    named = {VARIABLES[f"{kind}.toml"]: path for kind, path in files.items() if path}
    before = {variable: os.environ.get(variable) for variable in named}
    try:
        for variable, path in named.items():
            # A process with another working directory reads it too.
            os.environ[variable] = str(Path(path).expanduser().resolve())
        for kind in files:
            user_bytes(f"{kind}.toml")
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


def config_folder() -> Path:
    """The folder of the user's files, which need not exist."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path("~/.config").expanduser()) / "chipmark"
