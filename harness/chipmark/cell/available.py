"""Which backends this machine can be measured with, without importing what they need."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from glob import glob
from typing import Any

from chipmark.backends.triton_cuda.devices import LEAST_CAPABILITY
from chipmark.cell.provider_scan import scan
from chipmark.chips.catalogue import catalogue
from chipmark.chips.detect import vendor_trace
from chipmark.chips.nvml import candidates as candidates_of
from chipmark.chips.nvml import initialised, open_nvml
from chipmark.errors import ChipmarkError


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
    triton = "" if has("triton") else "triton is not installed"
    kernels, kernels_remedy = torch or triton, "pip install 'chipmark[triton]'"
    if not kernels:
        kernels, kernels_remedy = cuda, ""
    if not kernels and has_module is None:
        kernels, kernels_remedy = too_old()
    return [
        Candidate("torch:cpu", torch, "pip install 'chipmark[torch]'" if torch else ""),
        Candidate("ort:cpu", ort, "pip install 'chipmark[ort]'" if ort else ""),
        Candidate("ort:openvino", openvino, remedy if openvino else ""),
        Candidate("triton:cuda", kernels, kernels_remedy if kernels else ""),
        Candidate("torch:cuda", cuda, "pip install 'chipmark[torch,cuda]'" if torch else ""),
    ]


def too_old(nvml: Any = None) -> tuple[str, str]:
    """Why NVIDIA's cards are too old for our kernels, and what measures them instead; ("", "")
    where the first card that CUDA may take is not, or where nothing tells its capability."""
    if nvml is None and not _has_module("pynvml"):
        return "", ""
    try:
        bindings = open_nvml() if nvml is None else initialised(nvml)
        cards = candidates_of(bindings, "cuda")
    except ChipmarkError:
        return "", ""
    # Where CUDA's order is open, its first card is the fastest.
    known = [card.ask("nvmlDeviceGetCudaComputeCapability") for card in cards]
    found = max((tuple(pair) for pair in known if pair), default=LEAST_CAPABILITY)
    if found >= LEAST_CAPABILITY:
        return "", ""
    least = ".".join(map(str, LEAST_CAPABILITY))
    text = f"compute capability {found[0]}.{found[1]}; the kernels need {least} or newer"
    return text, "torch:cuda measures this card without them"


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
