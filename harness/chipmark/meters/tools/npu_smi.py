"""Huawei's `npu-smi`: the table of `npu-smi info`, and `info -t power|common|ecc` of one NPU.

An NPU is a card with one chip (910B) or two (A3's 910C, 310P Duo). On A3 the second chip may print
`-` for watts. 310P chips print none at all: the card's are those of its MCU, which is listed below
the chips by name and without a number. Chips are never asked by `-c`, which 950PR refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from chipmark.meters.tools.boxes import Block, blocks, is_header, pair, records, word_below, words
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.sections import Line, integer, lines_of
from chipmark.meters.tools.tool import Query, Tool
from chipmark.meters.tools.values import BYTES, CELSIUS, COUNT, MEGAHERTZ, PERCENT, WATTS, Fields

_POWER = ("npu real-time power(w)", "power dissipation(w)", "real-time power(w)")
_TEMPERATURE = ("temperature(c)", "temperature (c)", "npu temperature (c)", "npu temperature(c)")
_DOUBLE_BIT = ("hbm double bit error count", "ddr double bit error count")
_BOARD = ("mcu",)
_OTHERS = ("mcu", "3559")
"""Chip names of what is on the card next to its NPU chips."""


def read_table(text: str) -> tuple[DieReading, ...]:
    """`npu-smi info`."""
    dies: list[Fields] = []
    header: Block = ()
    processes: Counter[tuple[int, int]] = Counter()
    idle: set[int] = set()
    for block in blocks(text):
        if is_header(block, ("NPU", "Name")):
            header = block
        elif is_header(block, ("NPU", "Chip")):
            header = ()
        elif header:
            for record in records(block, header):
                if (die := _die(record, header)) is not None:
                    dies.append(die)
        else:
            for line in block:
                _process(line, processes, idle)
    for die in dies:
        place = die.card, die.die
        if place in processes or die.card in idle:
            die.take("processes", str(processes[place]), COUNT)
    return tuple(die.reading() for die in dies)


def read_details(text: str) -> tuple[DieReading, ...]:
    """`npu-smi info -t power` and `-t common`: a block of lines a chip, with its number before or
    behind the rest."""
    lines = lines_of(text)
    numbers = [integer(line.value) for line in lines if line.key == "npu id"]
    counts = [integer(line.value) for line in lines if line.key == "chip count"]
    if any(number is None for number in numbers) or len(set(numbers)) > 1:
        return ()
    card = numbers[0] if numbers and numbers[0] is not None else 0
    count = counts[0] if counts else None
    found: list[Fields] = []
    for block in _chips(lines):
        name = block.get("chip name", "").lower()
        if name in _OTHERS:
            if name in _BOARD:
                # After the last chip: a number that no chip has.
                fields = Fields(card, count or len(found) or 1, whole_card=True)
                fields.take_first("power_w", block, _POWER, WATTS)
                found.append(fields)
            continue
        number = integer(block.get("chip id"))
        if number is None and (count not in (None, 1) or "chip id" in block):
            continue  # one of several, and it does not say which
        fields = Fields(card, number or 0)
        fields.take_first("power_w", block, _POWER, WATTS)
        fields.take_first("temperature_c", block, _TEMPERATURE, CELSIUS)
        fields.take_first("clock_mhz", block, ("aicore curfreq(mhz)",), MEGAHERTZ)
        fields.take_first("nominal_mhz", block, ("aicore freq(mhz)",), MEGAHERTZ)
        fields.take_first("busy", block, ("aicore usage rate(%)",), PERCENT)
        fields.take_first("memory_clock_mhz", block, ("hbm clock speed(mhz)",), MEGAHERTZ)
        errors = [block[key] for key in _DOUBLE_BIT if key in block]
        counts_of = [integer(text) for text in errors]
        if errors and None not in counts_of:
            fields.say(ecc_errors=sum(count or 0 for count in counts_of))
        elif errors:
            fields.take("ecc_errors", next(t for t in errors if integer(t) is None), COUNT)
        found.append(fields)
    return tuple(fields.reading() for fields in found) if any(f.asked for f in found) else ()


def _die(record: Block, header: Block) -> Fields | None:
    first, second = words(record[0][0]), words(record[1][0]) if len(record) > 1 else []
    card = integer(first[0]) if len(first) > 1 else None
    die = integer(second[0]) if second else None
    if card is None or die is None:
        return None
    bus = word_below(record, header, "Bus-Id") or ""
    fields = Fields(card, die, name=" ".join(first[1:]), pci=bus if ":" in bus else "")
    for name, column, unit in (
        ("power_w", r"Power\(W\)", WATTS),
        ("temperature_c", r"Temp\(C\)", CELSIUS),
        ("busy", r"AICore\(%\)", PERCENT),
    ):
        if (found := word_below(record, header, column)) is not None:
            fields.take(name, found, unit)
    # Chips with HBM print 0 / 0 for the other kind.
    for column in (r"HBM-Usage\(MB\)", r"Memory-Usage\(MB\)"):
        if (found := word_below(record, header, column)) is not None and pair(found)[1] != "0":
            used, total = pair(found)
            fields.take("memory_used_bytes", used, BYTES, 2.0**20)
            fields.take("memory_total_bytes", total, BYTES, 2.0**20)
            break
    return fields


def _process(line: tuple[str, ...], processes: Counter[tuple[int, int]], idle: set[int]) -> None:
    first = words(line[0])
    if first[:4] == ["No", "running", "processes", "found"]:
        number = integer(first[-1])
        if number is not None:
            idle.add(number)
        return
    numbers = [integer(word) for word in first]
    if len(numbers) == 2 and len(line) > 1 and integer(line[1]) is not None:
        card, die = numbers
        if card is not None and die is not None:
            processes[card, die] += 1


def _chips(lines: list[Line]) -> Iterator[dict[str, str]]:
    """Keys and values of each chip: a blank line, or a key that was there already, begins another;
    a chip that is known by its name alone too."""
    block: dict[str, str] = {}
    for line in lines:
        value = line.value
        named = line.key == "chip name" and (value or "").lower() in _OTHERS
        if value is None or line.key in block or (named and "chip id" in block):
            if block:
                yield block
            block = {}
        if value is not None and line.key not in ("npu id", "chip count"):
            block[line.key] = value
    if block:
        yield block


NPU_SMI = Tool(
    name="npu-smi",
    vendor="Huawei",
    programs=("npu-smi",),
    scope="module",
    overview=Query(("info",), read_table),
    details=(
        Query(("info", "-t", "power", "-i", "{card}"), read_details, quick=True),
        Query(("info", "-t", "common", "-i", "{card}"), read_details),
        Query(("info", "-t", "ecc", "-i", "{card}"), read_details),
    ),
    is_own=lambda text: "npu-smi" in text,
    numbers_dies=True,
    resolution_w=0.1,
)
