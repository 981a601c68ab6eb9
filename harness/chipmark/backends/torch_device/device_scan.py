"""Which torch devices are here, looked up in a process of its own.

A vendor's plug-in runs code, and can keep torch itself from being imported.
`python -m chipmark.backends.torch_device.device_scan NAME...` answers for each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from chipmark.backends import device_scan
from chipmark.backends.device_scan import DeviceHere, RunModule
from chipmark.backends.torch_device import devices


def scan(names: Sequence[str], run_module: RunModule) -> list[DeviceHere]:
    """Look the devices up in order; after a crash the rest is looked up in another process."""
    return device_scan.scan("chipmark.backends.torch_device.device_scan", names, run_module)


def main(names: Sequence[str]) -> None:
    """Answer for each device."""

    def look(name: str) -> str:
        device = devices.open_device(name)
        flag = "" if name in devices.VERIFIED else "; unverified on hardware"
        return f"{devices.device_name(device) or device}{flag}"

    device_scan.answer(names, look)


if __name__ == "__main__":
    main(sys.argv[1:])
