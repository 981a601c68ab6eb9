"""Builds the wheel and compares its list with what git tracks under the source roots.

hatchling obeys .gitignore, so an unlucky pattern loses packages or data without a word.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOTS = ("harness", "models", "kernels")


def tracked() -> set[str]:
    """Files of the import packages that git knows, as paths inside a wheel."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *ROOTS],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    return {path.partition("/")[2] for path in listed if path and Path(path).is_file()}


def built() -> set[str]:
    """Files of the wheel, its own metadata left out."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
            check=True,
            capture_output=True,
        )
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            return {name for name in archive.namelist() if ".dist-info/" not in name}


def main() -> int:
    """0 when both lists agree; 1 with the differences."""
    if not Path(".git").exists():
        print("wheel contents: not a git checkout, not compared", file=sys.stderr)
        return 0
    in_git, in_wheel = tracked(), built()
    for path in sorted(in_git - in_wheel):
        print(f"not in the wheel: {path}", file=sys.stderr)
    for path in sorted(in_wheel - in_git):
        print(f"in the wheel, not in git: {path}", file=sys.stderr)
    return int(in_git != in_wheel)


if __name__ == "__main__":
    sys.exit(main())
