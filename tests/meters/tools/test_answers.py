"""Every stored answer of every tool is read as its file says, and the meter made of it too."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from chipmark.errors import ChipmarkError
from chipmark.meters.choice import MeterChoice
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.cards import Holder
from chipmark.meters.tools.reading import QUANTITIES, DieReading, Missing
from chipmark.meters.tools.tool import Query

TEXTS = ("name", "pci", "uuid", "shared", "whole_card")


def query_of(stored: Any, arguments: str) -> Query:
    tool = stored.tool
    for query in (tool.overview, *tool.details):
        pattern = re.escape(" ".join(query.arguments)).replace(re.escape("{card}"), r"\d+")
        if re.fullmatch(pattern, arguments):
            return query
    raise AssertionError(f"{tool.name} is never asked {arguments!r}")


def test_answers_are_read(stored: Any) -> None:
    for answer in stored.answers:
        if answer.get("exit_code"):
            continue
        found = query_of(stored, answer["arguments"]).parse(answer["text"])
        assert [*map(shown, found)] == [*map(expected, answer.get("reading", []))]


def test_the_meter_of_a_whole_tool(stored: Any, program: Callable[[str], Any]) -> None:
    wanted = stored.content["meter"]
    program(wanted.get("program", stored.tool.programs[0])).prints(stored.answers)
    choices = (MeterChoice(stored.tool.name, wanted["choice"]),) if "choice" in wanted else ()
    request = MeterRequest(stored.tool.vendor, "card", wanted.get("device", "any"), choices=choices)
    if "refused" in wanted:
        with pytest.raises(ChipmarkError, match=wanted["refused"]):
            stored.tool.for_request(request)
        return
    meter = stored.tool.for_request(request)
    assert meter is not None
    assert meter.info.name == stored.tool.name
    assert meter.info.cap_w == wanted.get("cap_w")
    assert Holder[wanted["holder"]].value in meter.info.method
    assert not meter.info.verified
    meter.start()
    samples = meter.stop()
    # A moment drawn within the period may fall between the first and the last reading.
    assert len(samples.power_w) >= 2
    assert set(samples.power_w.tolist()) == {wanted["watts"]}
    assert all(math.isnan(value) for value in samples.energy_j)
    assert samples.remarks == tuple(wanted.get("remarks", ()))


def shown(reading: DieReading) -> dict[str, object]:
    """What a reading says, without what it does not."""
    values = asdict(reading)
    found = {name: values[name] for name in TEXTS if values[name]}
    found |= {name: values[name] for name in QUANTITIES if values[name] is not None}
    if reading.throttle is not None:
        found["throttle"] = [*reading.throttle]
    silent = {n: w.name for n, w in reading.missing.items() if w is not Missing.NOT_PRINTED}
    return {"card": reading.card, "die": reading.die, "missing": silent, **found}


def expected(wanted: dict[str, object]) -> dict[str, object]:
    """The same of a fixture's entry."""
    return {"die": 0, "missing": {}, **wanted}
