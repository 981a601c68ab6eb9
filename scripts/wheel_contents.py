"""Compares the lists of wheel and sdist with what git tracks under the source roots.

    python scripts/wheel_contents.py                 builds a wheel and checks it
    python scripts/wheel_contents.py WHEEL [SDIST]   checks what is built

hatchling obeys .gitignore, so an unlucky pattern loses packages or data without a word.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOTS = ("harness", "models", "kernels")
WANTED = (
    "chipmark/py.typed",
    "chipmark_models/py.typed",
    "chipmark_kernels/py.typed",
)
"""A type checker ignores the types of a package without it, and nothing else fails."""
OF_SDIST = ("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml")


def tracked() -> set[str]:
    """Files of the import packages that git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *ROOTS],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    return {path for path in listed if path and Path(path).is_file()}


def built() -> set[str]:
    """Files of a wheel that is built for it, its own metadata left out."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
            check=True,
            capture_output=True,
        )
        return held(next(Path(folder).glob("*.whl")))


def held(wheel: Path) -> set[str]:
    """Files of a wheel, its own metadata left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def unpacked(sdist: Path) -> set[str]:
    """Files of an sdist by their paths in the repository."""
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def main(arguments: list[str]) -> int:
    """0 when the lists agree; 1 with the differences."""
    if not Path(".git").exists():
        print("wheel contents: not a git checkout, not compared", file=sys.stderr)
        return 0
    sources = tracked()
    in_git = {path.partition("/")[2] for path in sources}
    in_wheel = held(Path(arguments[0])) if arguments else built()
    faults = [f"not in the wheel: {path}" for path in sorted({*in_git, *WANTED} - in_wheel)]
    faults += [f"in the wheel, not in git: {path}" for path in sorted(in_wheel - in_git)]
    for sdist in arguments[1:]:
        missing = {*sources, *OF_SDIST} - unpacked(Path(sdist))
        faults += [f"not in the sdist: {path}" for path in sorted(missing)]
    sys.stderr.write("".join(f"{fault}\n" for fault in faults))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
