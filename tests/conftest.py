"""Fixtures that several areas share."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest

# A shell without job control starts what stands before `&` with SIGINT ignored, and children
# inherit it: tests of Ctrl-C would wait for processes that never hear it.
# Under `nohup` the same holds of SIGHUP.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# What a developer has added to the built-in data must not change a test.
_NO_FILES = TemporaryDirectory(prefix="chipmark-no-config-")
os.environ["CHIPMARK_CONFIG"] = _NO_FILES.name


@pytest.fixture(scope="session")
def rawcells() -> ModuleType:
    """`tests/rawcells.py`: a cell made by hand, whose numbers can be worked out on paper."""
    return _beside("rawcells")


@pytest.fixture(scope="session")
def many_records() -> ModuleType:
    """`tests/many_records.py`: thousands of valid records of honest size."""
    return _beside("many_records")


@pytest.fixture(scope="session")
def simulated_meters() -> ModuleType:
    """`tests/simulated_meters.py`: loads and sensors in closed form, drawn from a seed."""
    return _beside("simulated_meters")


@pytest.fixture(scope="session")
def paper_nvml() -> ModuleType:
    """`tests/fake_nvml.py`: NVML's bindings over cards that are not there."""
    return _beside("fake_nvml")


@pytest.fixture
def install_nvml(monkeypatch: pytest.MonkeyPatch, paper_nvml: ModuleType) -> Callable[..., Any]:
    """Put NVML over the given cards in the place of pynvml, with no CUDA variable set."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)

    def over(*cards: Any) -> Any:
        fake = paper_nvml.FakeNvml(*cards)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return over


@pytest.fixture(scope="session")
def paper_amdsmi() -> ModuleType:
    """`tests/fake_amdsmi.py`: amdsmi's bindings over cards that are not there."""
    return _beside("fake_amdsmi")


@pytest.fixture(scope="session")
def logit_loss() -> Any:
    """`logit_loss` of `tests/logit_loss.py`: how far logits are from those of other weights."""
    return _beside("logit_loss").logit_loss


def _beside(file: str) -> ModuleType:
    name = f"chipmark_test_{file}"
    if name not in sys.modules:
        path = Path(__file__).with_name(f"{file}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the trials counted, whichever process ran them: each is a property of its test whose
    name begins with "trial"."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, told in getattr(report, "user_properties", ()):
                if name.startswith("trial") and getattr(report, "when", "") == "call":
                    terminalreporter.write_line(f"{name}: {told}")


@pytest.fixture
def load_answer() -> Any:
    """What a backend that computes in fp32 answers to `load`."""
    from chipmark.cell.protocol import LoadAnswer, LoadedCaps, Words

    return LoadAnswer(
        caps=LoadedCaps("slots", "copy", 10, 4, 64, n_slots=5),
        load_s=1.0,
        compile_s=1.0,
        weight_bytes=1000,
        kv_bytes=500,
        precision=Words("fp32", "fp32", "fp32", "fp32"),
        graph="none",
        ep_coverage=1.0,
        device="x",
        details={},
        notes=(),
        describe={},
        plugin={},
        refused_plugins=(),
        wall_s=2.0,
        python="3.12",
        numpy="2.0",
        packages={},
        peak_rss_bytes=1,
    )
