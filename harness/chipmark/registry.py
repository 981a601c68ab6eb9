"""The three plug-in groups (backends, chips, meters) by one mechanism: entry points.

The names of built-in plug-ins are reserved, in the child as in the parent: whoever installs a
distribution could otherwise decide what `torch:cpu` means. A name that two distributions give is
not used. What was refused is listed by `refused_plugins`, and `identity_of` says which code is
behind an object that was loaded.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from chipmark.errors import BrokenPluginError, MissingBackendError, UnknownNameError
from chipmark_models.files import sha256_of_file

Group = Literal["chipmark.backends", "chipmark.chips", "chipmark.meters"]
GROUPS: tuple[Group, ...] = get_args(Group)

_OWN = "chipmark"

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
        "nvml-power": "chipmark.meters.nvml:NvmlPowerMeter",
        "nvml-module": "chipmark.meters.nvml:NvmlModuleMeter",
        "nvidia-smi": "chipmark.meters.tools.nvidia_smi:NVIDIA_SMI",
        "amdsmi": "chipmark.meters.amd:AmdMeter",
        "amd-smi": "chipmark.meters.tools.amd_smi:AMD_SMI",
        "rocm-smi": "chipmark.meters.tools.rocm_smi:ROCM_SMI",
        "npu-smi": "chipmark.meters.tools.npu_smi:NPU_SMI",
        "xpu-smi": "chipmark.meters.tools.xpu_smi:XPU_SMI",
        "cnmon": "chipmark.meters.tools.cnmon:CNMON",
        "hy-smi": "chipmark.meters.tools.hy_smi:HY_SMI",
        "mtml": "chipmark.meters.moore_threads:MtmlMeter",
        "mthreads-gmi": "chipmark.meters.tools.mthreads_gmi:MTHREADS_GMI",
        "mx-smi": "chipmark.meters.tools.mx_smi:MX_SMI",
        "ixsmi": "chipmark.meters.tools.ixsmi:IXSMI",
        "efsmi": "chipmark.meters.tools.efsmi:EFSMI",
        "brsmi": "chipmark.meters.tools.brsmi:BRSMI",
        "ppu-smi": "chipmark.meters.tools.ppu_smi:PPU_SMI",
        "intel-xpu-smi": "chipmark.meters.tools.xpu_smi_intel:INTEL_XPU_SMI",
        "rapl": "chipmark.meters.rapl:RaplMeter",
        "rapl-dram": "chipmark.meters.rapl:RaplMemoryMeter",
        "rapl-psys": "chipmark.meters.rapl:RaplPlatformMeter",
        "ipmi": "chipmark.meters.ipmi:IpmiMeter",
        "redfish": "chipmark.meters.redfish:RedfishMeter",
        "csv": "chipmark.meters.log_meter:CsvMeter",
        "log": "chipmark.meters.log_meter:StoredLogMeter",
        "declared": "chipmark.meters.declared:DeclaredMeter",
    },
}
"""The same lines as in pyproject.toml (a test holds them equal). The child may run in a vendor's
container from a source path, where this distribution has no metadata and so no entry points."""

SIMULATED = "sim"
"""The kind of the simulated devices."""


@dataclass(frozen=True, slots=True)
class PluginIdentity:
    """Which code a plug-in is.

    module: where its object was defined. distribution, version: of the installed distribution
    that owns it, "" for a source path without metadata. sha256: of the module's source file, ""
    where it has none. built_in: chipmark's own code under its own name.
    """

    module: str
    distribution: str
    version: str
    sha256: str
    built_in: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Known:
    plugins: dict[str, EntryPoint]
    refused: tuple[str, ...]


def plugins(group: Group) -> dict[str, EntryPoint]:
    """Every plug-in of a group by name; built-in names are reserved."""
    return _known(group).plugins


def refused_plugins(group: Group) -> tuple[str, ...]:
    """Installed plug-ins of a group that are not used, each a sentence that names the
    distribution and what to do."""
    return _known(group).refused


def load_plugin(group: Group, name: str) -> Any:
    """The object behind a name. UnknownNameError with near names; MissingBackendError where its
    module needs a package that is not here."""
    known = plugins(group)
    if name not in known:
        hint = "\n".join(refused_plugins(group))
        raise UnknownNameError(_kind(group), name, known, hint)
    module, _, attribute = known[name].value.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("chipmark", "chipmark_models"):
            raise
        if is_built_in(group, name):
            hint = f"pip install 'chipmark[{name}]', or the vendor's own build of {error.name}"
        else:
            hint = f"install {error.name}, which {_owner(known[name])} needs"
        raise MissingBackendError(
            f"{name!r} needs the package {error.name!r}, which is not installed", hint
        ) from error


def check_members(group: Group, name: str, found: object, contract: type[Any]) -> None:
    """Raise BrokenPluginError where `found`, a plug-in or what its factory made, lacks a member of
    the protocol `contract`."""
    for member in _members(contract):
        if not (callable(found) if member == "__call__" else hasattr(found, member)):
            kind = _kind(group)
            said = "cannot be called" if member == "__call__" else f"has no {member!r}"
            owner = "chipmark" if is_built_in(group, name) else _owner(plugins(group)[name])
            raise BrokenPluginError(
                f"the {kind} {name!r} of {owner} {said}, which {contract.__name__} asks for",
                f"{contract.__module__} says what each member does",
            )


def is_built_in(group: Group, name: str) -> bool:
    """Whether a name is reserved for chipmark's own plug-in."""
    return name in BUILT_IN[group]


def is_simulated(backend: str) -> bool:
    """Whether a backend `KIND:DEVICE` is a simulated device: the built-in one, by its reserved
    name. No other has a virtual clock, a chip of its own or power in closed form."""
    return backend.partition(":")[0] == SIMULATED


def identity_of(group: Group, name: str, loaded: Any) -> PluginIdentity:
    """The identity of `loaded`, an object of the plug-in `name` or what its factory made.

    It is that of the code that was really loaded: a built-in whose class was replaced at run time
    shows the module that replaced it, and is no longer `built_in`.
    """
    target = loaded if inspect.isroutine(loaded) or inspect.isclass(loaded) else type(loaded)
    module = str(target.__module__)
    point = plugins(group).get(name)
    expected = BUILT_IN[group].get(name)
    built_in = expected is not None and module == expected.partition(":")[0]
    if built_in:
        owner, version = _own_distribution()
    elif point is not None and point.dist is not None and expected is None:
        owner, version = point.dist.name, point.dist.version
    else:
        owner, version = "", ""
    return PluginIdentity(module, owner, version, source_hash(module), built_in)


def built_in_identity(module: str) -> PluginIdentity:
    """The identity of a module of chipmark itself that no entry point names (a meter of assumed
    power, the vendors' chip identification)."""
    import_module(module)
    owner, version = _own_distribution()
    return PluginIdentity(module, owner, version, source_hash(module), True)


def source_hash(module: str) -> str:
    """Hex sha256 of an imported module's source file; "" where it has none."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if not path or not Path(path).is_file():
        return ""
    return sha256_of_file(path)


def split_backend(name: str) -> tuple[str, str]:
    """`torch:cpu` as its kind and device. UnknownNameError where the kind does not exist."""
    kind, _, device = name.partition(":")
    known = plugins("chipmark.backends")
    if kind not in known or not device:
        hint = "\n".join(("a backend is named KIND:DEVICE", *refused_plugins("chipmark.backends")))
        raise UnknownNameError("backend", name, [f"{k}:{device or 'DEVICE'}" for k in known], hint)
    return kind, device


@cache
def _known(group: Group) -> _Known:
    built_in = BUILT_IN[group]
    found = {
        name: EntryPoint(name=name, value=value, group=group) for name, value in built_in.items()
    }
    kind = _kind(group)
    refused: list[str] = []
    owners: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=group):
        if built_in.get(point.name) == point.value:
            continue
        owner = point.dist.name if point.dist is not None else ""
        if point.name in built_in:
            refused.append(
                f"the {kind} {point.name!r} of the distribution {owner or 'unknown'} is not used: "
                "the name is built in; its plug-in must take another name"
            )
            continue
        owners.setdefault(point.name, {})[owner] = point
    for name, points in owners.items():
        if len(points) > 1:
            refused.append(
                f"the {kind} {name!r} is given by {' and '.join(sorted(points))}, so neither is "
                "used; uninstall one"
            )
            continue
        found[name] = next(iter(points.values()))
    return _Known(found, tuple(refused))


def _kind(group: Group) -> str:
    return group.removeprefix("chipmark.").rstrip("s")


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "its distribution"


def _members(contract: type[Any]) -> list[str]:
    """Names that a protocol declares, those of protocols that it extends included."""
    found: dict[str, None] = {}
    for part in reversed(contract.__mro__):
        if getattr(part, "_is_protocol", False) and part is not Protocol:
            names = (*vars(part).get("__annotations__", {}), *vars(part))
            found |= {n: None for n in names if n == "__call__" or not n.startswith("_")}
    return list(found)


@cache
def _own_distribution() -> tuple[str, str]:
    try:
        return _OWN, distribution(_OWN).version
    except PackageNotFoundError:
        from chipmark import __version__

        return "", __version__
