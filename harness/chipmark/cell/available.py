"""Which backends this machine can be measured with, without importing what they need."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from glob import glob

from chipmark.cell.provider_scan import scan
from chipmark.chips.catalogue import catalogue
from chipmark.chips.detect import vendor_trace


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend that a suite without names would use; `missing` says why it is left out and
    `remedy` what helps ("" where nothing is missing)."""

    backend: str
    missing: str = ""
    remedy: str = ""


def candidates(has_module: Callable[[str], bool] | None = None) -> list[Candidate]:
    """Every backend that a suite looks for, in the order of measurement."""
    has = has_module or _has_module
    cards = bool(glob("/dev/nvidia[0-9]*")) or any(
        vendor_trace(entry).pci_devices
        for entry in catalogue().vendors.values()
        if "cuda" in entry.devices
    )
    torch = "" if has("torch") else "torch is not installed"
    ort = "" if has("onnxruntime") else "onnxruntime is not installed"
    openvino, remedy = ort, "pip install 'chipmark[openvino]'"
    if not ort and not has("onnxruntime_ep_openvino"):
        openvino = "onnxruntime-ep-openvino is not installed"
    elif not ort and has_module is None:
        # Installed is not enough: the plug-in lists only processors that it supports.
        found = scan(["openvino"])[0]
        openvino, remedy = ("", "") if found.here else (found.text, found.remedy)
    cuda = torch or ("" if cards else "no card that torch calls cuda is here")
    return [
        Candidate("torch:cpu", torch, "pip install 'chipmark[torch]'" if torch else ""),
        Candidate("ort:cpu", ort, "pip install 'chipmark[ort]'" if ort else ""),
        Candidate("ort:openvino", openvino, remedy if openvino else ""),
        Candidate("torch:cuda", cuda, "pip install 'chipmark[torch,cuda]'" if torch else ""),
    ]


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
