"""The order in which the arms run: balanced blocks of ABBA or BAAB, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

ArmName = Literal["A", "B"]
ARMS: tuple[ArmName, ArmName] = ("A", "B")


@dataclass(frozen=True, slots=True)
class Slot:
    """One process. session: 0, or 1 for the confirming one. round: the pair it belongs to, from 0.
    slot: its place in the session, from 0."""

    session: int
    round: int
    slot: int
    arm: ArmName


def slots(rounds: int, seed: int, session: int = 0) -> tuple[Slot, ...]:
    """2 x `rounds` slots; a round is one process of each arm, side by side.

    Two rounds make a block, ABBA or BAAB by one raw bit of Philox(seed, session): within each
    block both arms have the same mean place, so that a linear drift cancels, and the first slot
    falls to both arms alike over blocks. An odd last round is half a block. A longer order begins
    with the shorter one of the same seed, so that a next look only adds to what was run.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds")
    blocks = (rounds + 1) // 2
    raw = np.random.Philox(key=[seed, session]).random_raw(blocks)
    order: list[Slot] = []
    for number in range(rounds):
        b_first = bool(int(raw[number // 2]) >> 63)
        if number % 2:
            b_first = not b_first
        for arm in reversed(ARMS) if b_first else ARMS:
            order.append(Slot(session, number, len(order), arm))
    return tuple(order)
