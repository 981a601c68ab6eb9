from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, paper_nvml: ModuleType) -> Callable[..., Any]:
    """Put NVML over the given cards in the place of pynvml, with no CUDA variable set."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)

    def over(*cards: Any) -> Any:
        fake = paper_nvml.FakeNvml(*cards)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return over
