"""Records as one file, and what is refused of a file that is none."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from chipmark.errors import BadInputError, UsageError
from chipmark.kernel_bench.packed import pack, unpack
from chipmark.results.store import stored_record

RECORD = Path(__file__).parents[1] / "results" / "data" / "record-1"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    chip = tmp_path / "there" / "nvidia-h200"
    shutil.copytree(RECORD, chip / "one")
    (chip / "one.audit.json").write_text("{}")
    shutil.copytree(RECORD, chip / ".raw-1" / "half")
    (chip / "no-record").mkdir()
    assert pack(chip, tmp_path / "records.tar.gz") == 1
    return tmp_path / "records.tar.gz"


def test_records_and_their_audits_come_out_as_they_went_in(packed: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    (folder,) = unpack(packed, results)
    assert folder == results / "nvidia-h200" / "one"
    assert stored_record(folder).self_sha256 == stored_record(RECORD).self_sha256
    names = {path.relative_to(results).parts[1] for path in results.rglob("*") if path.is_file()}
    assert names == {"one", "one.audit.json"}
    unpack(packed, results)  # the same again changes nothing


def test_a_file_of_other_content_is_not_replaced(packed: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    other = results / "nvidia-h200" / "one" / "trace.npz"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"other")
    with pytest.raises(UsageError, match="other content"):
        unpack(packed, results)
    assert [path for path in results.rglob("*") if path.is_file()] == [other]
    assert other.read_bytes() == b"other"


def _archive(path: Path, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        member.size = 2 if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(b"{}"))
    return path


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../out.json", tarfile.REGTYPE, ""),
        ("chip/../../out.json", tarfile.REGTYPE, ""),
        ("/tmp/chipmark-out.json", tarfile.REGTYPE, ""),
        ("chip/.hidden", tarfile.REGTYPE, ""),
        ("chip/link", tarfile.SYMTYPE, "/etc/hostname"),
        ("chip/link", tarfile.LNKTYPE, "chip/other"),
        ("chip/pipe", tarfile.FIFOTYPE, ""),
    ],
)
def test_what_leads_out_or_is_no_file_is_refused(
    tmp_path: Path, name: str, kind: bytes, link: str
) -> None:
    file = _archive(tmp_path / "a.tar.gz", name, kind, link)
    with pytest.raises(BadInputError) as found:
        unpack(file, tmp_path / "results")
    assert found.value.field == name
    assert not (tmp_path / "results").exists()


def test_a_link_that_is_there_already_leads_nowhere(tmp_path: Path) -> None:
    file = _archive(tmp_path / "a.tar.gz", "chip/one/record.json")
    (tmp_path / "results").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results" / "chip").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInputError, match="leads out"):
        unpack(file, tmp_path / "results")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08half"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(BadInputError, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "results")
