"""What is compared: two arms, each a command with a folder, an environment and source roots."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from chipmark.errors import BadInputError, UsageError
from chipmark_models.foreign_file import read_toml

Kind = Literal["commits", "commands", "configurations", "backends", "same"]
"""What differs between the arms; `same` is A/A."""

CACHES: Mapping[str, str] = {
    "XDG_CACHE_HOME": "xdg",
    "PYTHONPYCACHEPREFIX": "pycache",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "torch-extensions",
    "CUDA_CACHE_PATH": "cuda",
    "NUMBA_CACHE_DIR": "numba",
    "CHIPMARK_CACHE": "chipmark",
}
"""Variables of caches that hold what code was compiled to, and an arm's folder for each."""

_FIELD = "tool.chipmark.ab.source_roots"

_DATA_BELOW_XDG = {"HF_HOME": "huggingface", "TORCH_HOME": "torch"}
"""Downloads that lie under XDG_CACHE_HOME by default: data, not code, so they stay shared."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One side. title: for people (a commit, a command, a backend).

    tree: its checkout. cwd: where the command runs. argv: the command, its program not yet looked
    up. env: variables of this arm alone. python: the interpreter whose folder is first on PATH.
    revision: the commit, with `+dirty` where files were changed; "" outside git. project: the
    user's checkout, None where it is `tree`.
    """

    name: Literal["A", "B"]
    title: str
    tree: Path
    cwd: Path
    argv: tuple[str, ...]
    python: Path
    env: Mapping[str, str] = field(default_factory=dict)
    revision: str = ""
    project: Path | None = None

    def roots(self) -> tuple[Path, ...]:
        """The arm's source roots, by its own pyproject.toml; of a commit that names none yet, by
        the checkout's, as far as the commit has such folders."""
        if self.project is not None and _named_roots(self.tree) is None:
            named = _named_roots(self.project)
            found = [name for name in named or () if (self.tree / name).is_dir()]
            if found:
                return tuple(self.tree / name for name in found)
        return source_roots(self.tree)


def source_roots(tree: Path) -> tuple[Path, ...]:
    """`[tool.chipmark.ab] source_roots` of the tree's pyproject.toml, as absolute folders.

    Without that entry: `src` where there is one, then the tree itself. Raises BadInputError for a
    root that is not a list of relative folders, or is not there.
    """
    named = _named_roots(tree)
    if named is None:
        return tuple(p for p in (tree / "src", tree) if p.is_dir())
    for name in named:
        if not (tree / name).is_dir():
            raise BadInputError(
                tree / "pyproject.toml", f"there is no folder {name!r} here", field=_FIELD
            )
    return tuple(tree / name for name in named)


def _named_roots(tree: Path) -> list[str] | None:
    """What the tree's pyproject.toml names, None where it names none."""
    path = tree / "pyproject.toml"
    if not path.is_file():
        return None
    named: Any = read_toml(path)
    for key in ("tool", "chipmark", "ab", "source_roots"):
        named = named.get(key) if isinstance(named, dict) else None
    if named is None:
        return None
    if not isinstance(named, list) or not named or not all(isinstance(n, str) for n in named):
        raise BadInputError(path, 'is not a list of folders, as ["src"]', field=_FIELD)
    for name in named:
        if not (tree / name).resolve().is_relative_to(tree.resolve()):
            raise BadInputError(path, f"{name!r} leads out of the project", field=_FIELD)
    return named


def environment(
    arm: Arm, base: Mapping[str, str], caches: Path, reports: Path, hook: Path
) -> dict[str, str]:
    """The variables of a process of this arm.

    PYTHONPATH: the import hook, the arm's source roots, then what was there. PATH: the programs of
    the arm's interpreter first, so that a bare `pytest` is that one's. Caches below `caches`.
    """
    env = dict(base)
    before = env.get("PYTHONPATH")
    roots = [str(hook), *(str(root) for root in arm.roots()), *([before] if before else [])]
    home_cache = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME", "/")) / ".cache")
    for variable, folder in _DATA_BELOW_XDG.items():
        env.setdefault(variable, str(Path(home_cache) / folder))
    for variable, folder in CACHES.items():
        env[variable] = str(caches / folder)
        (caches / folder).mkdir(parents=True, exist_ok=True)
    # Compiled files lie in the arm's own folder: start-up is warm in both arms or in neither.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env.pop("PYTHONHOME", None)
    env.update(
        PYTHONPATH=os.pathsep.join(roots),
        PATH=os.pathsep.join([str(arm.python.parent), env.get("PATH", os.defpath)]),
        PYTHONHASHSEED=env.get("PYTHONHASHSEED", "0"),
        CHIPMARK_AB_MODULES=str(reports),
        CHIPMARK_AB_ARM=arm.name,
    )
    env.update(arm.env)
    return env


def program(arm: Arm, path: str) -> str:
    """The absolute path of the arm's program.

    A bare name is looked up on `path`; one with a folder in it below the arm's folder. Raises
    UsageError where there is none.
    """
    name = arm.argv[0]
    if os.sep in name:
        found = shutil.which(str(arm.cwd / name))
        # A virtual environment is in the user's checkout, never in a worktree.
        found = found or shutil.which(str(Path.cwd() / name))
    else:
        found = shutil.which(name, path=path)
    if found is None:
        raise UsageError(
            f"arm {arm.name}: there is no program {name!r}",
            f"looked in {arm.cwd} and in the PATH that begins with {arm.python.parent}",
        )
    return found


def check_differ(kind: Kind, a: Arm, b: Arm) -> None:
    """UsageError where arms of commands or configurations are the same word for word."""
    if kind in ("commands", "configurations", "backends") and (
        (a.argv, dict(a.env), a.cwd, a.python) == (b.argv, dict(b.env), b.cwd, b.python)
    ):
        raise UsageError(
            f"both arms are the same {kind.removesuffix('s')}: {' '.join(a.argv)}",
            "give two that differ; `chipmark aa` runs one against itself",
        )


def differences(a: Arm, b: Arm) -> list[str]:
    """What tells the arms apart, for the record: command, variables, interpreter, revision."""
    found = []
    if a.argv != b.argv:
        found.append(f"command: {_words(a.argv)} | {_words(b.argv)}")
    for name in sorted(a.env.keys() | b.env.keys()):
        if a.env.get(name) != b.env.get(name):
            found.append(f"{name}: {a.env.get(name, 'unset')} | {b.env.get(name, 'unset')}")
    if a.python != b.python:
        found.append(f"interpreter: {a.python} | {b.python}")
    if a.revision != b.revision:
        found.append(f"revision: {a.revision} | {b.revision}")
    return found


def _words(argv: Sequence[str]) -> str:
    return " ".join(argv)
