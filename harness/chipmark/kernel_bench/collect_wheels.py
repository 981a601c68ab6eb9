"""`chipmark kernels wheels`: the wheels that `chipmark kernels models` needs on a machine without a
network, in a folder to be carried there.

Each is of the version in constraints.txt, with all that it needs in turn. What an image of torch
has (torch, triton, NumPy, rich) and what a measuring run does not import (pandas, scipy) is left
out. They are tried before they are carried: unpacked for that Python, and imported by it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from chipmark.errors import ChipmarkError, UsageError
from chipmark_models.scratch import Scratch

CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"
WHEELS = {
    "pyarrow": "pyarrow", "pydantic": "pydantic", "pydantic_core": "pydantic_core",
    "annotated-types": "annotated_types", "typing_extensions": "typing_extensions",
    "typing-inspection": "typing_inspection", "typer": "typer", "click": "click",
    "shellingham": "shellingham", "annotated-doc": "annotated_doc", "psutil": "psutil",
    "nvidia-ml-py": "pynvml",
}  # fmt: skip
"""Distributions and the module of each, with what they need beyond what the image has."""

MOST_BYTES = 60_000_000
"""Most bytes of the folder: it travels with the checkout."""

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64", "manylinux2010_x86_64")
_IN_IMAGE = ("numpy", "rich", "torch", "triton")


def pinned(constraints: Path) -> list[str]:
    """`NAME==VERSION` of each of WHEELS. UsageError where the file does not pin one."""
    try:
        lines = constraints.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        text = f"{constraints} cannot be read: {error.strerror}"
        raise UsageError(
            text, "run it in a checkout, whose constraints.txt has the versions"
        ) from error
    versions = dict(line.split("==", 1) for line in lines if "==" in line and line[0] != "#")
    if missing := [name for name in WHEELS if name not in versions]:
        raise UsageError(f"{constraints} does not pin {', '.join(missing)}", "add their versions")
    return [f"{name}=={versions[name].strip()}" for name in WHEELS]


def download(python: str, folder: Path) -> list[Path]:
    """Fetch the wheels of a Python version ("3.12") into `folder`. ChipmarkError says what pip
    said."""
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    _pip(
        sys.executable, "download", "--no-deps", "--only-binary=:all:", "--python-version", python,
        *platforms, "-d", str(folder), *pinned(CONSTRAINTS),
    )  # fmt: skip
    return sorted(folder.glob("*.whl"))


def try_out(interpreter: str, wheels: Sequence[Path]) -> str:
    """Unpack the wheels for an interpreter, import each, and ask pip's metadata whether anything
    that they need is neither among them nor in the image; the Python that did. ChipmarkError where
    that fails."""
    with Scratch("chipmark-wheels-") as made:
        target = str(made)
        _pip(interpreter, "install", "--no-index", "--no-deps", "--target", target,
             *map(str, wheels))  # fmt: skip
        code = _TRIAL.format(
            target=target, modules=sorted(WHEELS.values()), in_image=sorted(_IN_IMAGE)
        )
        done = subprocess.run(
            [interpreter, "-c", code], capture_output=True, text=True, check=False, timeout=120
        )
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ChipmarkError(f"{interpreter} cannot use the wheels: {told}", "look at their pins")
    return done.stdout.strip()


_TRIAL = """
import importlib, re, sys
from importlib import metadata
sys.path.insert(0, {target!r})
for name in {modules!r}:
    found = importlib.import_module(name)
    if not found.__file__.startswith({target!r}):
        raise ImportError(name + ' was not taken from the wheels')
have = {{d.name.lower().replace('_', '-') for d in metadata.distributions(path=[{target!r}])}}
have |= set({in_image!r})
for d in metadata.distributions(path=[{target!r}]):
    for need in d.requires or ():
        if ';' in need and re.search('extra|win|Windows|python_version', need):
            continue
        name = re.match('[A-Za-z0-9._-]+', need)[0].lower().replace('_', '-')
        if name not in have:
            raise ImportError(d.name + ' needs ' + need)
print('.'.join(map(str, sys.version_info[:3])))
"""


def _pip(interpreter: str, *words: str) -> None:
    command = [interpreter, "-m", "pip", words[0], "-q", "--disable-pip-version-check", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise ChipmarkError(f"pip {words[0]}: {told}", "is the index of packages reachable?")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 where wheels cannot be fetched, are too large or do not work."""
    parser = argparse.ArgumentParser(prog="chipmark kernels wheels", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--python", default="3.12", help="version there (3.12)")
    parser.add_argument("--try-with", metavar="PYTHON",
                        help="an interpreter of that version here (pythonVERSION)")  # fmt: skip
    options = parser.parse_args(argv)
    try:
        wheels = download(options.python, options.out)
        total = sum(wheel.stat().st_size for wheel in wheels)
        for wheel in wheels:
            print(f"{wheel.stat().st_size / 1e6:7.2f} MB  {wheel.name}")
        print(f"{total / 1e6:7.2f} MB  in {options.out}")
        if len(wheels) != len(WHEELS):
            text = f"{options.out} holds {len(wheels)} wheels, not {len(WHEELS)}"
            raise UsageError(text, "give an empty folder: -o")
        if total > MOST_BYTES:
            raise UsageError(f"they are over {MOST_BYTES / 1e6:.0f} MB", "leave something out")
        said = try_out(options.try_with or f"python{options.python}", wheels)
        print(f"all were imported by Python {said}; carry the folder, and there: "
              "scripts/gpu models --wheels DIR")  # fmt: skip
    except FileNotFoundError as error:
        print(f"error: there is no {error.filename} here to try them with; --try-with PYTHON",
              file=sys.stderr)  # fmt: skip
        return 2
    except ChipmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
