"""The environment of Ascend's compilers: found, or made in the cache from pinned packages.

It is one of its own, since triton-ascend takes over the name `triton`, and its wheel is for Python
3.11 alone.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chipmark.errors import ChipmarkError, UsageError
from chipmark.supervised import run_supervised
from chipmark_models.cache import cache_path
from chipmark_models.scratch import Scratch

PACKAGES = {"triton-ascend": "3.2.0", "ascendnpu-ir": "1.2.0", "pybind11": "3.1.0"}
"""pybind11 is what triton-ascend imports and does not declare."""

_SHA256: Mapping[str, tuple[str, ...]] = {
    "triton-ascend": (
        "17c8d7161eed1e96a286281963fe04d3113ee85affaa5d82c7dd0c35803962f0",  # x86_64
        "69a9aecd6fa8b0beb798d16989bb24bc8a1ad61ded71526d6099d4179c428043",  # aarch64
    ),
    "ascendnpu-ir": (
        "d4e5bfab877ee4ba7b312885f4f5bf646072fd47c88d5aa96f6a11f67d3e8522",  # x86_64
        "76aaaedd3c4a08148a690f1bdddf2e2668f484989ab261fdb7e19cdba5d0f957",  # aarch64
    ),
    "pybind11": ("b8488090f8acffbcb6b5d6a85571a6827a0a2981ffb75e5a0b27b87c4a6b7dd0",),
}

PYTHON = (3, 11)
NAME = "-".join(["ascend", *(f"{n}-{v}" for n, v in PACKAGES.items() if n != "pybind11")])
NEEDED_BYTES = 1_000 * 1000 * 1000
"""Of disk: 215 MB fetched, 720 MB unpacked."""

_PROBE_S, _SET_UP_S = 60.0, 1_800.0
_PROBE = """
import importlib.metadata as m, json, sys, sysconfig
found = {}
for name in sys.argv[1:]:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: pass
print(json.dumps([list(sys.version_info[:2]), found, sysconfig.get_path("platlib")]))
"""


class CompilerUnavailableError(ChipmarkError):
    """Ascend's compilers cannot be had on this machine; `hint` says what would help."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class AscendEnvironment:
    """python: whose `triton` is triton-ascend. compiler: `bishengir-compile`."""

    python: Path
    compiler: Path


@dataclass(frozen=True, slots=True)
class _Interpreter:
    python: Path
    version: tuple[int, ...]
    packages: Mapping[str, str]
    site: Path

    @property
    def whole(self) -> bool:
        return self.packages == PACKAGES

    def environment(self) -> AscendEnvironment:
        compiler = self.site / "ascendnpuir" / "bin" / "bishengir-compile"
        return AscendEnvironment(self.python, compiler)


def _probed(python: str | Path) -> _Interpreter | None:
    """What an interpreter has; None where it does not run."""
    command = [str(python), "-I", "-c", _PROBE, *PACKAGES]
    try:
        done = run_supervised(command, os.environ, _PROBE_S)
        version, packages, site = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    return _Interpreter(Path(python), tuple(version), packages, Path(site))


def found_or_made(
    python: Path | None, may_set_up: bool, say: Callable[[str], None]
) -> AscendEnvironment:
    """The environment: of `python` where it has the packages, the cache's, or made now.

    python: a Python 3.11 to take; None looks at this one and for `python3.11` on PATH. Raises
    UsageError for a `python` that is none, CompilerUnavailableError where it cannot be had.
    """
    given = None if python is None else _given(python)
    if given is not None and given.whole:
        return given.environment()
    folder = cache_path(NAME)
    ready = _probed(folder / "bin" / "python")
    if ready is not None and ready.whole:
        return ready.environment()
    base = given or _interpreter()
    _check_machine()
    if not may_set_up:
        raise CompilerUnavailableError(
            "Ascend's compilers are not set up here",
            "the same command without --no-setup fetches 215 MB from the package index",
        )
    made = _make(base, folder, say)
    return made.environment()


def _given(python: Path) -> _Interpreter:
    found = _probed(python)
    if found is None:
        raise UsageError(f"--python: {python} does not run as a Python interpreter")
    if found.version != PYTHON:
        version = ".".join(map(str, found.version))
        raise UsageError(
            f"--python: {python} is Python {version}; triton-ascend's wheel is for 3.11 alone"
        )
    return found


def _interpreter() -> _Interpreter:
    candidates = [sys.executable if sys.version_info[:2] == PYTHON else "", _on_path()]
    for candidate in filter(None, candidates):
        found = _probed(candidate)
        if found is not None and found.version == PYTHON:
            return found
    raise CompilerUnavailableError(
        "Ascend's compilers need a Python 3.11 (their wheels are for no other), and there is none "
        "on PATH",
        "name one: --python PATH",
    )


def _on_path() -> str:
    return shutil.which("python3.11") or ""


def _check_machine() -> None:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        raise CompilerUnavailableError(
            f"Ascend's compilers are made for Linux on x86_64 and aarch64, not {sys.platform} on "
            f"{machine}",
            "run the command on such a machine",
        )


def requirements() -> str:
    """The pinned packages as pip reads them with --require-hashes."""
    lines = []
    for name, version in PACKAGES.items():
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in _SHA256[name])
        lines.append(f"{name}=={version} {hashes}")
    return "\n".join(lines) + "\n"


def _make(base: _Interpreter, folder: Path, say: Callable[[str], None]) -> _Interpreter:
    """Make the environment in a folder next to its place, and move it there whole."""
    parent = folder.parent
    free = shutil.disk_usage(parent).free
    if free < NEEDED_BYTES:
        raise CompilerUnavailableError(
            f"{parent} has {free // 10**6} MB free; Ascend's compilers take 720 MB",
            "name another folder: CHIPMARK_CACHE=FOLDER",
        )
    packages = ", ".join(f"{name} {version}" for name, version in PACKAGES.items())
    say(f"Setting up {folder} once, from {base.python}: {packages} (215 MB to fetch, 720 MB)")
    with Scratch(f"{NAME}-making-", parent) as scratch:
        wanted, place = scratch / "requirements.txt", scratch / "made"
        wanted.write_text(requirements(), encoding="ascii")
        _run([str(base.python), "-m", "venv", str(place)], "venv")
        # The wheels of all three say what they need, which is nothing that is not here.
        options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(wanted)]
        quiet = ["-q", "--no-input", "--disable-pip-version-check"]
        _run([str(place / "bin" / "python"), "-m", "pip", "install", *quiet, *options], "pip")
        made = _probed(place / "bin" / "python")
        if made is None or not made.whole:
            raise CompilerUnavailableError(
                f"pip has not installed {packages} into {place}", "try again, or --python PATH"
            )
        _run([str(made.environment().compiler), "--version"], "bishengir-compile")
        if folder.exists():
            # Another command has made it meanwhile, or it is a broken one.
            os.replace(folder, scratch / "before")
        os.replace(place, folder)
    moved = _probed(folder / "bin" / "python")
    if moved is None:
        raise CompilerUnavailableError(f"{folder}/bin/python does not run", "try again")
    return moved


def _run(command: Sequence[str], what: str) -> None:
    try:
        done = run_supervised(command, os.environ, _SET_UP_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerUnavailableError(
            f"{what} cannot be run: {error}", "name another Python 3.11: --python PATH"
        ) from error
    if done.returncode != 0:
        # pip tells of places of wheels that are not there before it tells what is wrong.
        told = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in told if line.upper().startswith("ERROR")] or told[-1:]
        raise CompilerUnavailableError(
            f"Ascend's compilers cannot be set up: {what}: {' '.join(errors)[:300] or 'no word'}",
            "a package index must be within reach (pip's own settings are used), or name a Python "
            "3.11 that has " + ", ".join(f"{n}=={v}" for n, v in PACKAGES.items()) + ": --python",
        )
