"""Tables in frames of bars, by their headers: two or three lines a device, each with the labels
that the header has in the same cell and line.

```
| GPU  Name          | Bus-Id           | Clock-SM  Clock-Mem |
| Fan  Temp  Pwr     | Memory-Usage     | GPU-Util            |
|====================+==================+=====================|
| 0    Chip X        | 00000000:10:00.0 | 1500MHz   1600MHz   |
| N/A  40C   104W    | 64MiB / 32768MiB | 0%                  |
```
A label that a tool's reader does not know takes up its place; no column is found by its offset.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WATT = r"(?:\[?N/A\]?|[^\s/|]+(?:\s[mk]?W)?)"
"""One figure in watts, or what replaces it."""

BYTE = r"(?:\[?N/A\]?|[^\s/|()]+(?:\s[KMGT]i?B)?)"
"""One figure in bytes, or what replaces it."""

USE_OF_CAP = rf"(?P<power_w>{WATT})(?:(?:\s*/\s*|\s+)(?P<cap_w>{WATT}))?"
TEMPERATURE = r"(?P<temperature_c>\[?N/A\]?|[^\s/|]+(?:\s°?[C℃])?)"
USED_OF_TOTAL = rf"(?P<memory_used_bytes>{BYTE})\s*[/(]\s*(?P<memory_total_bytes>{BYTE})\)?"
BUSY = r"(?P<busy>\S+(?:\s%)?)"
CARD = r"(?P<card>\d{1,4})"
NAME = r"(?P<name>\S.*?)"
PCI = r"(?P<pci>\S+)"

UNREADABLE = "?"
"""Stands for a field whose cell is not as its header says."""

_WORD = r"(?!\d[\d.]*\s?W(?:\s|$))[^\s/]\S*"
_UNKNOWN = rf"{_WORD}(?:\s{_WORD})*?"
# A figure in watts and what is behind a slash belong to no unknown label: where a value is missing
# before them, a limit would be read as the draw.
_LONGEST_CELL, _LONGEST_LINE, _MOST_LINES = 120, 300, 4000
# of what can be a table: the rest of a flood is not looked at
_RULE = re.compile(r"[-=+|*#\s]*[-=]{3}[-=+|*#\s]*")
_DATED_RULE = re.compile(r"[+*].*[-=]{4}[+*]")
_OTHER_TABLE = re.compile(r"(?:processes|process|mig devices) ?:", re.IGNORECASE)
_NO_PROCESS = re.compile(r"no (?:running )?process(?:es)? found", re.IGNORECASE)
_BORDERS = "|*"


@dataclass(frozen=True, slots=True)
class Label:
    """What a header calls a value. `printed`: a regular expression of the label, in any case.
    `value`: one of the value, with a group for each field of a reading that it gives."""

    printed: str
    value: str


def frame_rows(text: str, labels: Sequence[Label]) -> list[dict[str, str]]:
    """The devices of the first framed table whose header has a label with the group `card`: their
    fields' texts by name. A device whose `card` cannot be read is left out."""
    rows: list[dict[str, str]] = []
    header: list[list[_Cell]] = []
    for block in _blocks(text):
        if header and any(_OTHER_TABLE.match(cell) for line in block for cell in line):
            break
        found = [[_cell(cell, labels) for cell in line] for line in block]
        known = [cell for line in found for cell in line if cell.fields]
        if len(known) > 1 and any("card" in cell.fields for cell in found[0]):
            header = found
        elif header:
            for first in range(0, len(block), len(header)):
                row = _row(header, block[first : first + len(header)])
                if row.get("card", UNREADABLE) != UNREADABLE:
                    rows.append(row)
    return rows


@dataclass(frozen=True, slots=True)
class Processes:
    """The list of processes below the devices."""

    counts: Counter[int]
    """Of the cards that have rows in it."""
    whole: bool
    """Whether it has its end: a row that was cut off may have been of any card."""

    def printed(self, card: int) -> dict[str, str]:
        """The field `processes` of a card as text, {} where the list does not tell."""
        count = self.counts[card]
        return {"processes": str(count)} if count or self.whole else {}


def processes_of(text: str) -> Processes:
    """What a table says of processes; where it has no list, or one without rows that does not say
    that there are none, nothing is known of any card."""
    counts: Counter[int] = Counter()
    within = none = ended = False
    for line in text.splitlines()[:_MOST_LINES]:
        bare = line.strip(" |*\t")
        if len(line) > _LONGEST_LINE:
            continue
        if re.match(r"process(?:es)? ?:", bare, re.IGNORECASE):
            within = True
        elif within and _NO_PROCESS.match(bare):
            none = True
        elif within:
            words = bare.split()
            if len(words) > 2 and re.fullmatch(r"\d{1,4}", words[0]) and _ID.fullmatch(words[1]):
                counts[int(words[0])] += 1
        ended = bool(_RULE.fullmatch(line.strip())) or (ended and not bare)
    return Processes(counts, none or (ended and counts.total() > 0))


_ID = re.compile(r"\d{1,10}|N/A|-")


@dataclass(frozen=True, slots=True)
class _Cell:
    """A cell of the header: what a cell below it must look like, and the fields that it gives."""

    value: re.Pattern[str]
    fields: tuple[str, ...]


def _blocks(text: str) -> Iterator[list[list[str]]]:
    """Runs of lines with cells between rules and lines without any, each line as its cells."""
    block: list[list[str]] = []
    for line in text.splitlines()[:_MOST_LINES]:
        bare = line.strip()
        if len(line) > _LONGEST_LINE:
            continue
        if "|" in bare and not _RULE.fullmatch(bare) and not _DATED_RULE.fullmatch(bare):
            block.append(_cells(line.rstrip()))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _cells(line: str) -> list[str]:
    # A frame begins near the margin; a bar further in stands between two cells, the first empty.
    start = line.lstrip()
    if start[:1] in _BORDERS and len(line) - len(start) < 4:
        line = start[1:]
    if line[-1:] in _BORDERS:
        line = line[:-1]
    return [cell.strip()[:_LONGEST_CELL] for cell in line.split("|")]


def _cell(text: str, labels: Sequence[Label]) -> _Cell:
    found: list[tuple[int, int, str]] = []
    for label in labels:
        for match in re.finditer(rf"(?<![^\s]){label.printed}(?![^\s])", text, re.IGNORECASE):
            if not any(start < match.end() and match.start() < end for start, end, _ in found):
                found.append((match.start(), match.end(), label.value))
    values: list[str] = []
    fields: list[str] = []
    at = 0
    for start, end, value in sorted(found):
        values += _unknown(text[at:start])
        names = re.findall(r"\?P<(\w+)>", value)
        # A header that a damaged text gives a label twice: the first one counts.
        values.append(_UNKNOWN if set(names) & set(fields) else value)
        fields += [name for name in names if name not in fields]
        at = end
    values += _unknown(text[at:])
    return _Cell(re.compile(r"\s+".join(values), re.IGNORECASE), tuple(fields))


def _unknown(text: str) -> list[str]:
    return [_UNKNOWN for part in re.split(r"\s{2,}", text.strip()) if part]


def _row(header: list[list[_Cell]], lines: list[list[str]]) -> dict[str, str]:
    row: dict[str, str] = {}
    for cells, texts in zip(header, lines, strict=False):
        whole = len(cells) == len(texts)
        for number, cell in enumerate(cells):
            match = cell.value.fullmatch(texts[number]) if whole else None
            for name in cell.fields:
                value = match.group(name) if match else UNREADABLE
                if value is not None:
                    row.setdefault(name, value)
    return row
