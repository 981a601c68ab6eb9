"""How much a cell of the capacity scenario is loaded for, where its sweep's end does not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Room:
    """What a child is asked to hold: `sequences` at once, and KV for `kv_sequences` of them at
    their longest (only a paged cache can have fewer of these)."""

    sequences: int
    kv_sequences: int

    def less(self, fitting: int) -> Room | None:
        """What to ask for next where no more than `fitting` sequences fit at their longest; None
        where there is nothing to take away.

        KV is taken away first: a paged cache shares its memory among more sessions than could all
        be at their longest, and the engine evicts. What then still does not fit has slots.
        """
        if fitting < 1:
            return None
        if self.kv_sequences > fitting:
            return replace(self, kv_sequences=fitting)
        if self.sequences > fitting:
            return Room(fitting, fitting)
        return None
