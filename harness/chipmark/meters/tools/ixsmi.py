"""`ixsmi` of Iluvatar's cards, in the manner of nvidia-smi with clocks in its table.

It lists the two dies of a BI-V150 as devices of their own: the one prints `N/A / N/A`, the other
the watts and the limit of the whole board. Names of the power's property changed with versions
(`power.draw`, `gpu.power.draw`, `board.power.draw`); a property that is not known fails the query.
"""

from __future__ import annotations

from chipmark.meters.tools.nvidia_like import csv_readings, log_readings, table_readings
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.tool import Query, Tool


def overview(text: str) -> tuple[DieReading, ...]:
    """The devices of the bare command's table."""
    return table_readings(text)


def _csv(properties: str, *, quick: bool = False) -> Query:
    return Query((f"--query-gpu={properties}", "--format=csv"), csv_readings, quick)


IXSMI = Tool(
    name="ixsmi",
    vendor="Iluvatar CoreX",
    programs=("ixsmi", "/usr/local/corex/bin/ixsmi"),
    scope="board",
    overview=Query((), overview),
    details=(
        _csv("index,name,board.power.draw", quick=True),
        _csv("index,uuid,pci.bus_id,temperature.gpu,utilization.gpu"),
        Query(("-q", "-i", "{card}"), log_readings),
    ),
    is_own=lambda text: "IX-ML" in text,
)
