from __future__ import annotations

import pytest

from chipmark.meters.tools.frames import UNREADABLE, Label, frame_rows, processes_of
from chipmark.meters.tools.nvidia_like import TABLE

FRAME = """
+----------------------------------------------------------+
| SOME-SMI 1.0          Driver Version: 1.0                |
|--------------------------+------------------+------------|
| GPU  Name                | Bus-Id           | Fan        |
| Temp  Mode  Pwr:Usage/Cap| Memory-Usage     | GPU-Util   |
|==========================+==================+============|
| 3    Chip X1 Pro    On   | 0000:10:00.0 Off | 20%        |
| 40C   P0    104W / 350W  | 64MiB / 96MiB    | 7%         |
+--------------------------+------------------+------------+
"""


def rows(text: str) -> list[dict[str, str]]:
    return frame_rows(text, TABLE)


def test_values_are_found_below_their_labels() -> None:
    (row,) = rows(
        FRAME.replace("| Fan        |", "| Fan  MIG M. |").replace("| 20%        |", "| 20%  off |")
    )
    assert row["card"] == "3"
    assert (row["power_w"], row["cap_w"], row["temperature_c"]) == ("104W", "350W", "40C")
    assert (row["memory_used_bytes"], row["memory_total_bytes"]) == ("64MiB", "96MiB")
    assert (row["busy"], row["mig"]) == ("7%", "off")


def test_a_column_that_moves_is_found_by_its_label() -> None:
    moved = FRAME.replace("Temp  Mode  Pwr:Usage/Cap", "Pwr:Usage/Cap  Temp  Mode").replace(
        "40C   P0    104W / 350W", "104W / 350W  40C  P0"
    )
    (row,) = rows(moved)
    assert (row["power_w"], row["cap_w"], row["temperature_c"]) == ("104W", "350W", "40C")


def test_a_column_that_is_new_does_not_shift_the_others() -> None:
    wider = FRAME.replace("Temp  Mode  Pwr", "Temp  Hot Spot  Mode  Pwr").replace(
        "40C   P0    104W", "40C   61C   P0    104W"
    )
    (row,) = rows(wider)
    assert (row["power_w"], row["temperature_c"]) == ("104W", "40C")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("40C   P0    104W / 350W", "104W / 350W"),  # two values are missing
        ("40C   P0    104W / 350W", "40C | P0    104W / 350W"),  # a bar too many
        ("40C   P0    104W / 350W", "Unknown Error / 350W / 3"),
        ("40C   P0    104W / 350W", "P0    104W / 350W"),
        ("40C   P0    104W / 350W", "40C   104W / 350W"),
        ("40C   P0    104W / 350W", "40C   104W  350W"),
        ("40C   P0    104W / 350W", "40C   P0    / 350W"),
        ("7%         |", "7%  | 9%  |"),
    ],
)
def test_a_cell_that_is_not_as_its_header_has_no_watts(old: str, new: str) -> None:
    (row,) = rows(FRAME.replace(old, new))
    assert row["power_w"] == UNREADABLE
    assert row["temperature_c"] == UNREADABLE


def test_devices_without_a_rule_between_them() -> None:
    last = "| 40C   P0    104W / 350W  | 64MiB / 96MiB    | 7%         |\n"
    more = (
        "| 4    Chip X1        On   | 0000:11:00.0 Off | 20%        |\n"
        "| 41C   P0    N/A / N/A    | 1MiB / 96MiB     | 0%         |\n"
    )
    again = FRAME.replace(last, last + more)
    assert [(row["card"], row["power_w"]) for row in rows(again)] == [("3", "104W"), ("4", "N/A")]


def test_nothing_is_read_without_a_header() -> None:
    assert rows(FRAME.replace("GPU  Name", "Karte Name").replace("GPU-Util", "Last")) == []
    assert rows("\n".join(line for line in FRAME.splitlines() if "GPU" not in line)) == []


def test_a_header_that_gives_a_label_twice_is_read_once() -> None:
    twice = FRAME.replace("Temp  Mode", "Temp  Temp").replace("40C   P0", "40C   99C")
    (row,) = rows(twice)
    assert row["temperature_c"] == "40C"


def test_frames_of_stars_and_of_no_border() -> None:
    labels = (Label("DEV", r"(?P<card>\d+)"), Label("PWR", r"(?P<power_w>\S+)"))
    for text in (
        "*------*\n* DEV | PWR *\n*------*\n* 1 | 48.0W *\n*------*",
        "-------\nDEV |PWR\n+-----+\n1   |48.0W\n+-----+",
    ):
        assert frame_rows(text, labels) == [{"card": "1", "power_w": "48.0W"}]


def test_processes_are_counted_by_card() -> None:
    table = """
| Processes: |
| GPU PID Name |
|===|
| 0 N/A N/A 11 C a |
| 2 12 b 3MiB |
| 2 13 c |
"""
    listed = processes_of(table + "+---+\n\n")
    assert [listed.printed(card) for card in range(3)] == [
        {"processes": "1"},
        {"processes": "0"},
        {"processes": "2"},
    ]
    assert processes_of("| Process: |\n| no process found |").printed(5) == {"processes": "0"}
    # A row that was cut off may have been of any card.
    cut = processes_of(table)
    assert (cut.printed(1), cut.printed(2)) == ({}, {"processes": "2"})
    # A table whose rows are not read is no sign of an idle card.
    assert processes_of("| Processes: |\n| 进程 |\n+---+\n").printed(0) == {}
    assert processes_of(FRAME).printed(0) == {}
