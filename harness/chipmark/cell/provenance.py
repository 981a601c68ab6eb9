"""What software measured: installed packages, and the commit of chipmark's own source.

Standard library only, as a child reports its own packages.
"""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

GIT_LIMIT_S = 10.0


def installed_packages() -> dict[str, str]:
    """Versions of every installed distribution of this interpreter by name, sorted."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(name.lower().replace("_", "-"), distribution.version)
    return dict(sorted(found.items()))


@cache
def own_commit() -> str:
    """`source_commit` of this very code, asked once: the code that runs was loaded by then."""
    return source_commit(Path(__file__))


def source_commit(source: Path) -> str:
    """Commit of the checkout that `source` is tracked in, "+dirty" behind it where a tracked file
    of the checkout differs; "" where `source` is not tracked (an installed wheel) or git is not
    here."""
    folder = source.resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", source.resolve().name) is None:
        return ""
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changed is None:
        return ""
    return f"{commit}+dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
