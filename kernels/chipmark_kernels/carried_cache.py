"""A filled Triton cache on its way to another machine: what made it, packed, and unpacked there.

A kernel's folder is named by a hash of its source, its specialisation, the device and the files of
Triton itself, so it is found on any machine that has the same of all. But a group file in it lists
the kernel's files by absolute paths, and one that is not there is taken as not compiled (Triton
3.6.0 and 3.7.1): so these are written anew where a cache is unpacked or was moved. Of a kernel the
run reads its machine code and its metadata; the texts of the steps between stay behind.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import triton
from triton.runtime.cache import triton_key

ARCHIVE = "triton-cache.tar.gz"
INFO = "chipmark-cache.json"
GROUP = "__grp__"
READ_BY_THE_RUN = (".cubin", ".hsaco", ".json")
"""Endings of the files that a launch reads."""


class CacheError(ValueError):
    """A cache that cannot be read; the message names the file and says what is wrong."""


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What a cache was made by and for."""

    triton: str
    """Its version."""

    triton_key: str
    """Hash of its files, which enters every kernel's key."""

    python: str
    """Version of the interpreter, whose build of Triton it was."""

    target: str
    """The device, as `sm_90`."""

    kernels: int
    """How many."""

    code: str
    """Hash of the kernels' sources."""

    def misses(self, target: str) -> str:
        """Why nothing of the cache will be found by this process on `target`, in a sentence; ""
        where it will be."""
        here = made_here(target, 0)
        if self.target != target:
            return f"the cache was made for {self.target}, here is {target}: nothing of it will hit"
        if self.triton_key != here.triton_key:
            builds = [f"triton {i.triton} for Python {i.python}" for i in (self, here)]
            if builds[0] == builds[1]:
                builds[1] = "another build of it"
            return f"the cache was made by {builds[0]}, here is {builds[1]}: nothing of it will hit"
        return ""

    def warns(self) -> str:
        """What of the cache may be missed by this process, in a sentence; "" for nothing."""
        if self.code == code_hash():
            return ""
        return "kernels may have changed since the cache was made: such are compiled anew"


def made_here(target: str, kernels: int) -> CacheInfo:
    """What a cache made by this process is made by."""
    key = hashlib.sha256(triton_key().encode()).hexdigest()[:16]
    python = ".".join(map(str, sys.version_info[:2]))
    return CacheInfo(triton.__version__, key, python, target, kernels, code_hash())


def code_hash() -> str:
    """Hash of the sources of this package, whose kernels a cache holds."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def cache_info(folder: Path) -> CacheInfo:
    """What the cache in `folder` says of itself; CacheError where it says nothing readable."""
    path = folder / INFO
    try:
        said = json.loads(path.read_text())
        return CacheInfo(**{f.name: said[f.name] for f in fields(CacheInfo)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CacheError(f"{path}: not a cache that was made ahead ({reason})") from error


def kernels_in(folder: Path) -> int:
    """Compiled kernels in the cache."""
    return sum(1 for _ in folder.glob(f"*/{GROUP}*"))


def pack(folder: Path, target: str) -> Path:
    """Write what a run reads of the cache in `folder` to triton-cache.tar.gz in it; the path."""
    info = made_here(target, kernels_in(folder))
    (folder / INFO).write_text(json.dumps(asdict(info), indent=1) + "\n")
    packed = folder / ARCHIVE
    partial = packed.with_suffix(".partial")
    with tarfile.open(partial, "w:gz") as archive:
        archive.add(folder / INFO, INFO)
        for group in sorted(folder.glob(f"*/{GROUP}*")):
            names = [name for name in _listed(group) if name.endswith(READ_BY_THE_RUN)]
            for name in names:
                archive.add(group.parent / name, f"{group.parent.name}/{name}")
            # Placed by `unpack`; a name alone is found nowhere.
            text = json.dumps({"child_paths": {name: name for name in names}}).encode()
            entry = tarfile.TarInfo(f"{group.parent.name}/{group.name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    partial.replace(packed)
    return packed


def unpack(archive: Path, folder: Path) -> CacheInfo:
    """Lay a packed cache into `folder`, where TRITON_CACHE_DIR is to point; what it is.

    Other kernels that are there stay. CacheError for an archive that is none, or whose members
    would lie elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as packed:
            # Only files, only below the folder: an archive is trusted as little as other input.
            packed.extractall(folder, filter="data")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise CacheError(f"{archive}: not a cache that was packed ({error})") from error
    info = cache_info(folder)
    place(folder)
    return info


def place(folder: Path) -> None:
    """Have the group files of a cache name its files where they lie now."""
    folder = folder.resolve()
    for group in folder.glob(f"*/{GROUP}*"):
        there = {name: str(group.parent / name) for name in _present(group)}
        group.write_text(json.dumps({"child_paths": there}))


def _listed(group: Path) -> list[str]:
    """Names of a kernel's files by its group file."""
    try:
        names = list(json.loads(group.read_text())["child_paths"])
        if all(Path(name).name == name for name in names):
            return names
        error: Exception = ValueError("a file of another folder")
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        error = wrong
    raise CacheError(f"{group}: not a group file of Triton's cache ({error})") from error


def _present(group: Path) -> Iterator[str]:
    return (name for name in _listed(group) if (group.parent / name).is_file())
