from __future__ import annotations

import re

from chipmark.meters.tools.logs import device_logs, device_objects

BEGINS = re.compile(r"GPU (?P<card>\d+)$")
LOG = """
Driver : 1.0
GPU 0
    Power Readings
        Power Draw : 51.99 W
    Power Samples
        Power Draw : 58.68 W
    Processes
        Process ID : 1
            Name : a
        Process ID : 2
GPU 1
    HW Slowdown : Active
        HW Thermal Slowdown : Not Active
"""


def test_a_name_is_found_in_its_own_section_and_device() -> None:
    first, second = device_logs(LOG, BEGINS)
    assert first.first(("power readings", "power draw")) == "51.99 W"
    assert first.first(("power samples", "power draw")) == "58.68 W"
    assert first.first(("", "power draw"), ("nowhere", "power draw")) is None
    assert first.values["processes", "process id"] == ["1", "2"]
    assert (second.begins["card"], second.first(("", "hw thermal slowdown"))) == ("1", "Not Active")


def test_tabs_indent_as_blanks_do() -> None:
    (log,) = device_logs(
        "GPU 7\n\tPower Info\n\t\tCur Power : 96 W\n\tClock Info\n\t\tClk : 1\n", BEGINS
    )
    assert log.first(("power info", "cur power")) == "96 W"
    assert log.first(("clock info", "clk")) == "1"


def test_json_with_blanks_in_its_names() -> None:
    (log,) = device_objects([{"Power Readings": {"Power Draw ": "43.09W", "On": True}, "Index": 3}])
    assert log.first(("power readings", "power draw")) == "43.09W"
    assert log.first(("", "index")) == "3"
    assert log.first(("power readings", "on")) is None
    assert device_objects({"GPU": []}) == []
