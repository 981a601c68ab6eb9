"""Every device that a name can mean: here or missing, how to get it, tried on hardware or not."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from chipmark.backends.device_scan import DeviceHere
from chipmark.backends.ort import provider_scan
from chipmark.backends.ort.providers import Provider, known_providers
from chipmark.backends.torch_device import device_scan, devices
from chipmark.backends.triton_cuda.devices import VERIFIED as VERIFIED_CARDS
from chipmark.cell.available import ThisMachine, offers_of
from chipmark.cell.computes import precisions_of
from chipmark.cell.environment import run_module
from chipmark.cell.names import check_python, modules_of
from chipmark.cell.reporter import Reporter
from chipmark.registry import plugins

_SCANNED = ("ort", "torch", "sim")
"""Kinds whose devices are listed one by one, and the simulated one, which has no hardware."""


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A line of `chipmark providers`."""

    backend: str
    """`KIND:DEVICE`."""
    here: bool
    text: str
    """The device that is here, or what is missing."""
    remedy: str
    """How to get it, "" where that is not known."""
    tried: bool
    """Whether this project ran it on its hardware."""
    precisions: tuple[str, ...]
    graph: str
    """Level of the ONNX graph that it is given, `none` without one."""
    origin: str = ""
    """The user's file that it comes from, "" for the built-in list."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def matrix(reporter: Reporter, python: str = "") -> list[KnownDevice]:
    """Every provider of ONNX Runtime, torch device, and device of another plug-in, each looked up
    in a process of its own under `python` ("" is this interpreter). UsageError where that cannot
    be run."""
    check_python(python)
    return [*_ort(reporter, python), *_torch(reporter, python), *_others(reporter, python)]


def _ort(reporter: Reporter, python: str) -> Iterator[KnownDevice]:
    run = functools.partial(run_module, python=python)
    for name, provider in known_providers().items():
        reporter.stage(f"looking for ort:{name}")
        (found,) = provider_scan.scan([name], run)
        yield _line("ort", found, provider.verified, provider.graph, provider)


def _torch(reporter: Reporter, python: str) -> Iterator[KnownDevice]:
    run, has_module = functools.partial(run_module, python=python), modules_of(python)
    reporter.stage("looking for torch devices")
    found = device_scan.scan(list(devices.BUILT_IN), run)
    for device, package in devices.plugin_modules().items():
        if has_module(package):
            reporter.stage(f"looking for torch:{device}")
            found += device_scan.scan([device], run)
        else:
            remedy = f"the vendor's own {package}, with its build of torch"
            found.append(DeviceHere(device, False, f"{package} is not installed", remedy))
    for here in found:
        yield _line("torch", here, here.name in devices.VERIFIED, "none", None)


def _others(reporter: Reporter, python: str) -> Iterator[KnownDevice]:
    """What plug-ins say of this machine; another interpreter's is known by its child alone."""
    if python:
        return
    reporter.stage("asking the other backends")
    kinds = [kind for kind in plugins("chipmark.backends") if kind not in _SCANNED]
    for offer in offers_of(kinds, ThisMachine()):
        kind, _, device = offer.backend.partition(":")
        text = offer.missing or "this machine has what it needs"
        found = DeviceHere(device, not offer.missing, text, offer.remedy)
        yield _line(kind, found, kind == "triton" and bool(VERIFIED_CARDS), "none", None)


def _line(
    kind: str, found: DeviceHere, tried: bool, graph: str, provider: Provider | None
) -> KnownDevice:
    backend = f"{kind}:{found.name}" if found.name else kind
    return KnownDevice(
        backend=backend,
        here=found.here,
        text=found.text,
        remedy="" if found.here else found.remedy or (provider.install if provider else ""),
        tried=tried,
        precisions=(precisions_of(backend) or ()) if found.name else (),
        graph=graph,
        origin=provider.origin if provider else "",
    )
