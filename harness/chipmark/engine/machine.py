"""What a backend may ask about this machine, and the devices that it would measure there."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Protocol


class Machine(Protocol):
    """What a plug-in may ask about this machine without importing anything heavy."""

    def has_module(self, name: str) -> bool:
        """Whether a Python module is installed."""
        ...

    def has_device(self, kind: str) -> bool:
        """Whether the PCI bus or a driver's node shows a device of a vendor that calls it `kind`
        ("cuda", "npu"): evidence, no promise that it works."""
        ...

    def cuda_capability(self) -> tuple[int, int] | None:
        """Compute capability of the card that CUDA puts first, None where it is not known."""
        ...

    def run_module(
        self, module: str, *arguments: str, limit_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a module in a process of its own: for a look that may crash or hang. Raises
        subprocess.TimeoutExpired."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that a suite without `-b` would measure with the plug-in that names it."""

    device: str
    """What comes after the colon."""
    missing: str = ""
    """Why it is left out, "" where nothing is missing."""
    remedy: str = ""
    """What helps."""
    order: int = 100
    """Smaller ones are measured earlier; built-in devices have numbers under 100."""
