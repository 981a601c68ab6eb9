"""Watts by the HTTPS service of a management controller (Redfish), of a server or of its parts.

Three forms are read: `Chassis/ID/Power` with PowerControl[0].PowerConsumedWatts; the newer
`Chassis/ID/EnvironmentMetrics` with PowerWatts.Reading, which processors of an HGX baseboard have
as well; and the meters of `Chassis/ID/PowerSubsystem`'s supplies, which are summed.
"""

from __future__ import annotations

from typing import Any

from chipmark.errors import ChipmarkError, UnknownNameError, UsageError
from chipmark.meters.choice import MeterChoice
from chipmark.meters.contract import MeterInfo, PowerSamples, Scope
from chipmark.meters.polled_watts import Answer, PolledWatts
from chipmark.meters.redfish_service import RedfishService, ServiceError
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.reading import Missing
from chipmark.meters.tools.values import WATTS
from chipmark_models.plain_text import one_line

NAME = "redfish"
OPTIONS = ("user", "chassis", "path", "scope", "verify", "ca", "period")
SCOPES: tuple[Scope, ...] = ("node_dc", "wall", "board", "module")

_ROOT = "/redfish/v1/Chassis"
_MOST_CHASSIS = 64
_MOST_SUPPLIES = 32
_PARTS = frozenset(("Card", "Cartridge", "Component", "Module", "Zone"))
"""Types of chassis that are a part of a server: a baseboard of GPUs lists each of them."""

_ERROR_REL = 0.05  # controllers state none; that of sensors on boards
_PERIOD_S = 1.0


def watts_of(document: Any) -> Answer:
    """(watts, "") out of a resource of any of the forms that hold them directly, or (None, why)."""
    for path in (
        ("PowerWatts", "Reading"),
        ("PowerControl", 0, "PowerConsumedWatts"),
        ("InputPowerWatts", "Reading"),
        ("Reading",),
    ):
        found, value = _at(document, path)
        if not found:
            continue
        if path == ("Reading",) and document.get("ReadingUnits") != "W":
            return None, "its Reading is not in W"
        return _watts(value)
    return None, "the resource has no PowerWatts, PowerControl, InputPowerWatts or Reading"


class RedfishMeter:
    """One resource of a controller, asked once a period."""

    def __init__(
        self, service: RedfishService, resource: str, supplies: tuple[str, ...], info: MeterInfo
    ) -> None:
        self._service, self._resource, self._supplies = service, resource, supplies
        self.info = info
        self._poll = PolledWatts(self._ask, info.reading_period_s or _PERIOD_S)

    @classmethod
    def for_request(cls, request: MeterRequest) -> RedfishMeter | None:
        """The controller that `--meter redfish:https://BMC` names; None where none is named.

        Raises UsageError or UnknownNameError for options that are none, and ChipmarkError where
        the service cannot be reached or gives no power.
        """
        choice = request.choice(NAME)
        if choice is None:
            return None
        choice.check_options(OPTIONS)
        scope, period_s = _scope(choice), _period(choice)
        service = RedfishService.of(choice)
        try:
            resource, supplies = _resource(service, choice)
            first = _sum(service, resource, supplies)
        except ServiceError as error:
            raise ChipmarkError(f"{service.address}: {error.message}", error.hint) from error
        finally:
            service.close()
        if supplies and "scope" not in choice.options:
            scope = "wall"  # what goes into the supplies
        if first[0] is None:
            raise ChipmarkError(
                f"{service.address}{resource} gives no power: {first[1]}",
                "name another resource with path=, or go without this meter",
            )
        notes = [
            "unverified on hardware: tested against a server of the tests",
            f"the controller states no error; {_ERROR_REL:.0%} is taken",
        ]
        if not service.verifies:
            notes.append("the controller's certificate was not checked (verify=no)")
        if scope == "node_dc":
            notes.append("some controllers count processors and mainboard only, without cards")
        info = MeterInfo(
            name=NAME,
            source="polled",
            scope=scope,
            method=f"Redfish, {resource}" + (f", {len(supplies)} supplies" if supplies else ""),
            update_period_s=period_s,
            error_rel=_ERROR_REL,
            covers=f"{resource} of {service.address}",
            verified=False,
            notes=tuple(notes),
            period_known=False,
            reading_period_s=period_s,
        )
        return cls(service, resource, supplies, info)

    def start(self) -> None:
        """Begin sampling."""
        self._poll.start()

    def stop(self) -> PowerSamples:
        """End sampling; watts, and remarks on readings that were none."""
        samples = self._poll.stop()
        self._service.close()
        return samples

    def _ask(self) -> Answer:
        try:
            return _sum(self._service, self._resource, self._supplies)
        except ServiceError as error:
            return None, error.message


def _scope(choice: MeterChoice) -> Scope:
    said = choice.options.get("scope")
    if said is None:
        if "path" in choice.options:
            raise UsageError(
                "--meter redfish with path= does not say what that resource covers",
                f"add scope=, one of {', '.join(SCOPES)}",
            )
        return "node_dc"
    found = next((scope for scope in SCOPES if scope == said), None)
    if found is None:
        raise UnknownNameError("scope of --meter redfish", said, SCOPES)
    return found


def _period(choice: MeterChoice) -> float:
    text = choice.options.get("period", str(_PERIOD_S))
    try:
        period_s = float(text)
    except ValueError:
        period_s = 0.0
    if not 0.1 <= period_s <= 60:
        raise UsageError(
            f"--meter redfish has period={one_line(text, 40)}", "give seconds, 0.1 to 60"
        )
    return period_s


def _resource(service: RedfishService, choice: MeterChoice) -> tuple[str, tuple[str, ...]]:
    """The resource that has the watts, and the supplies to sum where it has none itself."""
    if path := choice.options.get("path"):
        return path, ()
    chassis = _chassis(service)
    names = [path.rstrip("/").rpartition("/")[2] for path in chassis]
    if (wanted := choice.options.get("chassis")) is not None:
        if wanted not in names:
            raise UnknownNameError(f"chassis of {service.address}", wanted, names)
        chassis = [chassis[names.index(wanted)]]
        if _is_part(service, chassis[0]) and "scope" not in choice.options:
            raise UsageError(
                f"the chassis {wanted} of {service.address} is a part of the server",
                f"add scope=, one of {', '.join(SCOPES)}",
            )
    else:
        chassis = [path for path in chassis if not _is_part(service, path)]
    found = [resource for path in chassis if (resource := _powered(service, path)) is not None]
    if not found:
        shown = ", ".join(names) or "none"
        raise ServiceError(
            f"no chassis gives power (there: {shown})", "name a resource with path= and scope="
        )
    if len(found) > 1:
        shown = ", ".join(path.removeprefix(_ROOT + "/") for path, _ in found)
        raise ServiceError(
            f"several chassis give power: {shown}", "say which one with chassis=NAME"
        )
    return found[0]


def _chassis(service: RedfishService) -> list[str]:
    document = service.get(_ROOT)
    members = document.get("Members")
    found = [
        str(path)
        for member in (members if isinstance(members, list) else [])[:_MOST_CHASSIS]
        if isinstance(member, dict) and isinstance(path := member.get("@odata.id"), str)
    ]
    if not found:
        raise ServiceError(f"{_ROOT} lists no chassis", "name a resource with path= and scope=")
    return found


def _is_part(service: RedfishService, chassis: str) -> bool:
    document = service.find(chassis)
    kind = None if document is None else document.get("ChassisType")
    return isinstance(kind, str) and kind in _PARTS


def _powered(service: RedfishService, chassis: str) -> tuple[str, tuple[str, ...]] | None:
    """The resource of a chassis that gives watts now; None where there is none."""
    base = chassis.rstrip("/")
    for name in ("Power", "EnvironmentMetrics"):
        document = service.find(f"{base}/{name}")
        if document is not None and watts_of(document)[0] is not None:
            return f"{base}/{name}", ()
    subsystem = service.find(f"{base}/PowerSubsystem")
    if subsystem is None:
        return None
    found, link = _at(subsystem, ("PowerSupplies", "@odata.id"))
    listed = service.find(str(link)) if found else None
    members = listed.get("Members") if listed is not None else None
    if isinstance(members, list) and len(members) > _MOST_SUPPLIES:
        raise ServiceError(
            f"{base}/PowerSubsystem lists {len(members)} supplies, and at most {_MOST_SUPPLIES} "
            "are summed",
            "name a resource that has the whole with path= and scope=",
        )
    paths = tuple(
        f"{path.rstrip('/')}/Metrics"
        for member in (members if isinstance(members, list) else [])
        if isinstance(member, dict) and isinstance(path := member.get("@odata.id"), str)
    )
    if paths and _sum(service, "", paths)[0] is not None:
        return f"{base}/PowerSubsystem", paths
    return None


def _sum(service: RedfishService, resource: str, supplies: tuple[str, ...]) -> Answer:
    """Watts of the resource, or of all its supplies: one that gives none makes the sum none."""
    if not supplies:
        return watts_of(service.get(resource))
    total = 0.0
    for path in supplies:
        value, why = _supply(service.get(path))
        if value is None:
            return None, f"{path}: {why}"
        total += value
    return (total, "") if total > 0 else (None, str(Missing.ZERO))


def _supply(document: Any) -> Answer:
    """As `watts_of`, of a power supply, of which one in reserve draws 0 W."""
    found, value = _at(document, ("InputPowerWatts", "Reading"))
    if found and isinstance(value, int | float) and value == 0:
        return 0.0, ""
    return watts_of(document)


def _watts(value: object) -> Answer:
    if value is None:
        return None, "the controller gives null"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, f"{one_line(repr(value), 40)} is not a number"
    if value == 0:
        return None, str(Missing.ZERO)
    if not WATTS.least <= value <= WATTS.most:
        return None, str(Missing.OUT_OF_RANGE)
    return float(value), ""


def _at(document: Any, path: tuple[str | int, ...]) -> tuple[bool, Any]:
    """(True, value) at a path of names and list indices; (False, None) where there is none."""
    for step in path:
        if isinstance(step, str):
            there = isinstance(document, dict) and step in document
        else:
            there = isinstance(document, list) and len(document) > step
        if not there:
            return False, None
        document = document[step]
    return True, document
