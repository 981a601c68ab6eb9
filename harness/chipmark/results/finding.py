"""What `chipmark validate` finds: a severity, a code and a text on one path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chipmark.codes import FindingCode


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a record or with an imported run."""

    severity: Literal["error", "warning"]
    """`error`: it cannot be believed; `warning`: it may mislead."""
    code: FindingCode
    path: Path
    text: str
