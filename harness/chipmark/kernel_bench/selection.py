"""What one call of `chipmark kernels run` measures, with what, and what it is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chipmark.kernel_bench.phases import Case
    from chipmark.kernel_bench.targets import Target


@dataclass(frozen=True, slots=True)
class Selection:
    """bench, settings: what the measuring process makes (`worker.serve`). order: every case, in the
    order of the file's rows. targets: what rows are judged by."""

    bench: str
    settings: Mapping[str, Any]
    order: Sequence[Case]
    targets: Sequence[Target]

    @property
    def compiled(self) -> bool:
        """Whether torch.compile is among the peers."""
        return bool(self.settings.get("compiled", False))
