"""Whether a backend and its options can be what they are called, asked before weights are prepared.

Nothing of the backend's own package is imported: a provider or a module that is installed only
where the child runs (`--python`) is looked for there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from chipmark.cell.environment import child_environment
from chipmark.cell.suite import CellPlan
from chipmark.engine.plugins import backend_factory
from chipmark.errors import MissingBackendError, UsageError
from chipmark.log import logger_of
from chipmark.registry import split_backend
from chipmark.supervised import run_supervised

_LOG = logger_of(__name__)
_LIMIT_S = 60.0
_NOT_FOUND = 3
_LOOK = f"""
import sys
from importlib.util import find_spec
sys.exit({_NOT_FOUND} if find_spec(sys.argv[1]) is None else 0)
"""


def check_plans(plans: Iterable[CellPlan], python: str) -> None:
    """Raise UnknownNameError with the nearest names, or UsageError, for a backend, a device or an
    option of these cells that cannot be."""
    for plan in {(plan.backend, plan.options_json): plan for plan in plans}.values():
        check_backend(plan.backend, plan.options, python)


def check_python(python: str) -> None:
    """UsageError for a name of an interpreter ("" is this one) that cannot be run."""
    if python and shutil.which(python) is None:
        raise UsageError(f"python is {python}: not an interpreter", "give the path of one")


def check_backend(backend: str, options: Mapping[str, Any], python: str = "") -> str:
    """As `BackendFactory.check` of `KIND:DEVICE`, for a child that runs under `python`; "" where
    its plug-in needs a package that is not here, and its child answers."""
    kind, device = split_backend(backend)
    try:
        return backend_factory(kind).check(device, options, modules_of(python))
    except MissingBackendError:
        return ""


@cache
def modules_of(python: str) -> Callable[[str], bool]:
    """Whether an interpreter ("" is this one) has a module, each looked up once. Where another one
    cannot be asked the answer is yes: its child says what is missing."""
    return cache(lambda name: _has_module(python, name))


def _has_module(python: str, name: str) -> bool:
    package = name.partition(".")[0]
    if python in ("", sys.executable):
        return find_spec(package) is not None
    command = [python, "-c", _LOOK, package]
    try:
        code = run_supervised(command, child_environment(os.environ), _LIMIT_S).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        _LOG.info("%s was not asked for %s: %s", python, package, error)
        return True
    return code != _NOT_FOUND
