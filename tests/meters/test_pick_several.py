"""Several meters of one cell: which is the row's, which are next to it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from chipmark.errors import ChipmarkError, UnknownNameError, UsageError
from chipmark.meters import calibration, pick
from chipmark.meters.choice import parse_choice
from chipmark.meters.contract import Meter, MeterInfo, file_slug
from chipmark.meters.declared import DeclaredMeter
from chipmark.meters.replay import ReplayMeter
from chipmark.meters.request import AssumedPower, MeterRequest

CARD = MeterRequest("NVIDIA", "card", "cuda:0", nameplate_w=700.0)
Says = Callable[[MeterRequest], Meter | None]


def meter(name: str, scope: Any = "board", source: Any = "polled") -> ReplayMeter:
    return ReplayMeter(MeterInfo(name, source, scope, f"reads {name}", 0.1, covers=name))


def of(metered: str, name: str, scope: Any = "board") -> Says:
    return lambda request: meter(name, scope) if request.metered == metered else None


def refusing(metered: str) -> Says:
    def says(request: MeterRequest) -> None:
        if request.metered == metered:
            raise ChipmarkError("the sensor is readable by root only", "run as root")

    return says


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """These meters, in this order, and no other are installed."""

    def install(**factories: Says) -> None:
        class Factory:
            def __init__(self, says: Says) -> None:
                self.for_request = says

        known: Mapping[str, Any] = {name: Factory(says) for name, says in factories.items()}
        known = {**known, "declared": DeclaredMeter}

        def factory(name: str) -> Any:
            if name not in known:
                raise UnknownNameError("meter", name, known)
            return known[name]

        monkeypatch.setattr(pick, "plugins", lambda group: known)
        monkeypatch.setattr(pick, "meter_factory", factory)
        monkeypatch.setattr(calibration, "meter_factory", factory)

    return install


def names(picked: pick.Picked) -> tuple[str, list[str]]:
    own = "" if picked.meter is None else picked.meter.info.name
    return own, [meter.info.name for meter in picked.beside]


def named(*texts: str, request: MeterRequest = CARD) -> MeterRequest:
    return replace(request, choices=tuple(map(parse_choice, texts)))


def test_host_and_node_are_read_next_to_the_first_that_meters_the_unit(here: Any) -> None:
    here(
        nvml=of("unit", "nvml"),
        smi=of("unit", "smi"),
        rapl=of("host", "rapl", "package"),
        bmc=of("node", "bmc", "node_dc"),
    )
    assert names(pick.pick_meters(CARD)) == ("nvml", ["rapl", "bmc"])
    assert pick.pick_meters(CARD).remarks == ()


def test_a_refusal_of_a_meter_that_was_not_named_is_a_remark(here: Any) -> None:
    here(nvml=of("unit", "nvml"), rapl=refusing("host"), bmc=of("node", "bmc"))
    picked = pick.pick_meters(CARD)
    assert names(picked) == ("nvml", ["bmc"])
    assert picked.remarks == ("rapl: the sensor is readable by root only. run as root",)


def test_a_sensor_is_never_read_twice(here: Any) -> None:
    same = meter("other")
    same.info = replace(meter("nvml").info, name="other")
    here(nvml=lambda request: meter("nvml"), other=lambda request: same)
    # Both answer whatever is asked: the same name, then the same scope, cover and method.
    assert names(pick.pick_meters(CARD)) == ("nvml", [])


def test_without_a_meter_of_the_unit_the_others_are_read_all_the_same(here: Any) -> None:
    here(rapl=of("host", "rapl", "package"))
    picked = pick.pick_meters(CARD)
    assert names(picked) == ("", ["rapl"])
    assert any("--power-w" in remark for remark in picked.remarks)
    assumed = AssumedPower(4.0, "cpu-share", "2 vCPUs", "a share of the TDP")
    share = MeterRequest("AMD", "cpu-share", "cpu", assumed=assumed)
    assert names(pick.pick_meters(share)) == ("assumed", ["rapl"])
    declared = replace(CARD, declared_w=700.0)
    assert names(pick.pick_meters(declared)) == ("declared", ["rapl"])


def test_exactly_the_named_ones_are_read_and_the_first_is_the_rows(here: Any) -> None:
    here(
        nvml=of("unit", "nvml"),
        smi=of("unit", "smi"),
        rapl=of("host", "rapl", "package"),
        bmc=of("node", "bmc", "node_dc"),
    )
    assert names(pick.pick_meters(named("smi"))) == ("smi", [])
    assert names(pick.pick_meters(named("smi", "nvml", "rapl"))) == ("smi", ["nvml", "rapl"])
    assert names(pick.pick_meters(named("bmc", "smi"))) == ("bmc", ["smi"])


def test_a_meter_that_needs_a_target_answers_where_it_is_named(here: Any) -> None:
    seen = []

    def csv(request: MeterRequest) -> Meter | None:
        choice = request.choice("csv")
        if choice is None or request.metered != "node":
            return None
        seen.append((choice.target, dict(choice.options)))
        return meter("csv", "wall")

    here(nvml=of("unit", "nvml"), csv=csv)
    assert names(pick.pick_meters(CARD)) == ("nvml", [])
    assert names(pick.pick_meters(named("nvml", "csv:a.csv,time=T"))) == ("nvml", ["csv"])
    assert seen == [("a.csv", {"time": "T"})]


def test_a_named_meter_that_cannot_be_read_is_an_error_with_what_helps(here: Any) -> None:
    here(nvml=of("unit", "nvml"), rapl=refusing("host"), smi=refusing("unit"), none=lambda r: None)
    with pytest.raises(UsageError, match="--meter rapl: the sensor is readable by root") as found:
        pick.pick_meters(named("nvml", "rapl"))
    assert found.value.hint == "run as root"
    with pytest.raises(UsageError, match="--meter smi: the sensor"):
        pick.pick_meters(named("smi"))
    with pytest.raises(UsageError, match="--meter none does not meter the card of NVIDIA, its"):
        pick.pick_meters(named("nvml", "none"))
    with pytest.raises(UnknownNameError, match="nvlm"):
        pick.pick_meters(named("nvlm"))


def test_a_simulated_sensor_is_no_meter_of_a_run(here: Any) -> None:
    here(nvml=of("unit", "nvml"))
    with pytest.raises(UsageError, match="is for `chipmark power watch`") as found:
        pick.pick_meters(named("sim"))
    assert "-b sim:pulsed" in str(found.value.hint)


def test_what_meters_the_host_alone_is_never_the_rows(here: Any) -> None:
    def rapl(request: MeterRequest) -> Meter | None:
        if request.metered == "unit" and request.unit == "cpu-share":
            raise ChipmarkError("RAPL counts whole packages", "run on the whole machine")
        return meter("rapl", "package") if request.metered == "host" else None

    here(nvml=of("unit", "nvml"), rapl=rapl)
    with pytest.raises(UsageError, match="--meter rapl does not meter the card") as found:
        pick.pick_meters(named("rapl", "nvml"))
    assert "the first that is named is the row's" in str(found.value.hint)
    share = MeterRequest("AMD", "cpu-share", "cpu", 65.0)
    with pytest.raises(UsageError, match="RAPL counts whole packages"):
        pick.pick_meters(named("rapl", "declared", request=share))
    picked = pick.pick_meters(named("declared", "rapl", request=share))
    assert names(picked) == ("declared", ["rapl"])


def test_a_refusal_to_meter_the_unit_is_final_for_the_rows_own(here: Any) -> None:
    def both(request: MeterRequest) -> Meter | None:
        if request.metered == "unit":
            raise ChipmarkError("a share of a package has no sensor", "go without energy")
        return meter("both", "node_dc")

    here(nvml=of("unit", "nvml"), both=both)
    with pytest.raises(UsageError, match="--meter both: a share of a package has no sensor"):
        pick.pick_meters(named("both"))
    assert names(pick.pick_meters(named("nvml", "both"))) == ("nvml", ["both"])


def test_a_name_given_twice_and_a_power_without_a_place_are_refused(here: Any) -> None:
    here(nvml=of("unit", "nvml"), other=lambda request: meter("nvml"))
    with pytest.raises(UsageError, match="names nvml twice"):
        pick.pick_meters(named("nvml", "nvml"))
    with pytest.raises(UsageError, match="reads a sensor that another one"):
        pick.pick_meters(named("nvml", "other"))
    declared = replace(CARD, declared_w=700.0)
    with pytest.raises(UsageError, match="--power-w and --meter"):
        pick.pick_meters(named("nvml", request=declared))
    assert names(pick.pick_meters(named("nvml", "declared", request=declared))) == (
        "nvml",
        ["declared"],
    )
    with pytest.raises(UsageError, match="--meter declared needs the power"):
        pick.pick_meters(named("declared"))


def test_what_every_meter_says_is_listed(here: Any) -> None:
    here(nvml=of("unit", "nvml"), smi=of("unit", "smi"), rapl=refusing("host"), no=lambda r: None)
    said = [(a.name, a.metered, bool(a.meter)) for a in pick.meter_answers(CARD)]
    assert said == [("nvml", "unit", True), ("smi", "unit", True), ("rapl", "host", False)]


@pytest.mark.parametrize(
    ("name", "slug"),
    [("nvml", "nvml"), ("Rack PDU #3", "rack-pdu-3"), ("../../etc", "etc"), ("电表", "meter")],
)
def test_a_name_in_a_files_name_is_plain(name: str, slug: str) -> None:
    assert file_slug(name) == slug


def test_what_a_record_keeps_of_a_choice_has_no_secret() -> None:
    assert parse_choice("redfish:https://root:pa@ss@bmc,password=x").kept == "redfish:https://bmc"
    assert parse_choice("rapl").kept == "rapl"
