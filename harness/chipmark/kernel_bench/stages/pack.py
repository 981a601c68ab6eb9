"""One archive of all results of a folder, and the folder made again from it or from another one."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chipmark.errors import BadInputError
from chipmark_models.files import whole_file, writing
from chipmark_models.foreign_file import MIB

NAME = "results.tar.gz"
PACK_BYTES = 15 * MIB
"""A machine that is lent may hand back files of 16 MiB at most."""

_TEXT_SHRINKS = 3
_UNPACKED_BYTES = 2048 * MIB
_OWN = ("stage-1.json", "stage-2.json", "stage-3.json")


@dataclass(slots=True)
class Pack:
    """The archive of a folder; `out` may be in another one."""

    folder: Path
    out: Path
    _packed: dict[str, tuple[int, int]] = field(default_factory=dict)

    def refresh(self) -> list[str]:
        """Write it anew where a step left files since the last time, whole or not at all; names
        that have no place in it."""
        found = {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in self._files()}
        if {k: v for k, v in found.items() if k not in _OWN} == self._packed:
            return []
        return self.write()

    def write(self) -> list[str]:
        """Write it anew, small files first and the stages' own before all, up to `PACK_BYTES`;
        names of those that have no place in it. They stay in the folder."""
        files = self._files()
        self._packed = {
            p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.name not in _OWN
        }
        taken, left_out = 0, []
        with (
            whole_file(self.out) as partial,
            tarfile.open(partial, "w:gz", compresslevel=5) as archive,
        ):
            for path in sorted(files, key=lambda p: (p.name not in _OWN, _packed_bytes(p))):
                if path.name in _OWN or taken + _packed_bytes(path) <= PACK_BYTES:
                    archive.add(path, path.name)
                    taken += _packed_bytes(path)
                else:
                    left_out.append(path.name)
        return left_out

    def _files(self) -> list[Path]:
        return [
            p for p in sorted(self.folder.iterdir())
            if p.is_file() and not p.is_symlink() and p.name != NAME and p.name[0] != "."
            and p.resolve() != self.out.resolve()
        ]  # fmt: skip


def seed(folder: Path, source: Path) -> None:
    """Bring what an earlier call left at `source`, a folder or an archive, into `folder`, where it
    has no stage's file yet; else nothing is done. Raises BadInputError."""
    if any((folder / name).exists() for name in _OWN):
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not source.is_dir():
        _unpack(folder, source)
    elif any((source / name).exists() for name in _OWN):
        for path in source.iterdir():
            if path.is_file() and path.name != NAME:
                _write(folder / path.name, path.read_bytes())
    elif (source / NAME).exists():
        _unpack(folder, source / NAME)
    else:
        raise BadInputError(source, "holds no stage-N.json and no results.tar.gz")


def _unpack(folder: Path, archive: Path) -> None:
    """Its regular files, each by the last part of its name: nothing leads out of the folder."""
    try:
        with tarfile.open(archive, "r:gz") as packed:
            members = [m for m in packed if m.isfile() and m.name == Path(m.name).name]
            _check(archive, members)
            for member in members:
                file = packed.extractfile(member)
                assert file is not None  # of a regular file there is one
                _write(folder / member.name, file.read())
    except (OSError, EOFError, tarfile.TarError) as error:
        raise BadInputError(archive, f"not an archive of `scripts/gpu`: {error}") from error


def _check(archive: Path, members: Sequence[tarfile.TarInfo]) -> None:
    if sum(m.size for m in members) > _UNPACKED_BYTES:
        raise BadInputError(archive, f"holds over {_UNPACKED_BYTES // MIB} MiB")
    if not any(m.name in _OWN for m in members):
        raise BadInputError(archive, "holds no stage-N.json")


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(content)


def _packed_bytes(path: Path) -> int:
    """What a file will take in the archive: figures as text shrink, compressed files do not."""
    size = path.stat().st_size
    return size // _TEXT_SHRINKS if path.suffix in (".json", ".txt") else size
