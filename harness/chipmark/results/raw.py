"""A cell's raw data from either of its two forms: the child's folder (`.npz`) or a record."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from chipmark.chips.catalogue import catalogue, catalogue_name
from chipmark.engine.events import COLUMNS, SINCE_2, Table, check_tables, load_events
from chipmark.errors import BrokenRecordError
from chipmark.foreign_model import parse_model
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.replay import samples_fault
from chipmark.metrics.rawcell import (
    CellFacts,
    RawCell,
    RepeatData,
    Roofs,
    RunTiming,
    SloLimits,
)
from chipmark.registry import is_simulated
from chipmark.results.manifest import ChipId, Manifest, Probes, Slo, Timing
from chipmark.results.meter_files import (
    IDLE_AFTER,
    IDLE_BEFORE,
    POWER,
    check_no_strays,
    power_file,
)
from chipmark.results.stored_part import StoredPart
from chipmark.workload.trace import load_trace
from chipmark_models.config import ModelConfig
from chipmark_models.foreign_arrays import read_npz, read_parquet
from chipmark_models.foreign_file import MIB, read_text

Facts = TypeVar("Facts", SloLimits, MeterInfo, RunTiming, Roofs)
Part = TypeVar("Part", bound=StoredPart)

POWER_COLUMNS = ("time_s", "energy_j", "power_w")
_REPEAT = re.compile(r"repeat-(\d+)")
_REPLICA = re.compile(r"replica-(\d+)")


def from_stored(kind: type[Facts], part: StoredPart) -> Facts:
    """A part of a file as the dataclass that metrics take, whose fields are all among the part's.

    Files are checked by models; metrics, and the child, know only the standard library and NumPy.
    """
    return kind(**{field.name: getattr(part, field.name) for field in fields(kind)})


def slo_limits(slo: Slo) -> SloLimits:
    """The numbers of an objective, as metrics take them."""
    return from_stored(SloLimits, slo)


def facts_of(manifest: Manifest) -> CellFacts:
    """What the arithmetic needs of a manifest."""
    meter = manifest.meter
    scale = manifest.workload.scale
    return CellFacts(
        scenario=manifest.scenario,
        concurrency=manifest.concurrency,
        slo=slo_limits(manifest.slo),
        scale=(Fraction(scale[0]), Fraction(scale[1]), Fraction(scale[2])),
        loop=manifest.workload.loop,
        meter=None if meter is None else from_stored(MeterInfo, meter),
        unit=manifest.chip.unit,
        used=manifest.chip.used,
        of=manifest.chip.of,
        config=ModelConfig.from_dict(manifest.model.config) if manifest.model.config else None,
        weights_precision=manifest.precision.weights,
        kv_precision=manifest.precision.kv,
        nameplate_bytes_s=nameplate_bytes_s(manifest.chip),
        clock="device" if _caps(manifest).get("clock") == "device" else "host",
        simulated=is_simulated(manifest.backend),
        replicas=manifest.replicas,
        beside=tuple(from_stored(MeterInfo, beside) for beside in manifest.beside),
    )


def nameplate_bytes_s(chip: ChipId) -> float | None:
    """Memory bandwidth of the devices used by the catalogue, bytes/s; None where it has no entry,
    no figure, or no way to divide it (a slice that is not a whole die)."""
    chips = catalogue()
    entry = chips.chips.get(catalogue_name(chip.name)) or chips.chip_named(
        chip.vendor, chip.device_name
    )
    if entry is None or entry.bandwidth.value is None or chip.unit != entry.unit:
        return None
    if chip.identity.get("mig") or (chip.used != chip.of and chip.of != entry.dies):
        return None
    return entry.bandwidth.value * 1e9 * chip.used / chip.of


def load_raw(folder: Path, manifest: Manifest) -> RawCell:
    """The raw data of a folder of either form, in order of the repeats.

    Raises BrokenRecordError (or BadInputError of the trace) naming the file that is not whole.
    """
    facts = facts_of(manifest)
    repeats = [(path, _repeat(path, facts.beside)) for path in numbered_repeats(folder)]
    for path, repeat in repeats:
        if len(repeat.runs) != manifest.replicas:
            text = f"holds {len(repeat.runs)} replicas, not {manifest.replicas}"
            raise BrokenRecordError(path, text, field="replicas")
    return RawCell(
        facts=facts,
        trace=load_trace(folder / "trace.npz"),
        repeats=tuple(repeat for _, repeat in repeats),
        idle_before=load_power(folder, IDLE_BEFORE),
        idle_after=load_power(folder, IDLE_AFTER),
        idle_beside=_idle_beside(folder, facts.beside),
    )


def numbered(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """Folders in `folder` whose names match, by the number in them; none where it is not there."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in folder.iterdir()
        if path.is_dir() and (match := name.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def numbered_repeats(folder: Path) -> list[Path]:
    """Folders of a cell's repeats, in their order."""
    return numbered(folder, _REPEAT)


def run_folders(repeat: Path) -> list[Path]:
    """Where the replicas of a repeat left their tables: its folder, then those within."""
    return [repeat, *numbered(repeat, _REPLICA)]


def load_power(folder: Path, name: str) -> PowerSamples | None:
    """Power samples of `name` in either form; None where the meter left none."""
    columns = _read_columns(folder, name, dict.fromkeys(POWER_COLUMNS, "f8"))
    if columns is None:
        return None
    samples = PowerSamples(columns["time_s"], columns["energy_j"], columns["power_w"])
    if fault := samples_fault(samples):
        raise BrokenRecordError(folder / name, fault[1], field=fault[0])
    return samples


def load_beside(folder: Path, of: str, meters: Sequence[MeterInfo]) -> dict[str, PowerSamples]:
    """Power samples of the meters next to the row's, by name, of those that left any.
    BrokenRecordError where one is not whole, or of none of them."""
    check_no_strays(folder, of, (meter.name for meter in meters))
    found = {meter.name: load_power(folder, power_file(of, meter.name)) for meter in meters}
    return {name: samples for name, samples in found.items() if samples is not None}


def _idle_beside(
    folder: Path, meters: Sequence[MeterInfo]
) -> dict[str, tuple[PowerSamples | None, PowerSamples | None]]:
    before, after = (load_beside(folder, of, meters) for of in (IDLE_BEFORE, IDLE_AFTER))
    return {name: (before.get(name), after.get(name)) for name in {**before, **after}}


def load_tables(folder: Path) -> dict[str, Table]:
    """The event tables of one repeat in either form."""
    stored = folder / "events.npz"
    if os.path.lexists(stored):
        return _one_window(folder, load_events(stored))
    tables = {name: _stored_table(folder, name) for name in COLUMNS}
    try:
        check_tables(tables)
    except ValueError as error:
        raise BrokenRecordError(folder, f"events are not whole: {error}") from error
    return _one_window(folder, tables)


def _one_window(folder: Path, tables: dict[str, Table]) -> dict[str, Table]:
    if (n := len(tables["window"]["start_s"])) != 1:
        raise BrokenRecordError(folder, f"has {n} windows, not 1")
    return tables


def load_turns(folder: Path) -> tuple[Table, float, float]:
    """The table of turns of one repeat in either form, with start and end of its window."""
    if os.path.lexists(folder / "events.npz"):
        tables = load_tables(folder)
        turns, window = tables["turns"], tables["window"]
    else:
        turns, window = (_stored_table(folder, name) for name in ("turns", "window"))
    _one_window(folder, {"window": window})
    return turns, float(window["start_s"][0]), float(window["end_s"][0])


def write_parquet(path: Path, table: Table) -> None:
    """Write columns to Parquet, their types kept."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        pyarrow.table({name: pyarrow.array(column) for name, column in table.items()}),
        path,
        compression="zstd",
    )


def _stored_table(folder: Path, name: str) -> Table:
    table = _read_columns(folder, name, COLUMNS[name], SINCE_2.get(name, {}))
    if table is None:
        raise BrokenRecordError(folder / f"{name}.parquet", "is missing")
    return table


def _repeat(folder: Path, beside: Sequence[MeterInfo]) -> RepeatData:
    first, *others = (
        RepeatData(load_tables(path), None, _roofs(path), _timing(path))
        for path in run_folders(folder)
    )
    return replace(
        first,
        power=load_power(folder, POWER),
        others=tuple(others),
        beside=load_beside(folder, POWER, beside),
    )


def _caps(manifest: Manifest) -> dict[str, Any]:
    return manifest.load.caps if manifest.load is not None else {}


def _timing(folder: Path) -> RunTiming | None:
    timing = _stored_part(Timing, folder / "timing.json")
    return None if timing is None else from_stored(RunTiming, timing)


def _roofs(folder: Path) -> Roofs | None:
    probes = _stored_part(Probes, folder / "probes.json")
    return None if probes is None else from_stored(Roofs, probes)


def _stored_part(kind: type[Part], path: Path) -> Part | None:
    if not os.path.lexists(path):
        return None
    text = read_text(path, MIB, within=path.parent, error=BrokenRecordError)
    return parse_model(kind, text, path, error=BrokenRecordError)


def _read_columns(
    folder: Path, name: str, columns: Any, absent: Mapping[str, float] | None = None
) -> dict[str, NDArray[Any]] | None:
    """Columns of `name` from `.npz` or `.parquet`; None where neither is there. `absent`: values
    of columns that an older Parquet file may do without."""
    npz, parquet = folder / f"{name}.npz", folder / f"{name}.parquet"
    # Whatever is there is opened, and refused where it is not a file: only nothing is nothing.
    if os.path.lexists(npz):
        found = read_npz(npz, columns, within=folder, error=BrokenRecordError)
        for column, values in found.items():
            if values.ndim != 1:
                text = f"has {values.ndim} dimensions"
                raise BrokenRecordError(npz, text, field=column)
        return found
    if not os.path.lexists(parquet):
        return None
    return read_parquet(parquet, columns, absent, within=folder, error=BrokenRecordError)
