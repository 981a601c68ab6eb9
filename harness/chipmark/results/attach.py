"""A power log that exists only after the run, as a meter of stored records.

Records are never changed: each result is a record of its own, with the log's readings over each
repeat next to the files of the old one. The log is laid over the run by the Unix time that each
repeat kept, and where the run's work has contrast its watts must follow that work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from chipmark.codes import NoteCode
from chipmark.errors import BrokenRecordError, UsageError
from chipmark.foreign_model import parse_model
from chipmark.meters.clock_alignment import (
    Activity,
    Flags,
    Floats,
    Lag,
    contradiction,
    gap_text,
    lags_of,
)
from chipmark.meters.contract import MeterInfo, PowerSamples, file_slug
from chipmark.meters.power_log import PowerLog
from chipmark.metrics.events import DECODE, MIXED
from chipmark.metrics.rawcell import RawCell, RepeatData
from chipmark.registry import built_in_identity, is_simulated
from chipmark.results.manifest import Manifest, Note, PluginId, Timing
from chipmark.results.meter_files import IDLE_AFTER, IDLE_BEFORE, POWER, power_file
from chipmark.results.meter_id import MeterId
from chipmark.results.raw import (
    POWER_COLUMNS,
    load_power,
    load_raw,
    numbered_repeats,
    write_parquet,
)
from chipmark.results.record import Record
from chipmark.results.write import check_source, write_anew
from chipmark_models.foreign_file import MIB, read_text

_OF_METERS = (NoteCode.METER, NoteCode.UNVERIFIED_METER)
_EDGE_PERIODS = 3.0
"""Periods of the log that are kept on each side of a repeat."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A log that is to be attached: its rows as they were read, before any offset.

    sha256: of its file. flags: how its clock was read, and the offset that is to be applied.
    """

    path: Path
    sha256: str
    log: PowerLog
    info: MeterInfo
    flags: Flags
    clock_s: float | None = None
    """By how many seconds its clock may differ from the run's by the user's word, for where the
    work does not show it."""


@dataclass(frozen=True, slots=True)
class Attached:
    """What came of it: the new record's folder, and the lags that were found at the start and at
    the end of the run."""

    folder: Path
    lags: tuple[Lag, ...]


@dataclass(frozen=True, slots=True)
class _Placed:
    """A repeat by Unix time."""

    folder: Path
    ahead_s: float
    """Unix time minus the clock of the repeat's events."""
    activity: Activity


def attach(record: Record, out_dir: Path, given: Attachment, *, as_row: bool) -> Attached:
    """Write a record's copy under `out_dir` that has the log as a meter: the row's, or one whose
    readings stand next to it.

    As the row's it takes the place of the meter that measured, whose readings are kept next to it.
    Raises UsageError with the offset that was found, and the flag that applies it, where the log
    does not cover the run or its clock is not the run's; UsageError where a record cannot be
    aligned or has a meter of that name; and what `write_recomputed` raises.
    """
    manifest = record.manifest
    _check_can_be_aligned(record)
    meters = (manifest.meter, *manifest.beside)
    taken = {file_slug(meter.name) for meter in meters if meter is not None}
    if file_slug(given.info.name) in taken:
        raise UsageError(
            f"{record.id} has a meter of the name {given.info.name}", "give another one with --name"
        )
    check_source(out_dir, record)
    raw = load_raw(record.path, manifest)
    placed = _placed(record, raw)
    ends = _ends(placed)
    log = _corrected(given, ends)
    run = placed[0].activity.start_s, placed[-1].activity.end_s
    if text := gap_text(log, *run, given.flags):
        raise UsageError(f"{given.path} does not cover {record.id}", text)
    lags = lags_of(log, [one.activity for one in placed])
    if text := contradiction(lags, log.period_s or 0.0, given.flags):
        raise UsageError(f"{given.path} does not fit {record.id}: {text}")
    given = replace(given, info=replace(given.info, clock_s=_clock_s(given, lags)))
    files = _readings(record, placed, log, given.info.clock_s or 0.0)
    changed = _manifest(manifest, given, lags, as_row=as_row)

    def change(folder: Path) -> None:
        _lay(folder, manifest, given.info.name, files, as_row=as_row)

    hint = "that log was attached to it before"
    return Attached(write_anew(out_dir, record, changed, change, hint), lags)


def _clock_s(given: Attachment, lags: Sequence[Lag]) -> float | None:
    """By how much the clock may differ: the lag that was found, which is looked for in steps of
    half a period, else what the user says."""
    found = [abs(lag.seconds) for lag in lags if lag.seconds is not None]
    return max(found) + (given.log.period_s or 0.0) / 2 if found else given.clock_s


def _check_can_be_aligned(record: Record) -> None:
    manifest = record.manifest
    if is_simulated(manifest.backend):
        raise UsageError(
            f"{record.id} was simulated: it ran on a virtual clock, which no log can follow",
            "attach a log to what ran on a device",
        )
    if manifest.status == "failed":
        raise UsageError(f"{record.id} failed: it has no repeat", "measure it again")


def _placed(record: Record, raw: RawCell) -> tuple[_Placed, ...]:
    """The repeats by Unix time, in order of time."""
    found = []
    for folder, repeat in zip(numbered_repeats(record.path), raw.repeats, strict=True):
        path = folder / "timing.json"
        unix_s = None
        if path.is_file():
            text = read_text(path, MIB, within=folder, error=BrokenRecordError)
            unix_s = parse_model(Timing, text, path, error=BrokenRecordError).unix_s
        if unix_s is None:
            raise UsageError(
                f"{record.id} was measured before repeats kept Unix time ({path.name} of "
                f"{folder.name} has no unix_s), so that no log can be aligned with it",
                "measure it again",
            )
        found.append(_Placed(folder, unix_s, _activity(repeat).moved(unix_s)))
    return tuple(sorted(found, key=lambda one: one.activity.start_s))


def _activity(repeat: RepeatData) -> Activity:
    """Launches of all replicas, decode and the others apart, over the time that all were timed."""
    starts, ends, decode = (
        np.concatenate([column(run) for run in repeat.runs])
        for column in (
            lambda run: run.events["launches"]["start_s"],
            lambda run: run.events["launches"]["end_s"],
            lambda run: np.isin(run.events["launches"]["phase"], (DECODE, MIXED)),
        )
    )
    windows = [run.events["window"] for run in repeat.runs]
    return Activity(
        min(float(window["start_s"][0]) for window in windows),
        max(float(window["end_s"][0]) for window in windows),
        (_joined(starts[~decode], ends[~decode]), _joined(starts[decode], ends[decode])),
    )


def _joined(starts: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """Spans in order, those that overlap as one: replicas work at once."""
    if not len(starts):
        return starts, ends
    order = np.argsort(starts, kind="stable")
    starts, until = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate(([True], starts[1:] > until[:-1]))
    last = np.append(np.flatnonzero(first)[1:] - 1, len(starts) - 1)
    return starts[first], until[last]


def _ends(placed: Sequence[_Placed]) -> tuple[Activity, Activity]:
    """The work at the start and at the end of a run: its first and last repeat, or the halves of
    the only one."""
    first, last = placed[0].activity, placed[-1].activity
    if len(placed) > 1:
        return first, last
    middle = (first.start_s + first.end_s) / 2
    return first.part(first.start_s, middle), first.part(middle, first.end_s)


def _corrected(given: Attachment, ends: tuple[Activity, Activity]) -> PowerLog:
    """The log with its offset: a constant, or one that changes evenly from the start to the end of
    the run."""
    first, last = given.flags.offset_s
    if first == last:
        return given.log.moved(first)
    at = [(part.start_s + part.end_s) / 2 for part in ends]
    rate = (last - first) / (at[1] - at[0])
    moved = given.log.unix_s + first + rate * (given.log.unix_s + first - at[0])
    if (np.diff(moved) <= 0).any():
        raise UsageError(
            f"an offset from {first:g} s to {last:g} s over {at[1] - at[0]:.0f} s turns time back",
            "give START..END in seconds",
        )
    return PowerLog(moved, given.log.energy_j, given.log.power_w, given.log.missing)


def _readings(
    record: Record, placed: Sequence[_Placed], log: PowerLog, clock_s: float
) -> dict[str, PowerSamples | None]:
    """What the log says of each repeat and of idle, by the path of its file without the ending
    and the meter's name: `repeat-0/power`, `idle-before` (None where the log does not hold it).
    By how much its clock may differ is kept at each edge as well, since bounds ask for it."""
    edge_s = _EDGE_PERIODS * (log.period_s or 0.0) + clock_s
    found: dict[str, PowerSamples | None] = {}
    for one in placed:
        start_s, end_s = one.activity.start_s - edge_s, one.activity.end_s + edge_s
        cut = log.within(start_s, end_s).samples(one.ahead_s)
        found[f"{one.folder.name}/{POWER}"] = cut
    for name, nearest in ((IDLE_BEFORE, placed[0]), (IDLE_AFTER, placed[-1])):
        idle = load_power(record.path, name)
        found[name] = None
        if idle is None or len(idle.time_s) < 2:
            continue  # when it was is known from the meter's own samples alone
        start_s, end_s = (float(idle.time_s[at]) + nearest.ahead_s for at in (0, -1))
        if len(log.unix_s) and log.unix_s[0] <= start_s and end_s <= log.unix_s[-1]:
            cut = log.within(start_s, end_s).samples(nearest.ahead_s)
            inside = (cut.time_s >= idle.time_s[0]) & (cut.time_s <= idle.time_s[-1])
            found[name] = PowerSamples(
                cut.time_s[inside], cut.energy_j[inside], cut.power_w[inside]
            )
    return found


def _lay(
    folder: Path,
    manifest: Manifest,
    name: str,
    files: dict[str, PowerSamples | None],
    *,
    as_row: bool,
) -> None:
    """Write the log's readings into a copy of the record's files; the row's meter gives way."""
    old = manifest.meter
    for stem, samples in files.items():
        where, _, of = stem.rpartition("/")
        place = folder / where
        if as_row and old is not None and (place / f"{of}.parquet").is_file():
            target = place / f"{power_file(of, old.name)}.parquet"
            (place / f"{of}.parquet").rename(target)
        if samples is not None:
            file = of if as_row else power_file(of, name)
            columns = {column: getattr(samples, column) for column in POWER_COLUMNS}
            write_parquet(place / f"{file}.parquet", columns)


def _manifest(
    manifest: Manifest, given: Attachment, lags: Sequence[Lag], *, as_row: bool
) -> Manifest:
    """The manifest with the log as a meter."""
    meter = MeterId(**asdict(given.info))
    plugin = PluginId.model_validate(built_in_identity("chipmark.meters.log_meter").to_dict())
    notes, old = list(manifest.notes), manifest.meter
    changed: dict[str, Any] = {}
    if as_row:
        plugins = dict(manifest.plugins)
        plugins["meter"] = plugin
        changed |= {"meter": meter, "plugins": plugins}
        if old is None:
            # Why nothing was measured.
            notes = [note for note in notes if note.code not in _OF_METERS]
        else:
            changed["beside"] = (*manifest.beside, old)
            beside_plugins = dict(manifest.beside_plugins)
            if (known := manifest.plugins.get("meter")) is not None:
                beside_plugins[old.name] = known
            changed["beside_plugins"] = beside_plugins
    else:
        changed["beside"] = (*manifest.beside, meter)
        changed["beside_plugins"] = {**manifest.beside_plugins, meter.name: plugin}
    texts = [*given.info.notes, _alignment_text(given, lags)]
    if given.log.missing:
        texts.append(f"{given.log.missing} rows of the whole log have no reading")
    notes += [Note(code=NoteCode.METER, text=f"{meter.name}: {text}") for text in texts]
    attached = {
        "file": given.path.name,
        "sha256": given.sha256,
        "offset_s": list(given.flags.offset_s),
        "lag_s": [lag.seconds for lag in lags],
        "as_row": as_row,
    }
    before = manifest.options.get("attached_logs", [])
    kept = [*(before if isinstance(before, list) else []), attached]
    options = {**manifest.options, "attached_logs": kept}
    return manifest.model_copy(update={**changed, "notes": tuple(notes), "options": options})


def _alignment_text(given: Attachment, lags: Sequence[Lag]) -> str:
    """What a row says of how the log was aligned, and how that was checked."""
    first, last = given.flags.offset_s
    offset = f"{first:g}" if first == last else f"{first:g} to {last:g}"
    text = f"attached after the run from {given.path.name}, with an offset of {offset} s; "
    names = ("at the start", "at the end")
    found = [
        f"{lag.seconds:+.2g} s {name}"
        for lag, name in zip(lags, names, strict=True)
        if lag.seconds is not None
    ]
    if found:
        return text + f"its lag against the run's work is {' and '.join(found)}"
    return text + f"its clock could not be checked against the run's work: {lags[0].why}"
