"""Hash of the sources that a step's figures depend on, found without importing them."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from chipmark.kernel_bench.stages.contract import StageStep


def code_of(step: StageStep) -> str:
    """Hash of the module of the step's work and of all that its `uses` name.

    Not of all sources: an edit elsewhere leaves what was measured on a lent card as it is. Raises
    ModuleNotFoundError for a name that does not exist.
    """
    digest = hashlib.sha256()
    for name in sorted({step.work.partition(":")[0], *step.uses}):
        for path, inside in _files(name):
            digest.update(f"{name}/{inside}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _files(name: str) -> list[tuple[Path, str]]:
    """Source files of a module or of a whole package, with their places in it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"a step uses {name}, which does not exist", name=name)
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        return [(origin, "")]
    folder = origin.parent
    return [(path, path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*.py"))]
