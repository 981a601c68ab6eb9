"""Replicas on the devices of one unit, over the cell that is worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from chipmark.codes import NullReason
from chipmark.metrics.derive import derive
from chipmark.metrics.ratios import Ratio, null
from chipmark.metrics.rawcell import RawCell, RepeatData
from chipmark.metrics.replicas import common_window, of_unit, shares
from chipmark.metrics.samples import KINDS

MakeCell = Callable[..., RawCell]
SUMMED = ("total_tok_s", "prefill_tok_s", "decode_tok_s", "goodput_tok_s", "sessions_per_hour")
POOLED = (
    "mbu", "mbu_nameplate", "mfu", "decode_rows", "prefix_hit", "slo_attainment", "ttft_p50_s",
    "tpot_p50_s", "itl_p50_s", "host_s_per_step", "idle_s_per_step", "pad_ratio",
)  # fmt: skip


@pytest.fixture
def unit(cell: MakeCell, rawcells: ModuleType) -> MakeCell:
    """A unit of two devices, both used; the second does everything `slow` times as slowly. Its
    meter reads 20 W as long as the slower one runs."""

    def make(slow: float = 1.0, **changes: object) -> RawCell:
        facts = {"of": 2, "used": 2, "concurrency": 2, "replicas": 2, "nameplate_bytes_s": 8e6}
        power = rawcells.counter(20.0, 100.0, 100.0 + 0.280 * max(1.0, slow))
        one = cell(**(facts | {"power": lambda a, b: power} | changes))
        other = RepeatData(rawcells.tables(slow, 100.0), None, one.repeats[0].roofs)
        return replace(one, repeats=(replace(one.repeats[0], others=(other,)),))

    return make


def test_equal_devices_do_twice_the_work_in_the_same_time(cell: MakeCell, unit: MakeCell) -> None:
    one, both = derive(cell(nameplate_bytes_s=4e6)), derive(unit())
    for name in SUMMED:
        assert both.metrics[name] == pytest.approx(2 * (one.metrics[name] or 0.0)), name
    for name in POOLED:
        assert one.metrics[name] is not None, name
        assert both.metrics[name] == pytest.approx(one.metrics[name]), name
    assert both.metrics["sessions"] == 4
    assert both.metrics["power_w"] == pytest.approx(20.0)
    assert both.metrics["tok_per_joule"] == pytest.approx(64 / (20 * 0.280))
    assert both.metrics["joule_per_session"] == pytest.approx(20 * 0.280 / 4)
    assert both.details["n_out"] == 20
    assert both.details["energy"]["by_session"] == {}
    assert set(both.null_reasons) <= set(one.null_reasons)


def test_the_unit_is_done_when_its_slowest_device_is(unit: MakeCell) -> None:
    d = derive(unit(slow=2.0))
    assert d.per_repeat[0]["window_s"] == pytest.approx(0.560)
    assert d.metrics["total_tok_s"] == pytest.approx(64 / 0.560)
    # 18 decoded tokens... of 6 in 30 ms and 6 in 60 ms: the rates add up.
    assert d.metrics["decode_tok_s"] == pytest.approx(6 / 0.030 + 6 / 0.060)
    assert d.metrics["tok_per_joule"] == pytest.approx(64 / (20 * 0.560))
    # The first device waits 0.28 s for the other, in which a turn is outstanding.
    assert d.details["tool_time_share"] == pytest.approx(0.0, abs=1e-9)
    half = derive(unit(slow=1.0)).metrics["mbu"]
    assert half is not None
    assert d.metrics["mbu"] == pytest.approx(half / 1.5)


def test_copies_on_the_other_device_are_no_further_turns(cell: MakeCell, unit: MakeCell) -> None:
    one, both = derive(cell()), derive(unit())
    counted = one.details["distinct_samples"], both.details["distinct_samples"]
    assert [counted[1][kind] for kind in KINDS] == [counted[0][kind] for kind in KINDS]


def test_a_turn_that_one_device_has_lost_makes_no_repeat(unit: MakeCell) -> None:
    raw = unit()
    raw.repeats[0].others[0].events["turns"]["status"][3] = 1
    d = derive(raw)
    assert d.null_reasons["total_tok_s"] == "repeat_incomplete"
    assert "turns_lost" in {code for code, _ in d.notes}
    assert d.metrics["slo_attainment"] == pytest.approx(7 / 8)


def test_a_roof_that_is_not_known_of_one_device_is_not_of_the_unit(unit: MakeCell) -> None:
    raw = unit()
    other = replace(raw.repeats[0].others[0], roofs=None)
    d = derive(replace(raw, repeats=(replace(raw.repeats[0], others=(other,)),)))
    assert (d.metrics["mbu"], d.null_reasons["mbu"]) == (None, "no_probe")
    assert d.metrics["mbu_nameplate"] is not None


def test_a_device_of_three_that_stood_still_leaves_no_energy(unit: MakeCell) -> None:
    d = derive(unit(of=3))
    assert d.null_reasons["tok_per_joule"] == "unit_partly_used"
    assert d.metrics["total_tok_s"] is not None


def test_joules_of_a_capacity_are_those_of_the_time_that_all_run() -> None:
    views = cast("Any", [SimpleNamespace(start_s=a, end_s=b, window_s=b - a) for a, b in SPANS])
    assert common_window(views, "equal_n") == (10.0, 31.0)
    start_s, end_s = common_window(views, "capacity")
    assert (start_s, end_s) == (11.0, 30.0)
    assert shares(views, end_s - start_s) == pytest.approx((0.95, 0.95))
    # Less than nine tenths of the longest W: a device that has ended stood still in the rest.
    assert shares(views, 17.9) == ()


SPANS = ((10.0, 30.0), (11.0, 31.0))


def test_a_capacity_whose_windows_hardly_meet_has_no_joules(unit: MakeCell) -> None:
    apart = unit(slow=2.0, scenario="capacity")
    d = derive(apart)
    assert d.null_reasons["tok_per_joule"] == "w_too_short"
    assert d.metrics["decode_tok_s"] == pytest.approx(6 / 0.030 + 6 / 0.060)
    together = derive(unit(scenario="capacity"))
    assert together.metrics["tok_per_joule"] == pytest.approx(64 / (20 * 0.280))


def test_ratios_of_a_unit() -> None:
    parts = [Ratio(6.0, 2.0), Ratio(4.0, 4.0)]
    assert of_unit("total_tok_s", parts).value == pytest.approx(4.0)
    assert of_unit("mfu", parts).value == pytest.approx(10 / 6)
    lacking = of_unit("mfu", [parts[0], null(NullReason.NO_PROBE)])
    assert (lacking.value, lacking.null_reason) == (None, NullReason.NO_PROBE)
