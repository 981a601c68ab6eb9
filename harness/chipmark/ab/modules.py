"""Which code an arm really ran: path and content hash of the project modules it imported."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chipmark.errors import BadInputError, ChipmarkError, UsageError
from chipmark_models.files import sha256_of_file
from chipmark_models.foreign_file import DATA_BYTES, parse_json, read_bytes

HOOK = Path(__file__).parent / "hook"
"""Folder of the `sitecustomize` that reports imports; first on an arm's PYTHONPATH."""

_INSTALLED = ("site-packages", "dist-packages")


class SameCodeError(ChipmarkError):
    """Both arms ran the same code, or an arm ran code that is not its own."""


@dataclass(frozen=True, slots=True)
class Module:
    """A project module. `inside`: whether its file is in the arm's own tree."""

    name: str
    path: str
    sha256: str
    inside: bool


@dataclass(frozen=True, slots=True)
class Places:
    """Where an arm's own code is, and where code of the project may lie that is not its own.

    tree: the arm's checkout. project: the user's checkout, whose files an editable install gives
    to everybody. names: top-level names that the arm's source roots define.
    """

    tree: Path
    project: Path
    names: frozenset[str] = frozenset()


def imported(folder: Path, places: Places) -> dict[str, Module]:
    """Project modules that the processes of a round reported under `folder`, by name and path.

    A module belongs to the project where its file is in the arm's tree or in the user's
    checkout, or where its top-level name is defined by the arm's source roots; installed packages
    and the standard library are left out otherwise.
    """
    found: dict[str, Module] = {}
    for report in sorted(folder.glob("modules-*.jsonl")):
        # Written by the arm's own processes, whose paths need not be UTF-8.
        text = read_bytes(report, DATA_BYTES).decode("utf-8", "surrogateescape")
        for line in text.splitlines():
            entry = parse_json(line, report)
            if not isinstance(entry, list) or len(entry) != 2:
                raise BadInputError(report, "is not a list of modules")
            name, file = map(str, entry)
            path = Path(file)
            if not _of_project(name, path, places) or not path.is_file():
                continue
            inside = _below(path, places.tree)
            shown = path.relative_to(places.tree).as_posix() if inside else str(path)
            if name == "__main__":
                name = f"__main__:{path.name}"
            found[f"{name} {shown}"] = Module(name, shown, sha256_of_file(path), inside)
    return found


def top_level_names(roots: Iterable[Path]) -> frozenset[str]:
    """Packages and modules that lie directly in the source roots."""
    names: set[str] = set()
    for root in roots:
        for entry in root.iterdir() if root.is_dir() else ():
            if entry.suffix == ".py" and entry.stem.isidentifier():
                names.add(entry.stem)
            elif (entry / "__init__.py").is_file():
                names.add(entry.name)
    return frozenset(names - {"setup", "conftest", "sitecustomize"})


def code_hash(modules: Mapping[str, Module]) -> str:
    """One hash over names and contents; paths are left out, since worktrees differ in them."""
    digest = hashlib.sha256()
    for name, content in sorted({(m.name, m.sha256) for m in modules.values()}):
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def check_unchanged(arm: str, before: Mapping[str, Module], now: Mapping[str, Module]) -> None:
    """UsageError where a module's content is not that of an earlier round of the same arm."""
    changed = sorted(k for k in before.keys() & now.keys() if before[k].sha256 != now[k].sha256)
    if changed:
        raise UsageError(
            f"arm {arm}: {before[changed[0]].path} was changed while the run was going on",
            "leave the files alone, or measure a commit: --base REV --head REV",
        )


def check_own_code(
    a: Mapping[str, Module], b: Mapping[str, Module], *, differ: bool, whole_code: bool
) -> None:
    """Refuse arms whose code is not what they say.

    differ: the arms must have run different code. whole_code: each arm must have taken its
    modules from its own tree (two commits). Raises SameCodeError.
    """
    if whole_code:
        for arm, modules in (("A", a), ("B", b)):
            foreign = sorted(m.path for m in modules.values() if not m.inside)
            if foreign:
                raise SameCodeError(
                    f"arm {arm} ran code that is not its own: {foreign[0]}"
                    + (f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""),
                    "an installed copy was found first; name the folders that hold the project's "
                    "packages: [tool.chipmark.ab] source_roots in pyproject.toml",
                )
    if not differ:
        return
    if not a and not b:
        raise SameCodeError(
            "no arm reported a module of the project, so that nothing shows what ran",
            "the command must run Python without -I or -E; source roots are named in "
            "[tool.chipmark.ab] source_roots of pyproject.toml",
        )
    if code_hash(a) == code_hash(b):
        raise SameCodeError(
            f"both arms ran the same code: {len(a)} modules with equal contents",
            "the commits differ in nothing that this command imports; an A/A run is `chipmark aa`",
        )


def _of_project(name: str, path: Path, places: Places) -> bool:
    if _below(path, HOOK):
        return False
    if name.partition(".")[0] in places.names and name != "__main__":
        return True
    if any(part in _INSTALLED for part in path.parts) or _in_stdlib(path):
        return False
    if _in_environment(path.parent):
        return False
    return _below(path, places.tree) or _below(path, places.project)


@cache
def _in_environment(folder: Path) -> bool:
    """Whether a folder is in a virtual environment, such as a checkout's own `.venv`: the
    scripts in its `bin` are not the project's code."""
    return any((place / "pyvenv.cfg").is_file() for place in (folder, *folder.parents))


def _in_stdlib(path: Path) -> bool:
    return any(_below(path, Path(sysconfig.get_path(key))) for key in ("stdlib", "platstdlib"))


def _below(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder) or path.resolve().is_relative_to(folder.resolve())
