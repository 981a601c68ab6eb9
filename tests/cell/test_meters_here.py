from __future__ import annotations

from types import SimpleNamespace

import pytest

from chipmark.cell import meters_here as here
from chipmark.cell.available import Offer
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.state import Sample
from chipmark.errors import (
    ChipmarkError,
    MissingBackendError,
    NothingToJudgeError,
    UnknownNameError,
    UsageError,
)
from chipmark.meters import pick
from chipmark.meters.choice import parse_choice
from chipmark.meters.contract import Meter, MeterInfo
from chipmark.meters.declared import ConstantMeter
from chipmark.meters.pick import Answer
from chipmark.meters.request import MeterRequest

CPU = ChipIdentity("an-epyc", "AMD", "EPYC", "package", 1, 1)
CARD = ChipIdentity("a-card", "NVIDIA", "H20", "card", 1, 1)


def meter(name: str, scope: str, covers: str = "one") -> ConstantMeter:
    return ConstantMeter(MeterInfo(name, "polled", scope, "", 0.1, covers=covers), 80.0)  # type: ignore[arg-type]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Answer]]:
    """Two chips, and by vendor what their meters answer."""
    answers: dict[str, list[Answer]] = {"AMD": [], "NVIDIA": []}
    monkeypatch.setattr(here, "chips_here", lambda: ([CPU, CARD], []))
    monkeypatch.setattr(here, "meter_answers", lambda request: answers[request.vendor])

    def named(name: str, request: MeterRequest) -> Meter | None:
        for answer in answers[request.vendor]:
            if (answer.name, answer.metered) == (name, request.metered):
                if answer.error is not None:
                    raise answer.error
                return answer.meter
        return None

    monkeypatch.setattr(pick, "calibrated_meter", named)
    offers = [Offer("torch:cpu"), Offer("triton:cuda", "no compiler"), Offer("torch:cuda")]
    monkeypatch.setattr(here, "candidates", lambda: offers)

    def chip_of(backend: str) -> ChipIdentity:
        if backend == "torch:npu":
            raise MissingBackendError("no such device")
        return CARD if backend.endswith("cuda") else CPU

    monkeypatch.setattr(here, "chip_of", chip_of)
    warm = SimpleNamespace(sample=lambda: Sample(temperature_c=61.0))
    monkeypatch.setattr(
        here, "state_source", lambda chip, backend, choices: warm if chip is CARD else None
    )
    return answers


def test_each_meter_is_there_once_with_the_backend_that_moves_it(
    machine: dict[str, list[Answer]],
) -> None:
    node = Answer("ipmi", "node", meter("ipmi", "node_dc"))
    machine["AMD"] = [Answer("rapl", "unit", meter("rapl", "package")), node]
    machine["NVIDIA"] = [Answer("nvml", "unit", meter("nvml", "board")), node]
    found = here.meters_here([], "")
    assert [(one.meter.info.name, one.backend) for one in found] == [
        ("rapl", "torch:cpu"),
        ("ipmi", "torch:cpu"),
        ("nvml", "torch:cuda"),
    ]
    assert [one.vendor for one in found] == ["AMD", "AMD", "NVIDIA"]
    rapl, ipmi, nvml = found
    assert rapl.temperature is None
    assert ipmi.temperature is None
    assert nvml.temperature is not None
    assert nvml.temperature() == 61.0
    (card,) = here.meters_here([parse_choice("nvml")], "")
    assert card.meter.info.name == "nvml"
    chosen = here.meters_here([], "torch:cuda")
    assert [(one.meter.info.name, one.backend) for one in chosen] == [
        ("nvml", "torch:cuda"),
        ("ipmi", "torch:cuda"),
    ]
    assert chosen[1].temperature is None


def test_a_card_without_a_backend_has_no_load(
    machine: dict[str, list[Answer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine["NVIDIA"] = [Answer("nvml", "unit", meter("nvml", "board"))]
    monkeypatch.setattr(here, "candidates", lambda: [Offer("torch:cpu"), Offer("torch:npu")])
    assert [one.backend for one in here.meters_here([], "")] == [None]


def test_nothing_here_says_what_each_lacks(machine: dict[str, list[Answer]]) -> None:
    machine["AMD"] = [
        Answer("rapl", "unit", error=ChipmarkError("energy_uj is readable by root only"))
    ]
    with pytest.raises(NothingToJudgeError, match="rapl: energy_uj is readable by root") as raised:
        here.meters_here([], "")
    assert "--meter sim:pulsed" in raised.value.hint
    with pytest.raises(NothingToJudgeError, match=r"by the name nvml; asked for .*\(AMD\)"):
        here.meters_here([parse_choice("nvml")], "")


def test_a_fault_in_what_is_named_is_wrong_usage(
    machine: dict[str, list[Answer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine["NVIDIA"] = [Answer("nvml", "unit", error=ChipmarkError("this card has no sensor"))]
    with pytest.raises(NothingToJudgeError, match="nvml: this card has no sensor"):
        here.meters_here([parse_choice("nvml")], "")

    def faulty(name: str, request: MeterRequest) -> None:
        raise UsageError("--meter csv names no file")

    monkeypatch.setattr(pick, "calibrated_meter", faulty)
    with pytest.raises(UsageError, match="no file"):
        here.meters_here([parse_choice("nvml")], "")


def test_simulated_ones_need_no_machine_and_names_are_checked(
    machine: dict[str, list[Answer]],
) -> None:
    (one,) = here.meters_here([parse_choice("sim:averaged,averaging_s=0.5")], "")
    assert one.simulated is not None
    assert here.on_virtual_clock([one])[0].simulated is not one.simulated
    with pytest.raises(UnknownNameError, match="nvlm"):
        here.meters_here([parse_choice("nvlm")], "")
