from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chipmark.errors import ChipmarkError, UnknownNameError, UsageError
from chipmark.meters.choice import parse_choice
from chipmark.meters.redfish import RedfishMeter, watts_of
from chipmark.meters.redfish_service import PASSWORD, RedfishService
from chipmark.meters.request import MeterRequest

from .redfish_server import Bmc, dripping, endless, resources, serving

SECRET = "correct-horse-7"


@pytest.fixture
def bmc() -> Iterator[Bmc]:
    with serving(Bmc(resources())) as served:
        yield served


Named = Callable[[str], RedfishMeter]


@pytest.fixture
def meter() -> Iterator[Named]:
    """Meters by what follows `--meter`, closed at the end."""
    made: list[RedfishMeter] = []

    def named(text: str) -> RedfishMeter:
        request = MeterRequest("NVIDIA", "card", "cuda", choices=(parse_choice(text),))
        found = RedfishMeter.for_request(request)
        assert found is not None
        made.append(found)
        return found

    yield named
    for found in made:
        found._service.close()


def test_without_its_name_it_meters_nothing() -> None:
    for metered in ("unit", "host", "node"):
        assert RedfishMeter.for_request(MeterRequest("A", "card", "cuda", metered=metered)) is None


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_https_is_verified_and_the_password_is_shown_nowhere(
    meter: Named, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, SECRET)
    with serving(Bmc(resources(), login=("monitor", SECRET)), tmp_path) as bmc:
        name = f"redfish:{bmc.address},user=monitor"
        with pytest.raises(ChipmarkError, match="certificate does not verify") as error:
            meter(name)
        assert "verify=no" in error.value.hint
        unverified = meter(f"{name},verify=no")
        assert any("not checked" in note for note in unverified.info.notes)
        found = meter(f"{name},ca={bmc.certificate}")
        assert not any("not checked" in note for note in found.info.notes)
        found.start()
        assert found.stop().power_w.tolist() == [512.0, 512.0]
        assert SECRET not in repr(found.info) + repr(found._service)
        monkeypatch.setenv(PASSWORD, "wrong" + SECRET)
        with pytest.raises(ChipmarkError, match="refuses the user monitor") as error:
            meter(f"{name},verify=no")
        assert SECRET not in str(error.value)
        with pytest.raises(UsageError, match="not a certificate"):
            meter(f"{name},ca={tmp_path / 'key'}")


def test_the_chassis_with_power_is_found(meter: Named, bmc: Bmc) -> None:
    found = meter(f"redfish:{bmc.address}")
    info = found.info
    assert (info.scope, info.source, info.verified, info.name) == (
        "node_dc", "polled", False, "redfish",
    )  # fmt: skip
    assert "/redfish/v1/Chassis/1/Power" in info.method
    found.start()
    samples = found.stop()
    assert samples.power_w.tolist() == [512.0, 512.0]
    assert samples.remarks == ()


def test_newer_forms_and_supplies_are_read(meter: Named, bmc: Bmc) -> None:
    base = "/redfish/v1/Chassis/1"
    bmc.resources[f"{base}/Power"] = 404
    bmc.resources[f"{base}/EnvironmentMetrics"] = {"PowerWatts": {"Reading": 700.5}}
    assert meter(f"redfish:{bmc.address}")._ask() == (700.5, "")
    bmc.resources[f"{base}/EnvironmentMetrics"] = {"PowerWatts": {"Reading": None}}
    bmc.resources[f"{base}/PowerSubsystem"] = {"PowerSupplies": {"@odata.id": f"{base}/Supplies"}}
    members = [{"@odata.id": f"{base}/Supplies/{n}"} for n in (0, 1)]
    bmc.resources[f"{base}/Supplies"] = {"Members": members}
    bmc.resources[f"{base}/Supplies/0/Metrics"] = {"InputPowerWatts": {"Reading": 301}}
    bmc.resources[f"{base}/Supplies/1/Metrics"] = {"InputPowerWatts": {"Reading": 0}}
    found = meter(f"redfish:{bmc.address}")
    assert "2 supplies" in found.info.method
    assert found.info.scope == "wall"  # what goes into them
    assert meter(f"redfish:{bmc.address},scope=node_dc").info.scope == "node_dc"
    assert found._ask() == (301.0, "")
    bmc.resources[f"{base}/Supplies/1/Metrics"] = {"InputPowerWatts": {"Reading": None}}
    assert found._ask()[0] is None
    bmc.resources[f"{base}/Supplies"] = {"Members": members * 17}
    with pytest.raises(ChipmarkError, match="lists 34 supplies"):
        meter(f"redfish:{bmc.address}")


def test_a_resource_of_a_baseboard_by_its_path(meter: Named, bmc: Bmc) -> None:
    path = "/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_SXM_0/EnvironmentMetrics"
    bmc.resources[path] = {"PowerWatts": {"Reading": 651.2}}
    found = meter(f"redfish:{bmc.address},path={path},scope=module")
    assert (found.info.scope, found._ask()) == ("module", (651.2, ""))
    with pytest.raises(UsageError, match="what that resource covers"):
        meter(f"redfish:{bmc.address},path={path}")
    with pytest.raises(UnknownNameError, match="scope of --meter redfish"):
        meter(f"redfish:{bmc.address},path={path},scope=modul")


def test_several_chassis_with_power_need_a_choice(meter: Named, bmc: Bmc) -> None:
    bmc.resources["/redfish/v1/Chassis/Backplane/Power"] = {
        "PowerControl": [{"PowerConsumedWatts": 30}]
    }
    with pytest.raises(ChipmarkError, match="several chassis give power: 1/Power, Back") as error:
        meter(f"redfish:{bmc.address}")
    assert "chassis=" in error.value.hint
    assert meter(f"redfish:{bmc.address},chassis=Backplane")._ask() == (30.0, "")
    with pytest.raises(UnknownNameError, match="Backplane"):
        meter(f"redfish:{bmc.address},chassis=Backplan")


def test_a_part_of_the_server_is_not_the_server(meter: Named, bmc: Bmc) -> None:
    part = "/redfish/v1/Chassis/Backplane"
    bmc.resources[part] = {"ChassisType": "Component"}
    bmc.resources[f"{part}/EnvironmentMetrics"] = {"PowerWatts": {"Reading": 651.5}}
    assert meter(f"redfish:{bmc.address}")._ask() == (512.0, "")
    with pytest.raises(UsageError, match="is a part of the server") as error:
        meter(f"redfish:{bmc.address},chassis=Backplane")
    assert "scope=" in error.value.hint
    found = meter(f"redfish:{bmc.address},chassis=Backplane,scope=board")
    assert (found.info.scope, found._ask()) == ("board", (651.5, ""))


@pytest.mark.parametrize(
    ("value", "why"),
    [(0, "0 W"), (None, "null"), ("512", "not a number"), (True, "not a number"), (-1, "outside"),
     (1e9, "outside"), ([], "not a number")],
)  # fmt: skip
def test_what_is_no_power_is_null_with_a_reason(value: object, why: str) -> None:
    watts, reason = watts_of({"PowerControl": [{"PowerConsumedWatts": value}]})
    assert watts is None
    assert why in reason


def test_a_reading_of_another_unit_is_none() -> None:
    assert watts_of({"Reading": 41.5, "ReadingUnits": "Cel"})[0] is None
    assert watts_of({"Reading": 41.5, "ReadingUnits": "W"}) == (41.5, "")
    assert watts_of({"PowerControl": []})[0] is None
    assert watts_of([])[0] is None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"not json", "invalid JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, "levels deep"),
        (b" " * (2 << 20), "bytes"),
        (b"\xff\xfe", "UTF-8"),
        (500, "HTTP 500"),
        (b'{"PowerControl": [{"PowerConsumedWatts": NaN}]}', "not a finite number"),
    ],
)
def test_bad_answers_while_it_runs_are_gaps_with_their_reason(
    meter: Named, bmc: Bmc, answer: object, why: str
) -> None:
    found = meter(f"redfish:{bmc.address}")
    found.start()
    bmc.resources["/redfish/v1/Chassis/1/Power"] = answer
    samples = found.stop()
    assert samples.power_w.tolist() == [512.0]
    assert len(samples.remarks) == 1
    assert why in samples.remarks[0]
    assert samples.remarks[0].startswith("1 of 2 readings were none")


def test_a_redirect_is_followed_on_the_same_service_only(meter: Named, bmc: Bmc) -> None:
    path = "/redfish/v1/Chassis/1/Power"
    bmc.resources["/moved"] = bmc.resources[path]
    bmc.resources[path] = "/moved"
    assert meter(f"redfish:{bmc.address}")._ask() == (512.0, "")
    for elsewhere in ("http://127.0.0.1:9/x", "https://other.example/x", "//other.example/x"):
        bmc.resources[path] = elsewhere
        with pytest.raises(ChipmarkError, match="another service"):
            meter(f"redfish:{bmc.address}")
    bmc.resources[path] = path
    with pytest.raises(ChipmarkError, match="redirected over 3 times"):
        meter(f"redfish:{bmc.address}")


def test_an_answer_that_drips_is_cut_at_the_limit(bmc: Bmc) -> None:
    bmc.resources["/slow"] = dripping
    service = RedfishService.of(parse_choice(f"redfish:{bmc.address}"))
    service.limit_s = 0.3
    began = time.monotonic()
    with pytest.raises(ChipmarkError, match=r"took over 0\.3 s"):
        service.get("/slow")
    assert time.monotonic() - began < 30  # far below the minute that the answer would take
    service.close()


def test_an_answer_is_read_up_to_its_most_bytes(bmc: Bmc) -> None:
    sent: list[int] = []
    bmc.resources["/large"] = endless(sent)
    service = RedfishService.of(parse_choice(f"redfish:{bmc.address}"))
    with pytest.raises(ChipmarkError, match="over 1,048,576 bytes"):
        service.get("/large")
    service.close()
    assert sent[0] < 64 << 20


def test_a_service_that_ends_an_idle_connection_is_asked_again(meter: Named, bmc: Bmc) -> None:
    found = meter(f"redfish:{bmc.address}")
    assert found._ask()[0] == 512.0
    connection = found._service._connection
    assert connection is not None
    connection.sock.close()
    connection.sock = None
    assert found._ask()[0] == 512.0


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("redfish", "names no address"),
        ("redfish:bmc.example", "names bmc.example"),
        ("redfish:ftp://bmc.example", "names ftp://bmc.example"),
        ("redfish:https://bmc.example/redfish", "names https://bmc.example/redfish"),
        ("redfish:http://bmc.example", "in the clear"),
        ("redfish:https://[bmc", "address that is none"),
        ("redfish:https://bmc.example:70000", "address that is none"),
        ("redfish:https://bmc.example,verify=perhaps", "verify=perhaps"),
        ("redfish:https://bmc.example,user=monitor", "no password"),
        ("redfish:https://bmc.example,period=0", "period=0"),
    ],
)
def test_addresses_and_options_that_are_none(
    meter: Named, text: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    with pytest.raises(UsageError, match=what) as error:
        meter(text)
    assert error.value.hint


def test_a_password_in_the_address_is_refused_and_not_repeated(meter: Named) -> None:
    with pytest.raises(UsageError, match="in its address") as error:
        meter(f"redfish:https://root:{SECRET}@bmc.example")
    assert SECRET not in str(error.value)


def test_an_unknown_option_names_the_near_one(meter: Named, bmc: Bmc) -> None:
    with pytest.raises(UnknownNameError, match="chassis"):
        meter(f"redfish:{bmc.address},chasis=1")


def test_a_service_that_is_not_there_says_so(meter: Named, bmc: Bmc) -> None:
    with serving(Bmc({})) as gone:
        address = gone.address
    with pytest.raises(ChipmarkError, match="cannot be asked"):
        meter(f"redfish:{address}")
    bmc.resources.clear()
    with pytest.raises(ChipmarkError, match="is not there"):
        meter(f"redfish:{bmc.address}")
