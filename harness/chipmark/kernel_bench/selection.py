"""What one call of `chipmark kernels run` measures, with what, and what it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chipmark.kernel_bench.document import Codes
    from chipmark.kernel_bench.phases import Case
    from chipmark.kernel_bench.targets import Target

COMPILED = "torch.compile"
"""The peer whose compilation takes the most time."""


class Peers(StrEnum):
    """Which peers a case is timed next to, each with all before it."""

    NONE = "none"
    EAGER = "eager"
    """Those that run as they are."""
    ALL = "all"
    """torch.compile too."""

    def done_by(self, done: str) -> bool:
        """Whether a row that is timed next to the peers of `done`, "" for none yet, has these."""
        order = ["", *Peers]
        return order.index(self) <= order.index(done)


@dataclass(frozen=True, slots=True)
class Selection:
    """What is measured, in which order."""

    bench: str
    settings: Mapping[str, Any]
    """With `bench` what the measuring process makes (`worker.serve`)."""

    order: Sequence[Case]
    """Every case, in the order of the file's rows and of measuring."""

    targets: Sequence[Target]
    """What rows are judged by."""

    codes: Callable[[Mapping[str, Any]], Codes]
    """Hashes of the sources of rows and roofs, by the identity of the device."""

    passes: Sequence[Peers] = (Peers.EAGER,)
    """Over all cases, one after the other."""
