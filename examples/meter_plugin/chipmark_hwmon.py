"""`hwmon`: board power by a sensor of Linux hwmon, whose file CHIPMARK_HWMON or --meter names.

    CHIPMARK_HWMON=/sys/class/hwmon/hwmon3/power1_input chipmark run quick -b torch:mychip
    chipmark run quick -b torch:mychip --meter hwmon:/sys/class/hwmon/hwmon3/power1_input

The file holds microwatts (Documentation/hwmon/sysfs-interface of the kernel).
"""

import math
import os
from pathlib import Path

from chipmark.errors import ChipmarkError
from chipmark.meters.contract import MeterInfo
from chipmark.meters.poll import Sampler, infer_period

VARIABLE = "CHIPMARK_HWMON"


class HwmonMeter:
    """See `chipmark/meters/contract.py`, `Meter` and `MeterFactory`."""

    def __init__(self, path: Path, covers: str):
        self.path = path
        found = infer_period(self._watts)
        period = found or 1.0  # not seen to change: assume a slow sensor, and say so
        self.info = MeterInfo(
            name="hwmon",
            source="polled",
            scope="board",
            method=f"{path.name} of Linux hwmon, in microwatts",
            update_period_s=period,
            covers=covers,
            verified=False,  # "unverified on hardware" is in every row until you have checked it
            period_known=found is not None,
            reading_period_s=period / 2,
        )
        self.sampler = Sampler(self._read, period / 2)

    @classmethod
    def for_request(cls, request):
        """None where this is not the meter of what is asked for."""
        if request.metered != "unit" or request.unit != "card":
            return None  # of the host or the node another meter is asked
        choice = request.choice("hwmon")  # what the user gave with --meter
        if choice is not None:
            choice.check_options(())
        path = (choice.target if choice else "") or os.environ.get(VARIABLE)
        if not path:
            return None
        if not os.access(path, os.R_OK):
            raise ChipmarkError(f"{path} cannot be read", "name a power1_input file")
        return cls(Path(path), f"the board of {request.device}")

    def start(self):
        self.sampler.start()

    def stop(self):
        return self.sampler.stop()

    def _watts(self):
        return int(self.path.read_text()) / 1e6

    def _read(self):
        return math.nan, self._watts()  # (cumulative joules, watts); NaN is "does not give it"
