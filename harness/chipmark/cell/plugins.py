"""Which code measured: plug-ins of a cell by module, distribution, version and source."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from chipmark.cell.protocol import LoadAnswer
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.plugins import chip_identifier
from chipmark.codes import NoteCode
from chipmark.errors import ChipmarkError
from chipmark.meters.contract import Meter
from chipmark.registry import (
    BUILT_IN,
    Group,
    PluginIdentity,
    built_in_identity,
    identity_of,
    plugins,
    source_hash,
    split_backend,
)
from chipmark.results.manifest import Note, PluginId
from chipmark_models.files import sha256_of_file

_METERS: Group = "chipmark.meters"
_CHIPS: Group = "chipmark.chips"
_NO_IDENTITY = "the child did not report which code it loaded"


def child_remarks(loaded: LoadAnswer) -> list[Note]:
    """Plug-ins that the child found and did not use, from its answer to `load`."""
    return [Note(code=NoteCode.BACKEND, text=text) for text in loaded.refused_plugins]


def backend_plugin(backend: str, loaded: LoadAnswer | None) -> tuple[PluginId | None, str]:
    """The backend that the child really loaded, and what is wrong with it ("" if nothing).

    A built-in name must be chipmark's own code, the file that lies here; any other must be the
    distribution that the parent knows by that name.
    """
    if loaded is None:
        return None, _NO_IDENTITY
    found = PluginId.model_validate(loaded.plugin)
    kind = split_backend(backend)[0]
    expected = BUILT_IN["chipmark.backends"].get(kind)
    if expected is not None:
        module = expected.partition(":")[0]
        if not found.built_in or found.module != module:
            return found, f"{kind} is built in, but the child ran the module {found.module}"
        if found.sha256 != _source(module):
            return found, f"the child's {module} is not the file that lies here"
        return found, ""
    point = plugins("chipmark.backends")[kind]
    owner = point.dist.name if point.dist is not None else ""
    if found.distribution != owner:
        text = f"{kind} is of {owner or 'no distribution'} here, of "
        return found, text + f"{found.distribution or 'no distribution'} in the child"
    return found, ""


def meter_plugin(meter: Meter) -> PluginId:
    """The plug-in that made a meter."""
    # The meter of every vendor's tool is of one class: what differs is the function that reads it.
    made: object = getattr(meter, "reader", meter)
    module = str(made.__module__)
    for name, point in plugins(_METERS).items():
        if point.value.partition(":")[0] == module:
            return _stored(identity_of(_METERS, name, made))
    return _own_or_unknown(module)


def chip_plugin(backend: str, chip: ChipIdentity) -> PluginId:
    """The plug-in that identified a chip; chipmark's own table of vendors where none did."""
    device = split_backend(backend)[1]
    for name in plugins(_CHIPS):
        try:
            identify = chip_identifier(name)
            found = identify(device)
        except ChipmarkError:
            continue  # a plug-in without its driver or package is not the one that answered
        if isinstance(found, ChipIdentity) and found.name == chip.name:
            return _stored(identity_of(_CHIPS, name, identify))
    return _stored(built_in_identity("chipmark.chips.detect"))


def _own_or_unknown(module: str) -> PluginId:
    if module.startswith("chipmark."):
        return _stored(built_in_identity(module))
    return PluginId(
        module=module, distribution="", version="", sha256=source_hash(module), built_in=False
    )


def _stored(found: PluginIdentity) -> PluginId:
    return PluginId.model_validate(found.to_dict())


def _source(module: str) -> str:
    spec = find_spec(module)
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        return ""
    return sha256_of_file(spec.origin)
