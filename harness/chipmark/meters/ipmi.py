"""Watts of a whole server by its own management controller: `ipmitool dcmi power reading`.

The instantaneous reading is taken; minimum, maximum and average are over the controller's own
sampling period, of which the reading says nothing. Boards exist that print 0 W, that have the
reading deactivated, and that cover processors and mainboard without any card.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chipmark.errors import ChipmarkError, UsageError
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.polled_watts import PolledWatts
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.ask import Answer, ask, find_programs
from chipmark.meters.tools.reading import Missing
from chipmark.meters.tools.values import WATTS, quantity

NAME = "ipmi"
DEVICES = (Path("/dev/ipmi0"), Path("/dev/ipmi/0"), Path("/dev/ipmidev/0"))
"""Where the kernel shows the controller; ipmitool looks in the same places."""

ARGUMENTS = ("dcmi", "power", "reading")
PERIOD_S = 1.0
"""Seconds between two readings: controllers renew theirs every one to five seconds."""

_LIMIT_S = 5.0
_ERROR_REL = 0.05  # controllers state none; that of sensors on boards
_ACCESS = "run as root, or give your user read and write access to {device} (a udev rule)"
_MODULES = "load the kernel's driver: sudo modprobe ipmi_si ipmi_devintf"

_UNIT = re.compile(r"\s*watts$", re.IGNORECASE)  # which follows "N/A", too
_SECONDS = re.compile(r"(\d{1,9})\s*seconds?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DcmiReading:
    """What `ipmitool dcmi power reading` prints."""

    power_w: float | None
    """Watts of the moment; None for the reason in `why`."""
    why: str = ""
    activated: bool | None = None
    """Whether the controller measures power at all; None where that is not printed."""
    sampling_s: float | None = None
    """The period of its minimum, maximum and average, None where it is not printed."""


def parse_dcmi(text: str) -> DcmiReading:
    """The reading out of what the tool printed, whatever that is; never raises."""
    lines = (line.partition(":") for line in text.splitlines())
    fields = {name.strip().lower(): value.strip() for name, colon, value in lines if colon}
    state = fields.get("power reading state is", "").lower()
    activated = {"activated": True, "deactivated": False}.get(state)
    seconds = _SECONDS.match(fields.get("sampling period", ""))
    sampling_s = float(seconds[1]) if seconds and int(seconds[1]) else None
    printed = fields.get("instantaneous power reading")
    if printed is None:
        return DcmiReading(None, Missing.NOT_PRINTED, activated, sampling_s)
    watts, why = quantity(_UNIT.sub("", printed), WATTS)
    if activated is False:
        # What stands there is not of now.
        return DcmiReading(None, "the controller's power reading is deactivated", False, sampling_s)
    return DcmiReading(watts, why or "", activated, sampling_s)


class IpmiMeter:
    """The server's controller, asked once a second."""

    def __init__(self, asked: Callable[[], Answer]) -> None:
        """Takes a first reading; ChipmarkError with what helps where that gives no watts."""
        self._asked = asked
        answer = asked()
        first = parse_dcmi(answer.text)
        if answer.problem or first.power_w is None:
            raise ChipmarkError(
                f"ipmitool gives no power: {answer.problem or first.why}", _help(answer, first)
            )
        sampling = (
            "" if first.sampling_s is None else f" ({first.sampling_s:g} s by the controller)"
        )
        self.info = MeterInfo(
            name=NAME,
            source="polled",
            scope="node_dc",
            method=f"ipmitool dcmi power reading, instantaneous{sampling}",
            update_period_s=PERIOD_S,
            error_rel=_ERROR_REL,
            covers="this server, as far as its controller measures it",
            verified=False,
            notes=(
                "unverified on hardware: written from the tool's documents and tested by replay",
                "some boards count processors and mainboard only, without cards: compare the "
                "watts with the chip's own meter under load",
                f"the controller states no error; {_ERROR_REL:.0%} is taken",
            ),
            period_known=False,
            # A slower tool lowers the rate: the samples' own times say what was reached.
            reading_period_s=max(PERIOD_S, answer.seconds),
            resolution_w=1.0,
        )
        self._poll = PolledWatts(self._watts, PERIOD_S)

    @classmethod
    def for_request(
        cls, request: MeterRequest, devices: Sequence[Path] = DEVICES
    ) -> IpmiMeter | None:
        """The meter of this server where it is named, or where a node is to be metered and both
        ipmitool and a controller are here. ChipmarkError where it cannot be read."""
        choice = request.choice(NAME)
        if choice is None and request.metered != "node":
            return None
        if choice is not None:
            choice.check_options(())
            if choice.target:
                raise UsageError(
                    f"--meter {NAME}:{choice.target} names a machine; ipmi reads this one",
                    f"--meter {NAME}, or --meter redfish:https://BMC of the other one",
                )
        program = next(iter(find_programs(("ipmitool",))), None)
        device = next((path for path in devices if path.exists()), None)
        if program is None or device is None:
            if choice is None:
                return None
            if program is None:
                raise ChipmarkError("ipmitool is not installed", "install the package ipmitool")
            raise ChipmarkError(f"the kernel shows no controller at {devices[0]}", _MODULES)
        if not os.access(device, os.R_OK | os.W_OK):
            raise ChipmarkError(f"{device} may not be read", _ACCESS.format(device=device))
        return cls(lambda: ask(program, ARGUMENTS, _LIMIT_S))

    def start(self) -> None:
        """Begin sampling."""
        self._poll.start()

    def stop(self) -> PowerSamples:
        """End sampling; watts, and remarks on readings that were none."""
        return self._poll.stop()

    def _watts(self) -> tuple[float | None, str]:
        answer = self._asked()
        if answer.problem:
            return None, answer.problem
        reading = parse_dcmi(answer.text)
        return reading.power_w, reading.why


def _help(answer: Answer, reading: DcmiReading) -> str:
    said = answer.problem.lower()
    if "permission" in said or "privilege" in said:
        return _ACCESS.format(device=DEVICES[0])
    if "could not open device" in said or "no such file" in said:
        return f"{_MODULES}; then {_ACCESS.format(device=DEVICES[0])}"
    if reading.activated is False:
        return "sudo ipmitool dcmi power activate, or --meter redfish:https://BMC"
    return "--meter redfish:https://BMC, a wall meter's log with --meter csv:FILE, or --power-w W"
