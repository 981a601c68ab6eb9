"""Power timelines of a stored record, from its raw files."""

from __future__ import annotations

from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy_idle import idle_power
from chipmark.metrics.energy_timeline import PowerTimeline, power_timeline
from chipmark.metrics.replicas import common_window, own_views
from chipmark.results.raw import load_raw
from chipmark.results.record import Record


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
        for other in raw.facts.beside:
            samples = data.beside.get(other.name)
            if samples is not None and len(samples.time_s):
                readings[other.name] = (samples, other)
        own = own_views(data)
        window = common_window(own, raw.facts.scenario)
        found.append(power_timeline(index, own[0], window, readings, idle_w))
    return tuple(found)
