"""The three plug-in groups (backends, chips, meters) by one mechanism: entry points."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from chipmark.errors import MissingBackendError, UnknownNameError

Group = Literal["chipmark.backends", "chipmark.chips", "chipmark.meters"]

BUILT_IN: dict[str, dict[str, str]] = {
    "chipmark.backends": {
        "sim": "chipmark.backends.sim.backend:SimBackend",
        "torch": "chipmark.backends.torch_device.backend:TorchBackend",
        "ort": "chipmark.backends.ort.backend:OrtBackend",
        "triton": "chipmark.backends.triton_cuda.backend:TritonBackend",
    },
    "chipmark.chips": {
        "host_cpu": "chipmark.chips.identify:identify_cpu",
        "nvidia": "chipmark.chips.identify:identify_nvidia",
    },
    "chipmark.meters": {
        "nvml": "chipmark.meters.nvml:NvmlMeter",
        "rapl": "chipmark.meters.rapl:RaplMeter",
        "declared": "chipmark.meters.declared:DeclaredMeter",
    },
}
"""The same lines as in pyproject.toml (a test holds them equal). The child may run in a vendor's
container from a source path, where this distribution has no metadata and so no entry points."""


@cache
def plugins(group: Group) -> dict[str, EntryPoint]:
    """Every plug-in of a group by name; an installed one replaces a built-in of the same name."""
    found = {
        name: EntryPoint(name=name, value=value, group=group)
        for name, value in BUILT_IN[group].items()
    }
    found.update({point.name: point for point in entry_points(group=group)})
    return found


def load_plugin(group: Group, name: str) -> Any:
    """The object behind a name. UnknownNameError with near names; MissingBackendError where its
    module needs a package that is not here."""
    known = plugins(group)
    if name not in known:
        raise UnknownNameError(group.removeprefix("chipmark.").rstrip("s"), name, known)
    module, _, attribute = known[name].value.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("chipmark", "chipmark_models"):
            raise
        raise MissingBackendError(
            f"{name!r} needs the package {error.name!r}, which is not installed",
            f"pip install 'chipmark[{name}]', or the vendor's own build of {error.name}",
        ) from error


def split_backend(name: str) -> tuple[str, str]:
    """`torch:cpu` as its kind and device. UnknownNameError where the kind does not exist."""
    kind, _, device = name.partition(":")
    known = plugins("chipmark.backends")
    if kind not in known or not device:
        raise UnknownNameError(
            "backend",
            name,
            [f"{k}:{device or 'DEVICE'}" for k in known],
            "a backend is named KIND:DEVICE",
        )
    return kind, device
