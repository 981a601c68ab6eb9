"""Names of backends and options before weights are prepared, for this and another interpreter."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from chipmark.cell.names import check_backend, check_plans, modules_of
from chipmark.cell.suite import CellPlan
from chipmark.errors import UnknownNameError, UsageError


@pytest.fixture(autouse=True)
def _asked_anew():
    modules_of.cache_clear()


@pytest.mark.parametrize(
    ("backend", "near"),
    [
        ("ort:openvno", "openvino"),
        ("ort:nosuch", "valid: .*cann, cpu"),
        ("ort:no-such", "unknown provider"),
        ("torch:cdua", "cuda"),
        ("torch:nosuch", "valid: .*cpu, cuda"),
        ("torch:cuda:x", "cuda:0"),
        ("torch:cuda:", "cuda:0"),
        ("torch:cpu:1", "did you mean cpu"),
        ("triton:cudo", "cuda"),
        ("triton:cuda:x", "cuda:0"),
    ],
)
def test_an_unknown_device_gets_near_names(backend, near) -> None:
    with pytest.raises(UnknownNameError, match=near):
        check_backend(backend, {})


@pytest.mark.parametrize(
    ("backend", "options", "near"),
    [
        ("ort:cpu", {"grph": "plain"}, "graph"),
        ("ort:cpu", {"graph": "plane"}, "plain"),
        ("torch:cpu", {"op": 1}, "ops"),
        ("triton:cuda", {"grafs": True}, "graphs"),
        ("sim:golden", {"cap": {}}, "caps"),
    ],
)
def test_an_unknown_option_gets_near_names(backend, options, near) -> None:
    with pytest.raises(UnknownNameError, match=near):
        check_backend(backend, options)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"static": 1}, "static"), ({"spinning": "no"}, "spinning"), ({"provider": 3}, "provider")],
)
def test_a_value_of_another_type_is_named(options, field) -> None:
    with pytest.raises(UsageError, match=f"option {field} "):
        check_backend("ort:cpu", options)


@pytest.mark.parametrize(
    "backend",
    [
        "ort:cpu",
        "ort:cann",
        "ort:/a/vendors/libep.so",
        "torch:npu:1",
        "torch:cuda:7",
        "triton:cuda:1",
    ],
)
def test_what_may_be_there_is_not_refused(backend) -> None:
    check_backend(backend, {})
    check_backend(backend, {}, sys.executable)


def test_every_cell_of_a_suite_is_asked() -> None:
    def plan(backend: str) -> CellPlan:
        return CellPlan(backend, "m", "fp32", "w", "profile", "quick", 1, 1, "equal_n")

    check_plans([plan("ort:cpu"), plan("torch:cpu")], "")
    with pytest.raises(UnknownNameError, match="torch device 'nosuch'"):
        check_plans([plan("ort:cpu"), plan("ort:cpu"), plan("torch:nosuch")], "")


def _interpreter(folder: Path, program: str) -> str:
    """An interpreter of another environment: a script that runs this one."""
    path = folder / "python"
    path.write_text(program)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_module_of_the_childs_interpreter_alone_is_not_refused(tmp_path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "ep_of_a_vendor.py").write_text("raise RuntimeError('not to be imported')")
    python = _interpreter(
        tmp_path,
        f'#!/bin/sh\nPYTHONPATH="{tmp_path}/site:$PYTHONPATH" exec {sys.executable} "$@"\n',
    )
    with pytest.raises(UnknownNameError):
        check_backend("ort:ep_of_a_vendor", {})
    check_backend("ort:ep_of_a_vendor", {}, python)
    check_backend("ort:ep_of_a_vendor.plugin", {}, python)
    with pytest.raises(UnknownNameError, match="ep_of_nobody"):
        check_backend("ort:ep_of_nobody", {}, python)


def test_an_interpreter_that_cannot_be_asked_refuses_nothing(tmp_path) -> None:
    check_backend("ort:ep_of_a_vendor", {}, str(tmp_path / "missing"))
    check_backend("ort:ep_of_a_vendor", {}, _interpreter(tmp_path, "#!/bin/sh\nexit 1\n"))


def test_an_entry_of_the_users_own_is_part_of_what_is_measured(tmp_path, monkeypatch) -> None:
    path = tmp_path / "mine.toml"
    monkeypatch.setenv("CHIPMARK_PROVIDERS", str(path))
    path.write_text('[mychip]\nmodule = "ep_mychip"\n[other]\nmodule = "ep_other"\n')
    first = check_backend("ort:mychip", {})
    assert first
    assert check_backend("ort:cpu", {}) == check_backend("torch:cpu", {}) == ""
    path.write_text('[mychip]\nmodule = "ep_mychip"\n')
    assert check_backend("ort:mychip", {}) == first
    path.write_text('[mychip]\nmodule = "ep_mychip"\n[mychip.options]\ndevice_id = "1"\n')
    assert check_backend("ort:mychip", {}) != first
