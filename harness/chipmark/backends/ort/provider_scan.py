"""Which providers of ONNX Runtime are here, looked up in a process of its own.

A plug-in's library runs code when it is registered. `python -m chipmark.backends.ort.provider_scan
NAME...` answers for each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from chipmark.backends import device_scan
from chipmark.backends.device_scan import DeviceHere, RunModule
from chipmark.engine.machine import Candidate, Machine


def candidates(machine: Machine) -> Sequence[Candidate]:
    """`cpu` and `openvino`, with what is missing for each."""
    missing = "" if machine.has_module("onnxruntime") else "onnxruntime is not installed"
    cpu = Candidate("cpu", missing, "pip install 'chipmark[ort]'" if missing else "", 20)
    if not missing and not machine.has_module("onnxruntime_ep_openvino"):
        missing = "onnxruntime-ep-openvino is not installed"
    if missing:
        return cpu, Candidate("openvino", missing, "pip install 'chipmark[openvino]'", 30)
    # Installed is not enough: the plug-in lists only processors that it supports.
    (found,) = scan(["openvino"], machine.run_module)
    text, remedy = ("", "") if found.here else (found.text, found.remedy)
    return cpu, Candidate("openvino", text, remedy, 30)


def scan(names: Sequence[str], run_module: RunModule) -> list[DeviceHere]:
    """Look the providers up in order; after a crash the rest is looked up in another process."""
    return device_scan.scan("chipmark.backends.ort.provider_scan", names, run_module)


def main(names: Sequence[str]) -> None:
    """Answer for each provider."""
    from chipmark.backends.ort.providers import emulation_of, find_provider, locate

    def look(name: str) -> str:
        provider = find_provider(name)
        located = locate(provider)
        emulated = emulation_of(located)
        flag = "" if provider.verified else "; unverified on hardware"
        return located.device_name + (f"; emulated: {emulated}" if emulated else "") + flag

    device_scan.answer(names, look)


if __name__ == "__main__":
    main(sys.argv[1:])
