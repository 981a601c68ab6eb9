from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chipmark.errors import ChipmarkError, MissingBackendError
from chipmark.meters.tools.devices import find_tool
from chipmark.meters.tools.hy_smi import HY_SMI
from chipmark.meters.tools.npu_smi import NPU_SMI
from chipmark.meters.tools.reading import DieReading, Missing, merged, without_suspects
from chipmark.meters.tools.tool import Tool
from chipmark.meters.tools.xpu_smi import XPU_SMI

Make = Callable[[str], Any]


def read_devices(tool: Tool) -> tuple[DieReading, ...]:
    """All that a tool tells of every die."""
    here, readings = find_tool(tool)
    return here.completed(readings)


def prints(program: Any, every: list[Any], stem: str) -> Any:
    """Give the answers of a stored file."""
    program.prints(next(one.answers for one in every if one.file.stem == stem))
    return program


def test_overview_and_details_are_one_reading_of_each_die(program: Make, every: list[Any]) -> None:
    prints(program("npu-smi"), every, "npu-smi-25.2.0-910B4-1")
    (die,) = read_devices(NPU_SMI)
    assert (die.name, die.power_w, die.clock_mhz, die.nominal_mhz) == ("910B4-1", 91.3, 800, 1650)
    assert (die.ecc_errors, die.processes) == (2, 0)
    assert die.missing["cap_w"] is Missing.NOT_PRINTED


def test_the_sensor_of_a_board_is_at_the_first_die(program: Make, every: list[Any]) -> None:
    prints(program("npu-smi"), every, "npu-smi-25.2.0-310P-Duo")
    dies = read_devices(NPU_SMI)
    assert [(d.card, d.die, d.power_w, d.whole_card) for d in dies] == [
        (2, 0, 42.8, True),
        (2, 1, None, False),
    ]
    assert dies[1].missing["power_w"] is Missing.NOT_AVAILABLE
    assert [d.temperature_c for d in dies] == [45.0, 43.0]


def test_only_what_is_wanted_is_asked(program: Make, every: list[Any]) -> None:
    tool = prints(program("npu-smi"), every, "npu-smi-25.2.0-910B4-1")
    here, readings = find_tool(NPU_SMI)
    assert tool.asked == ["info"]
    here.completed(readings, ["power_w", "temperature_c"])
    assert tool.asked == ["info"]
    here.completed(readings, ["clock_mhz"])
    assert tool.asked == ["info", "info -t power -i 0", "info -t common -i 0"]
    assert here.devices(["power_w"], cards=[7]) == ()


def test_watts_that_cannot_be_true_are_none(program: Make, every: list[Any]) -> None:
    prints(program("hy-smi"), every, "hy-smi-24.04-bogus")
    (die,) = read_devices(HY_SMI)
    assert die.power_w is None
    assert die.missing["power_w"] is Missing.SUSPECT
    assert die.busy == 0.74


@pytest.mark.parametrize(
    ("power", "cap", "busy", "kept"),
    [
        (8.0, 800.0, 0.74, False),
        (8.0, 800.0, 0.1, True),
        (8.0, 800.0, None, True),
        (8.0, None, 0.74, True),
        (1700.0, 800.0, 1.0, False),
        (1500.0, 800.0, 1.0, True),
    ],
)
def test_what_makes_watts_suspect(
    power: float, cap: float | None, busy: float | None, kept: bool
) -> None:
    found = without_suspects(DieReading(0, power_w=power, cap_w=cap, busy=busy))
    assert (found.power_w == power) is kept


def test_details_are_matched_by_address(program: Make, every: list[Any]) -> None:
    # `-q` has no numbers but an order; here it is another than the table's.
    text = next(o for o in every if o.file.stem == "xpu-smi-5.0.21-P800").text("")
    row = text.splitlines()[8:11]
    second = [
        row[0].replace("  0  P800", "  1  P800").replace(":01:00.0", ":02:00.0"),
        *row[1:],
    ]
    table = text.replace("\n".join(row), "\n".join((*row, "+---+---+---+", *second)))
    query = "\n".join(
        f"XPU 00000000:0{n}:00.0\n    Clocks\n        Cluster : {n}00 MHz" for n in (2, 1)
    )
    program("xpu-smi").prints(
        [
            {"arguments": "", "text": table},
            {"arguments": "-q", "text": query},
        ]
    )
    dies = read_devices(XPU_SMI)
    assert [(d.card, d.pci[9:11], d.clock_mhz) for d in dies] == [
        (0, "01", 100.0),
        (1, "02", 200.0),
    ]


def test_a_namesake_in_front_is_passed_by(program: Make, every: list[Any]) -> None:
    program("xpu-smi").does("echo 'Intel XPU System Management Interface -- v1.2'; exit 0")
    prints(program("xpu_smi"), every, "xpu-smi-5.0.21-P800")
    here, readings = find_tool(XPU_SMI)
    assert here.program.endswith("xpu_smi")
    assert len(readings) == 1


def test_a_missing_tool_and_one_that_cannot_be_read(
    program: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = program("npu-smi")
    tool.does("echo npu-smi of 2031: tables are JSON now")
    with pytest.raises(ChipmarkError, match="printed nothing that chipmark can read"):
        read_devices(NPU_SMI)
    tool.does("echo drv not loaded; exit 3")
    with pytest.raises(ChipmarkError, match="exit code 3: drv not loaded"):
        read_devices(NPU_SMI)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingBackendError, match="npu-smi is not on the PATH"):
        read_devices(NPU_SMI)


def test_a_merged_reading_keeps_the_first_and_the_better_reason() -> None:
    base = DieReading(0, power_w=5.0, missing={"busy": Missing.ZERO})
    more = DieReading(0, power_w=6.0, temperature_c=30.0, missing={"cap_w": Missing.NOT_AVAILABLE})
    found = merged(base, more)
    assert (found.power_w, found.temperature_c) == (5.0, 30.0)
    assert found.missing["busy"] is Missing.ZERO
    assert found.missing["cap_w"] is Missing.NOT_AVAILABLE
    assert found.missing["ecc_errors"] is Missing.NOT_PRINTED
    assert "temperature_c" not in found.missing
