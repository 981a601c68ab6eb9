"""AMD's `rocm-smi --json`. Hygon's tools have the same ancestor, and print DCU or HCU for GPU.

Power is `Current Socket Graphics Package Power (W)` of MI300 and newer, and `Average Graphics
Package Power (W)` of others; a card of two dies prints the card's watts for its first die and `N/A
(Secondary die)` for the other. `-a` is not asked: it left out the power of some cards.
"""

from __future__ import annotations

import re

from chipmark.meters.tools.hy_smi import read_members
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.tool import Query, Tool

_OTHERS = re.compile(r"\b[DH]CU\b|Hygon")
_OWN = re.compile(r"\bGPU use \(%\)|Advanced Micro Devices|\bAMD\b")
_ASKED = (
    "--showproductname", "--showbus", "--showuniqueid", "--showpower", "--showmaxpower",
    "--showuse", "--showtemp", "--showclocks", "--showmeminfo", "vram", "--json",
)  # fmt: skip


def read_cards(text: str) -> tuple[DieReading, ...]:
    """A member `cardN` for each device; what is not a card (`system`) is left out."""
    return read_members(text)


def is_own(text: str) -> bool:
    """Whether an answer is of AMD's tool and not of Hygon's."""
    return _OTHERS.search(text) is None and _OWN.search(text) is not None


ROCM_SMI = Tool(
    name="rocm-smi",
    vendor="AMD",
    programs=("rocm-smi",),
    scope="package",
    overview=Query(_ASKED, read_cards),
    details=(Query(("--showpower", "--json"), read_cards, quick=True),),
    is_own=is_own,
    resolution_w=1.0,
)
