from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def install(install_nvml: Callable[..., Any]) -> Callable[..., Any]:
    """`install_nvml`, the only thing that is installed here."""
    return install_nvml
