"""Meters of a file, as an installed distribution: a plug's joules, and a host's that go away.

They count, since a machine with much to do leaves gaps between the readings of a few seconds, over
which polled watts would be refused.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from chipmark.errors import ChipmarkError
from chipmark.meters.contract import Meter, MeterInfo, PowerSamples
from chipmark.meters.poll import Sampler
from chipmark.meters.request import MeterRequest

FOLDER = "CHIPMARK_TEST_METERS"
"""Variable with the folder where the files `plug` and `host` hold watts."""

PERIOD_S = 0.002


class Paper:
    """Counts the joules of constant watts that are read out of a file."""

    def __init__(self, name: str, scope: str, source: str) -> None:
        self.path = Path(os.environ[FOLDER], name)
        self.info = MeterInfo(
            name=f"paper {name}",
            source=source,  # type: ignore[arg-type]
            scope=scope,  # type: ignore[arg-type]
            method=f"joules of the watts in the file {name}",
            update_period_s=PERIOD_S,
            error_rel=0.01,
            covers=f"all behind the {name}",
            reading_period_s=PERIOD_S,
            cap_w=1000.0,
        )
        self.sampler = Sampler(self._read, PERIOD_S)
        self.runs = 0

    def start(self) -> None:
        self.runs += 1
        self.sampler.start()

    def stop(self) -> PowerSamples:
        return self.sampler.stop()

    def _read(self) -> tuple[float, float]:
        return time.perf_counter() * float(self.path.read_text()), math.nan


class Plug(Paper):
    """The whole server's; answers without being named."""

    @classmethod
    def for_request(cls, request: MeterRequest) -> Meter | None:
        return cls("plug", "wall", "wall") if request.metered == "node" else None


class Host(Paper):
    """The host's; its file goes away in the middle of the second run."""

    @classmethod
    def for_request(cls, request: MeterRequest) -> Meter | None:
        if request.metered != "host":
            return None
        if not Path(os.environ[FOLDER], "host").is_file():
            raise ChipmarkError("the host's sensor is not there", "plug it in")
        return cls("host", "package", "counter")

    def stop(self) -> PowerSamples:
        if self.runs > 1:
            raise ChipmarkError("the host's sensor went away", "plug it in")
        return super().stop()
