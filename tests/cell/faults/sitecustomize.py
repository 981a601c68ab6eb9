"""Put on PYTHONPATH of a child by a test: `sim:faulty-FAULT` is `sim:golden` with a fault."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from typing import Any

import chipmark.backends.sim.backend as target
from chipmark.engine.contract import HostOperator
from chipmark.errors import UnknownNameError

_FREE_STEPS = 5


class FaultySim(target.SimBackend):
    def __init__(self, device: str) -> None:
        self.fault = device.removeprefix("faulty-") if device.startswith("faulty-") else ""
        self.steps = 0
        super().__init__("golden" if self.fault else device)

    def load(self, spec: Any) -> Any:
        if self.fault == "flood":
            while True:
                os.write(1, b"x" * 65_536 + b"\n")
        if self.fault == "family":
            subprocess.Popen(["sleep", "300"], start_new_session=True)
            print(f"a word on stdout of {os.getpid()}")
        if self.fault == "orphan":
            subprocess.run(["sh", "-c", "setsid sleep 300 &"], check=True)
        if self.fault == "noload":
            raise UnknownNameError("simulated thing", "faulty", ["golden"], "try golden")
        loaded = super().load(spec)
        if self.fault == "elsewhere":
            left = (HostOperator("Softmax", 30, 0.001, 0.02), HostOperator("TopK", 1, 0.0, 0.3))
            return dataclasses.replace(loaded, host_operators=left, emulated="a golden emulator")
        return dataclasses.replace(loaded, device=3) if self.fault == "wordless" else loaded

    def submit(self, step: Any) -> None:
        self.steps += 1
        if self.steps > _FREE_STEPS:
            if self.fault == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if self.fault == "raise":
                raise RuntimeError("the provider gave up")
            if self.fault == "hang":
                time.sleep(300)
            if self.fault == "slow":
                time.sleep(0.05)
            if self.fault == "garbage":
                sys.stderr.write("a word before the end\n")
                os.closerange(3, 256)
                os._exit(7)
        super().submit(step)

    def peak_device_bytes(self) -> int | None:
        return 7_000 + self.steps if self.fault == "elsewhere" else None

    def launch_counts(self) -> dict[str, int]:
        return {"decode:graph": self.steps} if self.fault == "elsewhere" else {}


target.SimBackend = FaultySim  # type: ignore[misc]
