"""Wheels for a machine without a network: pins, sizes, and the trial before they are carried."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from chipmark.errors import ChipmarkError, UsageError
from chipmark.kernel_bench import collect_wheels
from chipmark.kernel_bench.collect_wheels import CONSTRAINTS, WHEELS, main, pinned, try_out
from chipmark.kernel_bench.end_to_end import NEEDS


def wheel(folder: Path, name: str, needs: str = "", code: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path, info = folder / f"{name}-1-py3-none-any.whl", f"{name}-1.dist-info"
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", code)
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
        file.writestr(f"{info}/METADATA", head + requires)
        tag = "Root-Is-Purelib: true\nTag: py3-none-any\n"
        file.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: t\n{tag}")
        file.writestr(f"{info}/RECORD", "")
    return path


def test_each_wheel_has_one_pinned_version() -> None:
    pins = pinned(CONSTRAINTS)
    assert len(pins) == len(WHEELS) == len({pin.split("==")[0] for pin in pins})
    assert all(pin.count("==") == 1 and pin.split("==")[1] for pin in pins)


def test_all_that_models_needs_is_carried_or_in_the_image() -> None:
    assert set(NEEDS.values()) - set(WHEELS) == {"rich", "numpy"}


def test_a_pin_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("pyarrow==26.0.1\n")
    with pytest.raises(UsageError, match="does not pin pydantic"):
        pinned(tmp_path / "constraints.txt")
    with pytest.raises(UsageError, match="cannot be read"):
        pinned(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("needs", "code", "told"),
    [
        ("", "", ""),
        ("NumPy>=2", "", ""),
        ("absent-one; extra == 'x'", "", ""),
        ("absent-one>=2", "", "needs absent-one>=2"),
        ("", "raise ImportError('of another machine')", "of another machine"),
    ],
)
def test_wheels_are_tried_before_they_are_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: str, code: str, told: str
) -> None:
    monkeypatch.setattr(collect_wheels, "WHEELS", {"carried-one": "carried_one"})
    made = wheel(tmp_path / "wheels", "carried_one", needs, code)
    if told:
        with pytest.raises(ChipmarkError, match=told):
            try_out(sys.executable, [made])
    else:
        version = ".".join(map(str, sys.version_info[:3]))
        assert try_out(sys.executable, [made]) == version


def test_a_folder_that_holds_other_wheels_or_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = wheel(tmp_path / "wheels", "carried_one")
    monkeypatch.setattr(collect_wheels, "download", lambda python, folder: [made])
    assert main(["-o", str(tmp_path)]) == 2
    assert "holds 1 wheels, not" in capsys.readouterr().err
    monkeypatch.setattr(collect_wheels, "WHEELS", {"carried-one": "carried_one"})
    monkeypatch.setattr(collect_wheels, "MOST_BYTES", 10)
    assert main(["-o", str(tmp_path)]) == 2
    assert "they are over" in capsys.readouterr().err
