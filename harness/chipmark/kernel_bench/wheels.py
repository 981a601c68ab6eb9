"""Packages that a machine without a network lacks, from a folder of wheels carried there."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from chipmark.errors import BadInputError, ChipmarkError
from chipmark_models.scratch import Scratch


def lacking(needs: Mapping[str, str]) -> dict[str, str]:
    """Of modules (name to distribution) those that cannot be imported here, with the reason.

    They are imported: a wheel of another Python is found all the same, and fails then.
    """
    found = {}
    for module in needs:
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            found[module] = str(error)
    return found


def download_command(distributions: Iterable[str]) -> str:
    """What fetches wheels for this very Python, on a machine that has a network."""
    return (
        f"pip download {' '.join(distributions)} --python-version "
        f"{sys.version_info.major}.{sys.version_info.minor} --platform "
        f"manylinux2014_{platform.machine()} --only-binary=:all: -d FOLDER"
    )


def require(needs: Mapping[str, str], command: str) -> None:
    """Raise ChipmarkError that names what is missing and how to carry it to `command`."""
    if reasons := lacking(needs):
        told = "; ".join(f"{needs[module]} ({reason})" for module, reason in reasons.items())
        raise ChipmarkError(
            f"{sys.executable} lacks: {told}",
            "Without a network here, elsewhere run\n"
            f"  {download_command(needs[module] for module in reasons)}\n"
            f"carry FOLDER here, and call {command} --wheels FOLDER (or unpack the wheels into a "
            "folder that PYTHONPATH names)",
        )


@contextmanager
def carried(folder: Path | None) -> Iterator[dict[str, str]]:
    """The environment of a process that sees the wheels of `folder`; this one sees them too.

    They are unpacked by pip into a folder that is gone afterwards: nothing is installed. Raises
    BadInputError for a folder without wheels and for wheels that this Python cannot take.
    """
    if folder is None:
        yield dict(os.environ)
        return
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise BadInputError(folder, "holds no wheel", hint=download_command(["pydantic"]))
    with Scratch("chipmark-wheels-") as made:
        target = str(made)
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
            "--disable-pip-version-check", "--target", target, *map(str, wheels),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            told = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise BadInputError(
                folder, told, hint=f"wheels for this Python: {download_command(['pydantic'])}"
            )
        before = os.environ.get("PYTHONPATH")
        sys.path.insert(0, target)
        importlib.invalidate_caches()
        try:
            joined = os.pathsep.join([target, *([before] if before else [])])
            yield dict(os.environ) | {"PYTHONPATH": joined}
        finally:
            sys.path.remove(target)
