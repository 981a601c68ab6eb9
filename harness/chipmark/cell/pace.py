"""Whether cells would still end within the time of a run, by their estimates and by what the
cells before them took."""

from __future__ import annotations

from collections.abc import Sequence

from chipmark.cell.suite import CellPlan


class Pace:
    """Estimates of a suite, corrected by the cells that were measured so far.

    idle_s: seconds of idle power that is measured once for a loaded model and device; they come on
    top of the first cell's estimate, and are not scaled, as they take just as long.
    """

    def __init__(self, idle_s: float = 0.0) -> None:
        self._idle_s = idle_s
        self._loaded: set[tuple[str, str, str]] = set()
        self._took_s = self._estimated_s = 0.0

    @property
    def factor(self) -> float:
        """Seconds taken over seconds estimated so far; 1 before the first cell."""
        return self._took_s / self._estimated_s if self._estimated_s else 1.0

    def expected_s(self, plans: Sequence[CellPlan]) -> float:
        """Seconds that these cells will take; those without an estimate count for nothing."""
        return self.factor * sum(plan.estimate_s for plan in plans) + self._idle_of(plans)

    def too_long(self, plans: Sequence[CellPlan], left_s: float) -> str:
        """Why these cells are not begun with so many seconds left; "" where they are. Cells without
        an estimate always are."""
        if not any(plan.estimate_s for plan in plans):
            return ""
        needed = self.expected_s(plans)
        if needed <= left_s:
            return ""
        return f"takes about {needed:.0f} s, of which {max(0.0, left_s):.0f} s are left"

    def took(self, plans: Sequence[CellPlan], seconds: float) -> None:
        """Take note of what cells took."""
        estimated = sum(plan.estimate_s for plan in plans)
        if estimated:
            self._took_s += max(0.0, seconds - self._idle_of(plans))
            self._estimated_s += estimated
        self._loaded |= {_loaded(plan) for plan in plans}

    def _idle_of(self, plans: Sequence[CellPlan]) -> float:
        return self._idle_s * len({_loaded(plan) for plan in plans} - self._loaded)


def _loaded(plan: CellPlan) -> tuple[str, str, str]:
    return (plan.backend, plan.model, plan.precision)
