"""Whatever a tool prints: a value in its unit's range or a reason, and no zero of our own.

Stored answers of the tool are mutated: cut, repeated, mixed with another tool's, numbers and units
replaced. Each query of each registered tool is tested, and a tool that is added is tested with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Philox

from chipmark.meters.tools.reading import QUANTITIES, DieReading, Missing
from chipmark.meters.tools.tool import Query, Tool

RANGES = {
    "power_w": (1e-9, 20_000.0),
    "cap_w": (1e-9, 20_000.0),
    "temperature_c": (-40.0, 150.0),
    "clock_mhz": (0.0, 20_000.0),
    "nominal_mhz": (0.0, 20_000.0),
    "memory_clock_mhz": (0.0, 20_000.0),
    "busy": (0.0, 1.0),
    "memory_used_bytes": (0, 2**50),
    "memory_total_bytes": (0, 2**50),
    "ecc_errors": (0, 10**15),
    "processes": (0, 10**9),
}
COUNTS = ("memory_used_bytes", "memory_total_bytes", "ecc_errors", "processes")
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
NUMBERS = (
    "0", "0.0", "0W", "-1", "1e3", "nan", "inf", "-inf", "1_000", "0x10", "1,5", "0.3",
    "\uff19\uff11", "\u0663", "\u00b2", "99999999999999999999", "1" * 400, "00000000001",
    ".", "..", "N/A", "[N/A]", "n/a", "NA", "-",
    "--", "ERR!", "[Not Supported]", "Unknown Error", "N/A (Secondary die)", "不支持", "", "91.3",
)  # fmt: skip
JUNK = (
    "\x00", "\r", "\n", "\n\n", "\t", " ", "|", "||", "+---+", "|===|", "=", ":", " : ", "/",
    "{", "}", '"', "'", "\\", "\x1b[31m", "\ufeff", "\u2028", "℃", "瓦", "�", "W", "mW",
    "kW", "MiB", "%",
    "NPU ID : 1", "Chip ID : 0", "Card 0", "No running processes found", "Processes:",
)  # fmt: skip


class Draw:
    """Raw bits of a seed."""

    def __init__(self, seed: int) -> None:
        self._bits = Philox(seed)

    def __call__(self, below: int) -> int:
        return int(self._bits.random_raw()) % below

    def of(self, items: tuple[str, ...] | list[str]) -> str:
        return items[self(len(items))]


def mutated(text: str, others: list[str], seed: int) -> str:
    """The text after one to four changes."""
    draw = Draw(seed)
    for _ in range(1 + draw(4)):
        text = CHANGES[draw(len(CHANGES))](text, others, draw)
    return text


def cut(text: str, others: list[str], draw: Draw) -> str:
    return text[: draw(len(text) + 1)]


def head_lost(text: str, others: list[str], draw: Draw) -> str:
    return text[draw(len(text) + 1) :]


def part_lost(text: str, others: list[str], draw: Draw) -> str:
    at = draw(len(text) + 1)
    return text[:at] + text[at + draw(40) :]


def junk(text: str, others: list[str], draw: Draw) -> str:
    at = draw(len(text) + 1)
    return text[:at] + draw.of(JUNK) * (1 + draw(3)) + text[at:]


def lines_changed(text: str, others: list[str], draw: Draw) -> str:
    lines = text.split("\n")
    a, b = draw(len(lines)), draw(len(lines))
    match draw(4):
        case 0:
            lines[a], lines[b] = lines[b], lines[a]
        case 1:
            lines.insert(b, lines[a])
        case 2:
            del lines[a]
        case _:
            lines[a:a] = lines[min(a, b) : max(a, b)]
    return "\n".join(lines)


def number_changed(text: str, others: list[str], draw: Draw) -> str:
    found = list(NUMBER.finditer(text))
    if not found:
        return text
    one = found[draw(len(found))]
    return text[: one.start()] + draw.of(NUMBERS) + text[one.end() :]


def unit_changed(text: str, others: list[str], draw: Draw) -> str:
    found = list(re.finditer(r"(?<=[0-9 ])(?:W|C|MiB|MHz|Mhz|%)|\([A-Za-z%]+\)", text))
    if not found:
        return text
    one = found[draw(len(found))]
    return text[: one.start()] + draw.of(JUNK) + text[one.end() :]


def spaces_changed(text: str, others: list[str], draw: Draw) -> str:
    return (
        text.replace("  ", " "),
        text.replace("\n", "\r\n"),
        text.replace("|", "│"),
        text.upper(),
        text.lower(),
        text.replace(" ", ""),
    )[draw(6)]


def spliced(text: str, others: list[str], draw: Draw) -> str:
    other = draw.of(others)
    return text[: draw(len(text) + 1)] + other[draw(len(other) + 1) :]


CHANGES: tuple[Callable[[str, list[str], Draw], str], ...] = (
    cut, head_lost, part_lost, junk, lines_changed, number_changed, number_changed, number_changed,
    unit_changed, spaces_changed, spliced,
)  # fmt: skip


def check(query: Query, text: str) -> None:
    """What holds for every text."""
    readings = query.parse(text)
    assert isinstance(readings, tuple)
    printed = {float(number) for number in NUMBER.findall(text)}
    for reading in readings:
        assert isinstance(reading, DieReading)
        assert reading.card >= 0
        assert reading.die >= 0
        for name in QUANTITIES:
            value = getattr(reading, name)
            if value is None:
                assert isinstance(reading.missing[name], Missing), (name, text)
                continue
            assert name not in reading.missing
            if name == "throttle":
                assert isinstance(value, tuple)
                continue
            low, high = RANGES[name]
            assert math.isfinite(value), (name, text)
            assert low <= value <= high, (name, value, text)
            assert isinstance(value, int) == (name in COUNTS)
            if value == 0 and name != "processes":
                assert 0.0 in printed, (name, text)
        if reading.processes == 0:
            assert re.search(r"process", text, re.IGNORECASE), text
        for power in (reading.power_w, reading.cap_w):
            if power is not None:
                assert any(
                    math.isclose(power, number * factor, rel_tol=1e-9)
                    for number in printed
                    for factor in (1.0, 1e-3, 1e3)
                ), (power, text)


def queries(tool: Tool) -> Iterator[Query]:
    """Every query of a tool."""
    yield tool.overview
    yield from tool.details


def texts_of(tool: Tool, query: Query, stored: list[Any]) -> list[str]:
    """What is stored of a tool's answers to a query."""
    pattern = " ".join(query.arguments).replace("{card}", "[0-9]+")
    return [
        answer["text"]
        for one in stored
        for answer in one.answers
        if one.content["tool"] == tool.name
        and re.fullmatch(pattern, answer["arguments"])
        and not answer.get("exit_code")
    ]


def test_every_query_of_a_tool_has_a_stored_answer(registered: Tool, every: list[Any]) -> None:
    for query in queries(registered):
        for text in texts_of(registered, query, every):
            if query.parse(text):
                break
        else:
            pytest.fail(f"{registered.name} {query.arguments}: no file of tests/…/data is read")


def test_mutated_answers(registered: Tool, every: list[Any]) -> None:
    others = [answer["text"] for one in every for answer in one.answers]
    cases = [(q, texts_of(registered, q, every)) for q in queries(registered)]

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**63 - 1))
    def holds(seed: int) -> None:
        for query, texts in cases:
            for text in texts:
                check(query, mutated(text, others, seed))

    holds()


# CI runs a fifth of them, within its time; `-m slow` runs the rest.
PARTS = [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 5))]


@pytest.mark.long
@pytest.mark.parametrize("part", PARTS)
def test_a_hundred_thousand_mutated_answers(registered: Tool, every: list[Any], part: int) -> None:
    """20,000 a part, over all of a tool's queries and their stored answers in turn."""
    others = [answer["text"] for one in every for answer in one.answers]
    cases = [(q, text) for q in queries(registered) for text in texts_of(registered, q, every)]
    for seed in range(part * 20_000, (part + 1) * 20_000):
        query, text = cases[seed % len(cases)]
        check(query, mutated(text, others, seed))
