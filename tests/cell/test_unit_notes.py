from __future__ import annotations

from dataclasses import replace

from chipmark.cell.unit_notes import foreign_code, meter_notes, unit_notes
from chipmark.chips.contract import ChipIdentity
from chipmark.meters.contract import MeterInfo
from chipmark.results.manifest import PluginId

LIMITS = {"power_limit_w": 700.0, "power_limit_default_w": 700.0}
CARD = ChipIdentity("nvidia-h200-sxm", "NVIDIA", "NVIDIA H200", "card", 1, 1, identity=LIMITS)


def test_partly_used_unit_and_lowered_limit_are_said() -> None:
    assert unit_notes(CARD) == []
    part = replace(CARD, used=2, of=7, evidence=("MIG: 2 of 7 parts by compute slices",))
    assert [note.code for note in unit_notes(part)] == ["unit_partly_used"]
    assert "by compute slices" in unit_notes(part)[0].text
    low = replace(CARD, identity=LIMITS | {"power_limit_w": 400.0})
    assert [(n.code, n.text) for n in unit_notes(low)] == [
        ("power_limit", "400 W of 700 W by default")
    ]
    unknown = replace(CARD, identity=LIMITS | {"power_limit_w": None})
    assert unit_notes(unknown) == []


def test_what_a_meter_says_of_itself_is_in_the_row() -> None:
    info = MeterInfo("nvml", "counter", "board", "", 0.1)
    assert meter_notes(info) == []
    info = replace(
        info, verified=False, notes=("unverified on hardware: by replay", "covers all packages")
    )
    assert [(n.code, n.text) for n in meter_notes(info)] == [
        ("unverified_meter", "nvml: unverified on hardware"),
        ("meter", "nvml: covers all packages"),
    ]


def test_a_meter_that_is_no_code_of_chipmarks_is_said() -> None:
    own = PluginId(
        module="chipmark.meters.nvml",
        distribution="chipmark",
        version="1",
        sha256="",
        built_in=True,
    )
    vendors = own.model_copy(
        update={"module": "watts", "distribution": "vendor-watts", "built_in": False}
    )
    assert foreign_code({"meter": own, "chip": own, "backend": vendors}) == []
    (note,) = foreign_code({"meter": vendors, "chip": own})
    assert note.code == "unverified_meter"
    assert note.text == "by watts of vendor-watts 1, which chipmark does not check"
