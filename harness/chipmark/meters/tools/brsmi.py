"""`brsmi` of Biren's cards: CSV of named properties, read by its header.

No output of it is known that can be trusted: the properties are those that public scripts ask for,
and the answer's form is taken to be nvidia-smi's, whose options it has. Without a header line that
names `index` nothing is read.
"""

from __future__ import annotations

from chipmark.meters.tools.nvidia_like import csv_readings
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.tool import Query, Tool


def overview(text: str) -> tuple[DieReading, ...]:
    """The devices of the query's table."""
    return csv_readings(text)


def _csv(properties: str) -> Query:
    return Query(("gpu", f"--query-gpu=index,{properties}", "--format=csv"), overview)


BRSMI = Tool(
    name="brsmi",
    vendor="Biren",
    programs=("brsmi",),
    scope="board",
    overview=_csv("name,memory.used,power.draw"),
    details=(_csv("uuid,pci.bus_id,memory.total,temperature.gpu,utilization.gpu,power.limit"),),
    notes=(
        "no output of brsmi was ever seen: the form of its answer is assumed, and so its watts",
    ),
)
