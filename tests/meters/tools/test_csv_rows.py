from __future__ import annotations

from chipmark.meters.tools.csv_rows import csv_rows


def test_columns_are_found_by_name_and_units_come_from_the_header() -> None:
    text = "some banner\npower.draw [W], index, memory.used [MiB]\n51.5, 0, 12\n52 W, 1, [N/A]\n"
    assert csv_rows(text, "index") == [
        {"power.draw": "51.5 W", "index": "0", "memory.used": "12 MiB"},
        {"power.draw": "52 W", "index": "1", "memory.used": "[N/A]"},
    ]


def test_units_in_round_brackets_and_in_words() -> None:
    (row,) = csv_rows("DeviceId, GPU Core Temperature (Celsius Degree)\n0, 61.00\n", "deviceid")
    assert row == {"deviceid": "0", "gpu core temperature": "61.00 C"}


def test_rows_of_another_width_and_answers_without_a_header_are_not_read() -> None:
    assert csv_rows("index, power.draw [W]\n0, 51.5, 3\n0\n", "index") == []
    assert csv_rows("0, 51.5\n1, 52\n", "index") == []
    assert csv_rows('Field "power.draw.instant" is not a valid field to query.\n', "index") == []


def test_an_empty_cell_beyond_the_header_does_not_count() -> None:
    assert csv_rows("dev, power\nidx, W,\n", "dev") == [{"dev": "idx", "power": "W"}]
