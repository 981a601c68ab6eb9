"""Records of a chip as one file, for a machine that hands back a single folder, and back again."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from chipmark.errors import BadInputError, UsageError
from chipmark_models.files import whole_file
from chipmark_models.foreign_file import MIB

UNPACKED_BYTES = 4096 * MIB
"""Most bytes of the files in an archive; a record has a few megabytes."""

MEMBERS = 100_000

_RECORD = "record.json"
_SIDECAR = ".audit.json"
_HINT = "take a file that `chipmark kernels models` packed"


def record_folders(results: Path) -> list[Path]:
    """Folders of whole records in the folder of a chip."""
    return sorted(
        path.parent for path in results.glob(f"*/{_RECORD}") if path.parent.name[0] != "."
    )


def pack(results: Path, file: Path) -> int:
    """Write the records of a chip's folder, with their audits, to a `tar.gz`, whole or not at all;
    how many there are. Names in it begin with the name of the folder."""
    folders = record_folders(results)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as partial, tarfile.open(partial, "w:gz", compresslevel=1) as archive:
        for folder in folders:
            archive.add(folder, f"{results.name}/{folder.name}")
            sidecar = folder.with_name(folder.name + _SIDECAR)
            if sidecar.is_file():
                archive.add(sidecar, f"{results.name}/{sidecar.name}")
    return len(folders)


def unpack(file: Path, into: Path) -> list[Path]:
    """Write the files of an archive under `into` (`results`), and return the folders of the records
    in it.

    All is looked at before anything is written. Raises BadInputError for another kind of file, a
    name that leads out of the folder, a member that is neither file nor folder and more than
    UNPACKED_BYTES; UsageError where a file of other content exists.
    """
    try:
        with tarfile.open(file, "r:gz") as archive:
            members = list(_checked(file, archive, into))
            for member, place in members:
                _refuse_other(archive, member, place)
            for member, place in members:
                place.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(place) as partial:
                    partial.write_bytes(_content(archive, member))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadInputError(file, f"cannot be unpacked: {error}", hint=_HINT) from error
    return sorted(place.parent for _, place in members if place.name == _RECORD)


def _checked(
    file: Path, archive: tarfile.TarFile, into: Path
) -> Iterator[tuple[tarfile.TarInfo, Path]]:
    """Members that are files, and where they go."""
    total = 0
    for number, member in enumerate(archive):
        name = PurePosixPath(member.name)
        total += member.size
        if number >= MEMBERS or total > UNPACKED_BYTES:
            raise BadInputError(file, "holds more than records have", hint=_HINT)
        if not (member.isfile() or member.isdir()):
            raise BadInputError(file, "is neither file nor folder", field=member.name, hint=_HINT)
        hidden = any(part.startswith(".") for part in name.parts)
        if name.is_absolute() or hidden or "\\" in member.name or not name.parts:
            raise BadInputError(file, "leads out of the folder", field=member.name, hint=_HINT)
        place = into / name
        if not place.resolve().is_relative_to(into.resolve()):
            raise BadInputError(file, "leads out of the folder", field=member.name, hint=_HINT)
        if member.isfile():
            yield member, place


def _refuse_other(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    if not place.exists():
        return
    if not place.is_file() or place.read_bytes() != _content(archive, member):
        raise UsageError(
            f"{place} is there with other content", "unpack elsewhere: -o FOLDER; nothing changed"
        )


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None, "a file has content"
    with stream:
        return stream.read()
