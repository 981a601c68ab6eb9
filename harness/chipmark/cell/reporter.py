"""Who hears how a run goes: a terminal, a log, a test."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Hears how a run goes. `say` stays on the screen, `stage` is replaced by the next."""

    def say(self, text: str) -> None:
        """A fact that the user must keep: what was left out, skipped, or failed."""
        ...

    def stage(self, text: str) -> None:
        """What is being done now."""
        ...

    def steps(self, total: int) -> None:
        """So many steps are ahead."""
        ...

    def step(self) -> None:
        """One step is done."""
        ...
