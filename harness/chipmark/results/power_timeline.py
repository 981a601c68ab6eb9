"""Power timelines of a stored record, from its raw files."""

from __future__ import annotations

import re

from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy_idle import idle_power
from chipmark.metrics.energy_timeline import PowerTimeline, power_timeline
from chipmark.metrics.replicas import common_window, own_views
from chipmark.results.raw import load_power, load_raw
from chipmark.results.record import Record

_OTHER = re.compile(r"power-([a-z0-9-]*[a-z][a-z0-9-]*)\.(?:npz|parquet)")
"""A file with the readings of a meter that is not the row's, by its name."""


def power_timelines(record: Record) -> tuple[PowerTimeline, ...]:
    """Of each repeat of a record, the row's meter first; without series where nothing was read.
    Phases are those of the first device. Raises BrokenRecordError naming the file that is broken.
    """
    raw = load_raw(record.path, record.manifest)
    meter = raw.facts.meter
    idle = idle_power(raw.idle_before, raw.idle_after, meter)
    idle_w = None if idle.low_w is None or idle.high_w is None else (idle.low_w, idle.high_w)
    found = []
    for index, data in enumerate(raw.repeats):
        readings: dict[str, tuple[PowerSamples, MeterInfo | None]] = {}
        if meter is not None and data.power is not None and len(data.power.time_s):
            readings[meter.name] = (data.power, meter)
        folder = record.path / f"repeat-{index}"
        for path in sorted(folder.iterdir()):
            if match := _OTHER.fullmatch(path.name):
                samples = load_power(folder, path.stem)
                if samples is not None and len(samples.time_s):
                    readings[match[1]] = (samples, None)
        own = own_views(data)
        window = common_window(own, raw.facts.scenario)
        found.append(power_timeline(index, own[0], window, readings, idle_w))
    return tuple(found)
