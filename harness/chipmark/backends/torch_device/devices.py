"""Torch devices by name: the plug-in that makes one known, synchronisation, memory.

A vendor's plug-in registers its device when it is imported; afterwards `torch.<type>` offers what
`torch.cuda` does, and what it lacks is asked of `torch.accelerator`, where that is this device.
Chips that present themselves as `cuda` are opened by that name or by their vendor's (`lookalikes`).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chipmark.backends.torch_device.lookalikes import (
    LOOKALIKES,
    POSED_AS,
    check_bus,
    check_card,
)
from chipmark.engine.machine import Candidate, Machine
from chipmark.errors import BadInputError, MissingBackendError, UnknownNameError
from chipmark.log import logger_of
from chipmark.user_files import TORCH_DEVICES, user_file

_LOG = logger_of(__name__)

PLUGINS: Mapping[str, str] = {
    "npu": "torch_npu",
    "mlu": "torch_mlu",
    "musa": "torch_musa",
    "gcu": "torch_gcu",
    "supa": "torch_br",
}
"""Device type -> module whose import registers it with torch (Ascend, Cambricon, Moore Threads,
Enflame, Biren)."""

BUILT_IN: Mapping[str, str] = {
    "cpu": "",
    "cuda": "a build of torch for CUDA, ROCm or the vendor's lookalike of CUDA",
    "xpu": "a build of torch for Intel GPUs",
    "mps": "torch on macOS with Apple silicon",
}
"""Device types that torch knows by itself, with what to install where they are not there."""

VERIFIED = ("cpu",)
"""Device types that this project ran a suite on."""

_TYPE = re.compile(r"[a-z][a-z0-9_]*")

SPIN_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""How long OpenMP's threads wait awake is left to OpenMP and the user, and kept in the record: a
wait of 2,000 turns in place of 300,000 won fourfold next to other work on the same cores, and lost
6 to 25 % of a decode step on a quiet machine, which is the one to measure on."""


def plugin_modules() -> dict[str, str]:
    """Device type -> module: PLUGINS with the user's `torch_devices.toml` added.

    Raises BadInputError for a reserved name and for a table that is not one of `module` alone.
    """
    modules = dict(PLUGINS)
    own = user_file(TORCH_DEVICES)
    if own is not None:
        own.refuse_reserved(own.data, [*BUILT_IN, *PLUGINS, *LOOKALIKES])
        for kind, table in own.data.items():
            module = table.get("module") if isinstance(table, dict) else None
            if not isinstance(module, str) or len(table) != 1 or not _TYPE.fullmatch(kind):
                problem = 'must be [TYPE] with module = "PYTHON_MODULE" and nothing else'
                raise BadInputError(own.path, problem, field=kind)
            modules[kind] = module
    return modules


def candidates(machine: Machine) -> Sequence[Candidate]:
    """The CPU and `cuda` always, with what is missing; a vendor's own device where one is seen."""
    torch = "" if machine.has_module("torch") else "torch is not installed"
    cards = "" if machine.has_device("cuda") else "no card that torch calls cuda is here"
    found = [
        Candidate("cpu", torch, "pip install 'chipmark[torch]'" if torch else "", 10),
        Candidate(
            "cuda", torch or cards, "pip install 'chipmark[torch,cuda]'" if torch else "", 50
        ),
    ]
    for kind, package in plugin_modules().items():
        if not machine.has_device(kind):
            continue
        if torch:
            found.append(Candidate(kind, torch, "the vendor's own build of torch", 60))
        elif machine.has_module(package):
            found.append(Candidate(kind, order=60))
        else:
            missing = f"{package} is not installed"
            found.append(Candidate(kind, missing, f"the vendor's own {package}, with torch", 60))
    return found


def check_name(name: str) -> None:
    """Raise UnknownNameError for a name ("cpu", "cuda:1", "npu") whose type does not exist, or
    whose index is none; whether the device is here is not asked, and torch is not imported."""
    kind, colon, index = name.partition(":")
    plugins = plugin_modules()
    known = [*BUILT_IN, *plugins, *LOOKALIKES]
    if kind not in known:
        raise UnknownNameError("torch device", name, known)
    if colon and not (index.isascii() and index.isdigit()):
        raise UnknownNameError("torch device", name, [kind, f"{kind}:0"])
    if kind == "cpu" and index not in ("", "0"):
        raise UnknownNameError("torch device", name, ["cpu"], "torch has one CPU device")


def own_data(name: str) -> str:
    """The module that a file of the user's gives to the type of a device, "" for one that this
    project knows."""
    kind = name.partition(":")[0]
    return "" if kind in PLUGINS else plugin_modules().get(kind, "")


def open_device(name: str) -> Any:
    """The `torch.device` called `name` ("cpu", "cuda:1", "npu", "kunlun"), checked to be there.

    A lookalike's name is torch's `cuda`, where evidence says that it is that vendor's chip. Raises
    UnknownNameError for a type or an index that does not exist, and MissingBackendError with what
    was found or what to install where torch, the plug-in or the device is missing.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingBackendError(
            f"torch:{name} needs the package torch, which is not installed",
            "pip install 'chipmark[torch]', or the vendor's own build of torch",
        ) from error
    except (ImportError, RuntimeError) as error:
        raise MissingBackendError(
            f"torch:{name}: torch cannot be imported: {error}",
            "repair that package or its driver; TORCH_DEVICE_BACKEND_AUTOLOAD=0 leaves out the "
            "vendors' plug-ins that torch loads by itself",
        ) from error
    check_name(name)
    called, _, index = name.partition(":")
    plugins = plugin_modules()
    if called in LOOKALIKES:
        check_bus(called)
    kind = POSED_AS if called in LOOKALIKES else called
    if kind in plugins:
        _import_plugin(kind, plugins[kind])
    if kind == "cpu":
        return torch.device("cpu")
    is_available = function_of(kind, "is_available")
    if is_available is None or not is_available():
        raise MissingBackendError(
            f"torch {torch.__version__} sees no device {kind!r} here", f"it needs {_need(called)}"
        )
    device_count = function_of(kind, "device_count")
    count = int(device_count()) if device_count is not None else 1
    if index and int(index) >= count:
        raise UnknownNameError("torch device", name, [f"{called}:{i}" for i in range(count)])
    device = torch.device(f"{kind}:{index or 0}")
    if called in LOOKALIKES:
        check_card(called, hardware(device))
    _LOG.info("torch %s: %s of %d devices", torch.__version__, device, count)
    set_device = function_of(kind, "set_device")
    if set_device is not None:
        set_device(device)
    return device


def _need(called: str) -> str:
    if called in LOOKALIKES:
        vendor = LOOKALIKES[called].vendor
        return f"{vendor}'s build of torch, which calls its chips {POSED_AS}, and its driver"
    return BUILT_IN.get(called) or f"a working driver next to {plugin_modules()[called]}"


def _import_plugin(kind: str, package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise MissingBackendError(
            f"torch:{kind} needs {package}, which cannot be imported: {error}",
            f"install {package} of the vendor, in the version that fits this torch",
        ) from error


def answers(device: Any) -> bool:
    """Whether the device still computes; after an illegal access it does not, in this process."""
    import torch

    try:
        torch.zeros(1, device=device).add_(1).item()
        synchronize(device)
    except Exception as error:  # drivers and vendors' builds have classes of their own
        _LOG.warning("%s does not answer: %s", device, error)
        return False
    return True


def synchronize(device: Any) -> None:
    """Return when the device has nothing left to do; at once on a CPU, whose calls block, and for
    meta tensors, where nothing runs."""
    if device.type in ("cpu", "meta"):
        return
    wait = function_of(device.type, "synchronize")
    if wait is None:
        raise MissingBackendError(
            f"the plug-in of {device.type!r} has no synchronize(), so nothing on it can be timed",
            f"a plug-in with torch.{device.type}.synchronize, or a torch with torch.accelerator",
        )
    wait()


def device_name(device: Any) -> str:
    """What the device calls itself; for a CPU the kernel's model name."""
    if device.type == "cpu":
        return _cpu_name()
    ask = function_of(device.type, "get_device_name")
    return "" if ask is None else str(ask(device))


def hardware(device: Any) -> dict[str, Any]:
    """What tells this very device from others, and its cache: `uuid`, `pci`, `name`,
    `l2_cache_bytes`, each only where torch has it; {} for a CPU."""
    if device.type == "cpu":
        return {}
    ask = function_of(device.type, "get_device_properties")
    if ask is None:
        return {}
    found = ask(device)
    facts: dict[str, Any] = {}
    if name := getattr(found, "name", ""):
        facts["name"] = str(name)
    if uuid := getattr(found, "uuid", ""):
        facts["uuid"] = str(uuid)
    parts = [getattr(found, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    numbers = [part for part in parts if isinstance(part, int)]
    if len(numbers) == len(parts):
        facts["pci"] = "{:08x}:{:02x}:{:02x}.0".format(*numbers)
    cache = getattr(found, "L2_cache_size", 0)
    if isinstance(cache, int) and cache > 0:
        facts["l2_cache_bytes"] = cache
    return facts


def plugin_version(package: str) -> str:
    """Version of a vendor's plug-in, "" where it does not say."""
    return str(getattr(importlib.import_module(package), "__version__", ""))


def release(device: Any) -> None:
    """Give cached memory back to the device, where its module can."""
    give_back = function_of(device.type, "empty_cache")
    if give_back is not None:
        give_back()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "cpu"
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware", "cpu model"):
            return value.strip()
    return "cpu"


_ACCELERATOR: Mapping[str, str] = {
    "set_device": "set_device_index",
    "mem_get_info": "get_memory_info",
}
"""What `torch.accelerator` calls a function that has another name in `torch.<type>`."""


_MEMORY = ("mem_get_info", "max_memory_allocated", "empty_cache")


def function_of(kind: str, name: str) -> Callable[..., Any] | None:
    """The function `name` of `torch.<kind>`, else that of `torch.accelerator` (torch 2.6 and
    later, memory from 2.9) where this kind is the accelerator; None where neither has it.

    The vendor's own comes first: plug-ins patch their module before they implement what
    `torch.accelerator` asks of their device guard.
    """
    import torch

    found = getattr(getattr(torch, kind, None), name, None)
    if found is None and hasattr(torch, "accelerator"):
        current = torch.accelerator.current_accelerator()
        if current is not None and current.type == kind and not (name in _MEMORY and _silent()):
            found = getattr(torch.accelerator, _ACCELERATOR.get(name, name), None)
    return found if callable(found) else None


def _silent() -> bool:
    """Whether `torch.accelerator` knows nothing of the device's memory: it raises an internal
    error where a plug-in's allocator is an older kind of object (no `DeviceAllocator`)."""
    import torch

    try:
        torch.accelerator.memory_stats()
    except (AttributeError, RuntimeError):
        return True
    return False
