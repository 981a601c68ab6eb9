"""Triton's cache made ahead: the run's own launchers find it, also where it was carried to.

What compiles runs in a process of its own, for here kernels are interpreted.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import chipmark
import chipmark_kernels
import chipmark_models
from chipmark_kernels import carried_cache
from chipmark_kernels.carried_cache import ARCHIVE, GROUP, INFO, CacheError

ROOTS = [Path(next(iter(m.__path__))).parent for m in (chipmark, chipmark_models, chipmark_kernels)]

TWO_KERNELS = """
import json, sys
from pathlib import Path
import torch
from chipmark_kernels import carried_cache, warm
from chipmark_kernels.compile_ahead import compile_for, compile_kernel, counting_hits
from chipmark_kernels.device import TARGETS
from chipmark_kernels.launch import recording
from chipmark_kernels.sampling import sample
from chipmark_kernels.swiglu import swiglu

here, there = Path(sys.argv[1]), Path(sys.argv[2])
device = TARGETS["sm_90"]
with recording(device) as launches:
    for rows in (1, 64):
        swiglu(torch.empty(rows, 2048, dtype=torch.bfloat16, device="meta"))
    sample(torch.empty(1, 1024, dtype=torch.bfloat16, device="meta"))
wanted = warm.distinct(launches, device)
with warm.using(here), counting_hits() as first:
    for job, launch in wanted.items():
        compile_kernel(launch.kernel, job.spec, device)
found = warm.hits(wanted.values(), device, here)
carried_cache.unpack(carried_cache.pack(here, "sm_90"), there)
here.rename(here.with_name("gone"))
carried = warm.hits(wanted.values(), device, there)
with warm.using(there):
    figures = [compile_for(launch.kernel, job.spec, device) for job, launch in wanted.items()]
print(json.dumps({
    "launches": len(launches), "different": len(wanted), "first": first, "found": found,
    "carried": carried, "vectors": [figure.vector_loads for figure in figures],
    "info": carried_cache.cache_info(there).misses("sm_90"),
}))
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, ROOTS))
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )


@pytest.mark.long
def test_launchers_find_what_was_compiled_ahead_and_carried_elsewhere(tmp_path) -> None:
    done = _run("-c", TWO_KERNELS, str(tmp_path / "here"), str(tmp_path / "there"))
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["launches"] > said["different"] >= 2
    # Compiled by their keys, none of them twice; then found by `warmup`, and found again where
    # nothing of the first folder is left.
    assert said["first"] == [False] * said["different"]
    assert said["found"] == said["carried"] == said["different"]
    # Machine code alone was carried: figures of a build are read from a new one.
    assert max(said["vectors"]) > 0
    assert said["info"] == ""
    names = {path.suffix for path in (tmp_path / "gone").glob("*/*")}
    assert ".ptx" in names
    with tarfile.open(tmp_path / "gone" / ARCHIVE) as packed:
        assert {Path(name).suffix for name in packed.getnames()} == {".cubin", ".json"}


@pytest.mark.long
def test_all_launches_of_a_small_model_are_found_by_a_second_pass(tmp_path) -> None:
    arguments = ("--models", "smollm2-135m", "--contexts", "1153", "--sessions", "8")
    call = ("-m", "chipmark.kernel_bench", "ahead", "--cache", str(tmp_path), *arguments)
    done = _run(*call, "--format", "json")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    first = json.loads(done.stdout)
    assert first["made"] == first["found_again"] == first["kernels"] > 20
    assert first["failed"] == []
    again = json.loads(_run(*call, "--format", "json").stdout)
    assert again["found"] == again["kernels"] == first["kernels"]
    assert again["made"] == 0


def _made(folder: Path, files: dict[str, str]) -> Path:
    """A cache of one kernel with these files, as Triton writes it."""
    kernel = folder / "KEY"
    kernel.mkdir(parents=True)
    for name, text in files.items():
        (kernel / name).write_text(text)
    paths = {name: str(kernel / name) for name in files}
    (kernel / f"{GROUP}k.json").write_text(json.dumps({"child_paths": paths}))
    return folder


def test_a_packed_cache_names_its_files_where_it_is_unpacked(tmp_path) -> None:
    here = _made(tmp_path / "a", {"k.ptx": "text", "k.cubin": "code", "k.json": "{}"})
    info = carried_cache.unpack(carried_cache.pack(here, "sm_90"), tmp_path / "b")
    assert info == carried_cache.cache_info(here)
    assert (info.kernels, info.target) == (1, "sm_90")
    kernel = tmp_path / "b" / "KEY"
    group = json.loads((kernel / f"{GROUP}k.json").read_text())["child_paths"]
    assert group == {name: str(kernel / name) for name in ("k.cubin", "k.json")}
    assert (kernel / "k.cubin").read_text() == "code"
    assert not (kernel / "k.ptx").exists()


def test_a_cache_of_another_triton_or_device_is_told_in_a_sentence() -> None:
    here = carried_cache.made_here("sm_90", 7)
    assert here.misses("sm_90") == ""
    assert here.warns() == ""
    assert here.misses("sm_80") == (
        "the cache was made for sm_90, here is sm_80: nothing of it will hit"
    )
    other = dataclasses.replace(here, triton="3.0.0", triton_key="0", python="3.12")
    assert other.misses("sm_90").startswith("the cache was made by triton 3.0.0 for Python 3.12")
    assert other.misses("sm_90").endswith(": nothing of it will hit")
    rebuilt = dataclasses.replace(here, triton_key="0")
    assert "here is another build of it" in rebuilt.misses("sm_90")
    assert "kernels may have changed" in dataclasses.replace(here, code="0").warns()


def _archive(path: Path, members: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for name, text in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            made.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x": "y"}, f"{INFO}: not a cache that was made ahead"),
        ({INFO: "{}"}, f"{INFO}: not a cache that was made ahead"),
        ({"../out": "y"}, "not a cache that was packed"),
    ],
)
def test_an_archive_that_is_no_cache_is_refused(members, message, tmp_path) -> None:
    with pytest.raises(CacheError, match=message.replace(".", r"\.")):
        carried_cache.unpack(_archive(tmp_path / "c.tar.gz", members), tmp_path / "d")
    assert not (tmp_path / "out").exists()


def test_a_group_file_may_not_name_a_file_of_another_folder(tmp_path) -> None:
    info = json.dumps(dataclasses.asdict(carried_cache.made_here("sm_90", 1)))
    group = json.dumps({"child_paths": {"../../secret.json": "x"}})
    archive = _archive(tmp_path / "c.tar.gz", {INFO: info, f"KEY/{GROUP}k.json": group})
    with pytest.raises(CacheError, match="a file of another folder"):
        carried_cache.unpack(archive, tmp_path / "d")


def test_a_file_that_is_no_archive_is_refused(tmp_path) -> None:
    (tmp_path / "c").write_text("no")
    with pytest.raises(CacheError, match="not a cache that was packed"):
        carried_cache.unpack(tmp_path / "c", tmp_path / "d")
