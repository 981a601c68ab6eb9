"""Providers as data: which library a device name means, with which options, and is it here.

A name is looked up in providers.toml; a path ending in .so (or .dll, .dylib) and the name of a
Python module are plug-in providers that need no entry.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from chipmark.errors import BadInputError, MissingBackendError, UnknownNameError
from chipmark.log import logger_of
from chipmark.user_files import user_file

_LOG = logger_of(__name__)


_DATA = Path(__file__).with_name("providers.toml")
_LIBRARY_SUFFIXES = (".so", ".dll", ".dylib")
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
    own = user_file("providers.toml")
    if own is not None:
        own.refuse_reserved(own.data, ["default", *tables])
        for name, table in own.data.items():
            if not isinstance(table, dict):
                raise BadInputError(own.path, "must be a table", field=name)
            for field_name in ("verified", "origin"):
                if field_name in table:
                    problem = "is not for a file of the user's: it says what this project ran"
                    raise BadInputError(own.path, problem, field=f"{name}.{field_name}")
            _check_types(own.path, name, table, default)
            tables[name] = table | {"origin": own.label}
    return default, tables


def _check_types(
    path: Path, name: str, table: Mapping[str, Any], default: Mapping[str, Any]
) -> None:
    """BadInputError for a field of another type than the default's, and for an unknown kind."""
    for key, value in table.items():
        where, like = f"{name}.{key}", default.get(key)
        if key == "kind" and value not in ("classic", "plugin"):
            raise BadInputError(path, f"must be classic or plugin, not {value!r}", field=where)
        if like is None:
            continue
        if type(value) is not type(like):
            text = f"must be of type {type(like).__name__}, not {value!r}"
            raise BadInputError(path, text, field=where)
        items = int if key.endswith("_buckets") else str
        if isinstance(value, list) and not all(type(item) is items for item in value):
            raise BadInputError(path, f"must be a list of {items.__name__}", field=where)


def _provider(name: str, table: Mapping[str, Any]) -> Provider:
    valid = {item.name for item in fields(Provider)}
    for key in table:
        if key not in valid:
            where = table.get("origin") or _DATA.name
            raise UnknownNameError(f"field of provider {name!r} in {where}", key, valid)
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    return Provider(name=name, **values)


def find_provider(device: str) -> Provider:
    """The provider that `ort:DEVICE` means; raises UnknownNameError with the nearest names."""
    known = known_providers()
    if device in known:
        return known[device]
    generic = _provider(device, _tables()[0])
    if device.endswith(_LIBRARY_SUFFIXES):
        return replace(generic, name=Path(device).name, library=device)
    if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", device) and _is_module(device):
        return replace(generic, module=device)
    raise UnknownNameError(
        "provider of ONNX Runtime",
        device,
        known,
        "a plug-in that is not listed is named by its Python module or its library's path",
    )


def precisions_of(device: str) -> tuple[str, ...]:
    """Precisions of a listed provider, or the default's for a library or a module, which need not
    be found here: the interpreter that runs it may be another."""
    default, tables = _tables()
    return tuple((default | tables.get(device, {}))["precisions"])


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
    import onnxruntime as ort

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
            raise MissingBackendError(
                f"the provider library {library} does not load: {error}", provider.install
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
    except ModuleNotFoundError as error:
        if error.name != provider.module.partition(".")[0]:
            raise
        raise MissingBackendError(
            f"ort:{provider.name} needs the package {provider.module}", provider.install
        ) from error
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
