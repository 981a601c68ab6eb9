"""The overview that several vendors' tools took over from nvidia-smi: three cells a line, two or
three lines a device, watts and limit below `Pwr:Usage/Cap`, and a list of processes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chipmark.meters.tools.boxes import Block, blocks, pair, records, word_below
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.sections import integer
from chipmark.meters.tools.values import BYTES, CELSIUS, COUNT, PERCENT, WATTS, Fields


@dataclass(frozen=True, slots=True)
class UsageTable:
    """How a tool names its columns; those of numbers are regular expressions of whole words."""

    first: str
    """The word above the devices' numbers; the name's is `Name`."""
    busy: str
    ecc: str
    part: str = ""
    """The word above the number of a virtual function, "" where the tool has none."""
    split: str = ""
    """The column that says `Enabled` where a device is split, "" where the tool has none."""

    def read(self, text: str) -> tuple[DieReading, ...]:
        """Every device of the table; () where there is none with these columns."""
        header: Block = ()
        found: list[Fields] = []
        # The end of a list that was cut may have been about any card.
        processes = _Processes(whole=text.rstrip().endswith("+"))
        for block in blocks(text):
            first = block[0][0].split()
            if first[:1] == ["Processes:"]:
                header, processes.listed = (), True
            elif first[:1] == [self.first] and "Name" in first:
                header = block
            elif header:
                devices = (self._device(record, header) for record in records(block, header))
                found += [device for device in devices if device is not None]
            elif processes.listed:
                processes.take(block)
        for device in found:
            processes.say(device)
        return tuple(device.reading() for device in found)

    def _device(self, record: Block, header: Block) -> Fields | None:
        names, words = header[0][0].split(), record[0][0].split()
        before = names.index("Name")
        behind = len(names) - before - 1
        number = integer(words[0]) if words else None
        if number is None or len(words) <= before + behind:
            return None
        bus = word_below(record, header, "Bus-Id") or ""
        shared = ""
        if self.part in names:
            part = words[names.index(self.part)]
            shared = f"{self.part} {part}" if integer(part) is not None else ""
        if self.split and word_below(record, header, self.split) == "Enabled":
            shared = shared or self.split.removesuffix("-M.")
        name = " ".join(words[before : len(words) - behind])
        fields = Fields(number, name=name, pci=bus if ":" in bus else "", shared=shared)
        self._numbers(fields, record, header)
        return fields

    def _numbers(self, fields: Fields, record: Block, header: Block) -> None:
        if (found := word_below(record, header, "Pwr:Usage/Cap")) is not None:
            usage, cap = pair(found)
            fields.take("power_w", usage, WATTS)
            fields.take("cap_w", cap, WATTS)
        if (found := word_below(record, header, "Memory-Usage")) is not None:
            used, total = pair(found)
            fields.take("memory_used_bytes", used, BYTES, 2.0**20)
            fields.take("memory_total_bytes", total, BYTES, 2.0**20)
        for name, column, unit in (
            ("temperature_c", "Temp", CELSIUS),
            ("busy", self.busy, PERCENT),
            ("ecc_errors", self.ecc, COUNT),
        ):
            if (found := word_below(record, header, column)) is not None:
                fields.take(name, found, unit)


@dataclass(slots=True)
class _Processes:
    """Processes by card, where the tool lists them."""

    whole: bool
    """Whether the list has its end."""
    listed: bool = False
    """Whether it has begun."""
    none: bool = False
    """Whether the tool says that there are none."""
    of: Counter[int] = field(default_factory=Counter)

    def take(self, block: Block) -> None:
        """Rows below the table's header."""
        for line in block:
            words = line[0].split()
            self.none |= words[:4] == ["No", "running", "processes", "found"]
            card = integer(words[0]) if words else None
            if card is not None and any(integer(word) is not None for word in words[1:]):
                self.of[card] += 1

    def say(self, device: Fields) -> None:
        """The device's count, where the list holds it."""
        if self.of[device.card] or self.none or (self.whole and self.of.total()):
            device.say(processes=self.of[device.card])
