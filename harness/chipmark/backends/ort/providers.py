"""Providers as data: which library a device name means, with which options, and is it here.

A name is looked up in providers.toml; a path ending in .so (or .dll, .dylib) and the name of a
Python module are plug-in providers that need no entry.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from chipmark.backends.ort.provider_fields import LIBRARY_SUFFIXES, checked_table
from chipmark.errors import MissingBackendError, UnknownNameError
from chipmark.log import logger_of
from chipmark.user_files import PROVIDERS, user_file

_LOG = logger_of(__name__)


_DATA = Path(__file__).with_name("providers.toml")

UNLISTED_PRECISIONS = ("fp32", "fp16", "w8", "w4")
"""Of a plug-in that is named by its module or library: what a graph can be written in without
options of the provider. One that computes something else is found by parity."""

_REGISTERED: dict[str, str] = {}
"""Library path by registration name: ONNX Runtime registers a library once a process."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One execution provider as providers.toml describes it (field meanings stand there)."""

    name: str
    kind: str
    ep_name: str
    module: str
    library: str
    device: str
    install: str
    precisions: tuple[str, ...]
    static: tuple[str, ...]
    chunk_buckets: tuple[int, ...]
    context_buckets: tuple[int, ...]
    graph: str
    prepacking: bool
    io_device: str
    quantised: str
    accuracy_level: int
    verified: bool
    options: Mapping[str, str] = field(default_factory=dict)
    classic_options: Mapping[str, str] = field(default_factory=dict)
    precision_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    emulated_on: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""
    """The user's file that it comes from, "" for the built-in list."""


@dataclass(frozen=True, slots=True)
class Located:
    """A provider that is here. `ep_device`: the device a plug-in lists (None for classic ones);
    `device_name` what it calls itself; `library` the path of a plug-in's library."""

    provider: Provider
    ep_name: str
    ep_device: Any
    device_name: str
    library: str


def known_providers() -> dict[str, Provider]:
    """All providers of providers.toml by name."""
    default, tables = _tables()
    return {name: _provider(name, default | table) for name, table in tables.items()}


def _tables() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The defaults, and the table of each provider, the user's `providers.toml` added."""
    tables = tomllib.loads(_DATA.read_text(encoding="utf-8"))
    default = tables.pop("default")
    own = user_file(PROVIDERS)
    if own is not None:
        own.refuse_reserved(own.data, ["default", *tables])
        valid = [item.name for item in fields(Provider) if item.name not in ("name", "origin")]
        for name, table in own.data.items():
            checked = checked_table(own.path, name, table, default, valid)
            tables[name] = checked | {"origin": own.label}
    return default, tables


def _provider(name: str, table: Mapping[str, Any]) -> Provider:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    return Provider(name=name, **values)


def find_provider(device: str, has_module: Callable[[str], bool] | None = None) -> Provider:
    """The provider that `ort:DEVICE` means; raises UnknownNameError with the nearest names.

    A module that a listed provider is brought by means that provider, with its options. A library
    is looked for when it is located, and so is not imported here. has_module: whether the
    interpreter that will run it has a module; None asks this one.
    """
    known = known_providers()
    if device in known:
        return known[device]
    generic = replace(_provider(device, _tables()[0]), precisions=UNLISTED_PRECISIONS)
    if device.endswith(LIBRARY_SUFFIXES):
        return replace(generic, name=Path(device).name, library=device)
    if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", device):
        listed = next((found for found in known.values() if found.module == device), None)
        if listed is not None:
            return listed
        if (has_module or _is_module)(device):
            return replace(generic, module=device)
    raise UnknownNameError(
        "provider of ONNX Runtime",
        device,
        known,
        "a plug-in that is not listed is named by its Python module or its library's path",
    )


def precisions_of(device: str) -> tuple[str, ...]:
    """Precisions of a provider, told without looking for a library or a module that is not listed:
    the interpreter that runs it may be another."""
    return find_provider(device, lambda _: True).precisions


def own_data(device: str) -> str:
    """SHA-256 (12 digits) of the entry of the user's file that a device's name stands for; "" for
    one of the built-in list, and where nothing is listed."""
    _, tables = _tables()
    table = {k: v for k, v in tables.get(device, {}).items() if k != "origin"}
    if not tables.get(device, {}).get("origin"):
        return ""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:12]


def emulation_of(located: Located, machine: str = "") -> str:
    """What computes in the place of the provider's hardware, "" where nothing is known to.

    `emulated_on` of its data names processors (`platform.machine()`; `machine` for another) and
    `device TYPE`, the type of the device that ONNX Runtime lists.
    """
    kinds = [machine or platform.machine()]
    if located.ep_device is not None:
        kinds.append(f"device {str(located.ep_device.device.type).rpartition('.')[2]}")
    return next((text for kind, text in located.provider.emulated_on.items() if kind in kinds), "")


def _is_module(name: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def locate(provider: Provider) -> Located:
    """Register the provider if it is a plug-in and pick its device; MissingBackendError if not.

    A plug-in's name is also looked for among the classic ones, since some providers come both as
    a plug-in and inside a wheel that replaces onnxruntime.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:  # a vendor's wheel whose libraries or NumPy are not here
        missing = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        raise MissingBackendError(
            f"ort:{provider.name} needs the package onnxruntime, which is not installed"
            if missing
            else f"onnxruntime cannot be imported: {error}",
            provider.install or "pip install 'chipmark[ort]', or the vendor's own build of it",
        ) from error

    if provider.ep_name and provider.ep_name in ort.get_available_providers():
        named = f"{provider.ep_name} of onnxruntime {ort.__version__}"
        return Located(replace(provider, kind="classic"), provider.ep_name, None, named, "")
    if provider.kind == "classic":
        listed = ", ".join(ort.get_available_providers())
        raise MissingBackendError(
            f"onnxruntime {ort.__version__} has no {provider.ep_name} (it has {listed})",
            provider.install,
        )
    return _locate_plugin(provider)


def _locate_plugin(provider: Provider) -> Located:
    import onnxruntime as ort

    if not hasattr(ort, "register_execution_provider_library"):
        raise MissingBackendError(
            f"onnxruntime {ort.__version__} cannot load plug-in providers",
            "pip install 'onnxruntime>=1.23'",
        )
    library = _library(provider)
    before = {_key(device) for device in ort.get_ep_devices()}
    if library not in _REGISTERED.values():
        registration = provider.ep_name or _own_name(provider)
        try:
            ort.register_execution_provider_library(registration, library)
        except Exception as error:  # the binding raises several classes of its own
            said = str(error).replace(library, Path(library).name)
            raise MissingBackendError(
                f"the provider library {library} does not load: {said}",
                library_fix(said) or provider.install,
            ) from error
        _REGISTERED[registration] = library
    devices = ort.get_ep_devices()
    if provider.ep_name:
        mine = [device for device in devices if device.ep_name == provider.ep_name]
    else:
        mine = [device for device in devices if _key(device) not in before]
    mine = [device for device in mine if _matches(device, provider.device)]
    if not mine:
        hardware = ", ".join(sorted({f"{d.device.type.name} {d.device.vendor}" for d in devices}))
        raise MissingBackendError(
            f"provider {provider.name!r} is installed and lists no device of this machine"
            f" ({hardware or 'none seen'})",
            provider.install,
        )
    chosen = mine[0]
    _LOG.info("provider %s: %d devices, the first is used", provider.name, len(mine))
    return Located(provider, chosen.ep_name, chosen, _device_name(chosen), library)


def library_fix(said: str) -> str:
    """What helps where a library does not load, by the words of the loader or of ONNX Runtime; ""
    where they are the provider's own."""
    return next((fix for words, fix in _FIXES.items() if words in said), "")


_FIXES = {
    "undefined symbol: CreateEpFactories": (
        "this is not a plug-in provider of ONNX Runtime; one that is compiled into a vendor's "
        "onnxruntime runs by its name with --python PATH"
    ),
    "file too short": "this is not a shared library: name the one that the vendor ships",
    "invalid ELF header": "this is not a shared library: name the one that the vendor ships",
    "wrong ELF class": "it was built for another processor: take the build for this one",
    "GLIBC": "it was built for a newer system: take the build for this one, or a container",
    "undefined symbol": (
        "it was built against other versions of its libraries: take the build for the onnxruntime "
        "and the driver that are here, `ldd -r` lists what is undefined"
    ),
    "cannot open shared object file": (
        "it was built for another processor, or a library that it needs is not found: `ldd` "
        "says which, and LD_LIBRARY_PATH may name its folder"
    ),
    "API version": "it was built for another onnxruntime: take the release that it names",
}
"""The first that fits holds."""


def hardware(located: Located) -> dict[str, str]:
    """What tells the chosen device from others of its kind: its PCI address, where ONNX Runtime
    found one; {} elsewhere."""
    metadata = {} if located.ep_device is None else dict(located.ep_device.device.metadata)
    return {"pci": str(metadata["pci_bus_id"])} if metadata.get("pci_bus_id") else {}


def _library(provider: Provider) -> str:
    if not provider.module:
        if not Path(provider.library).is_file():
            raise MissingBackendError(
                f"there is no provider library {provider.library}", "name an existing file"
            )
        return str(Path(provider.library).resolve())
    try:
        module = import_module(provider.module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == provider.module.split(".")[0]:
            text = f"ort:{provider.name} needs the package {provider.module}"
        else:
            text = f"ort:{provider.name}: {provider.module} cannot be imported: {error}"
        raise MissingBackendError(text, provider.install) from error
    for attribute in (provider.library, "get_library_path", "library_path"):
        found = getattr(module, attribute, None)
        if found is not None:
            return str(found() if callable(found) else found)
    raise MissingBackendError(
        f"the module {provider.module} names no provider library",
        f"give the library's path: ort:{Path(str(module.__file__)).parent}/…",
    )


def _own_name(provider: Provider) -> str:
    """The name that a plug-in's module gives its provider; else the name it was asked by."""
    if provider.module:
        module = import_module(provider.module)
        for attribute in ("get_ep_name", "EP_NAME"):
            found = getattr(module, attribute, None)
            if found is not None:
                return str(found() if callable(found) else found)
    return provider.name


def _key(device: Any) -> tuple[Any, ...]:
    return (device.ep_name, device.device.device_id, str(device.device.type))


def _matches(device: Any, wanted: str) -> bool:
    """`wanted` is "key=value" of the device's metadata; the first that fits is taken."""
    if not wanted:
        return True
    key, _, value = wanted.partition("=")
    return bool(device.ep_metadata.get(key) == value)


def _device_name(device: Any) -> str:
    metadata = {**device.ep_metadata, **device.device.metadata}
    said = next((metadata[key] for key in ("Description", "device_name") if key in metadata), "")
    own = metadata.get("ov_device", "")
    kind = str(device.device.type).rpartition(".")[2]
    return " ".join(
        part for part in (device.ep_name, own, kind, device.device.vendor, said) if part
    )
