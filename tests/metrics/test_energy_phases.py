"""Energies of phases against a simulated device whose power by phase is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.backends.sim.backend import SimBackend
from chipmark.backends.sim.polling import power_curve
from chipmark.backends.sim.sensors import Sensor
from chipmark.backends.sim.spec import SPECS
from chipmark.engine.contract import PHASES, LoadSpec
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy import window_energy
from chipmark.metrics.energy_phases import Metered, phase_energies
from chipmark.metrics.events import RepeatView, view
from chipmark.workload.generate import generate
from chipmark.workload.profile import profile
from chipmark.workload.scale import Scale

CARD = replace(
    SPECS["slow"], decode_s=0.012, prefill_s=1e-4, context_s=1e-7, prefill_w=390.0, decode_w=240.0,
    idle_w=70.0, verify=False,
)  # fmt: skip


@cache
def session_run(tool_time: str) -> tuple[RepeatView, Any]:
    """`agent-code-32k` on a simulated card at N = 4: its events, and its power as a curve."""
    trace = generate(profile("agent-code-32k"), Scale("1/8", "1/4", tool_time), 0, 8, 512)
    backend = SimBackend(CARD)
    loaded = backend.load(LoadSpec({}, "fp32", 4, trace.max_context_tokens, 200_000, 512))
    plan = RunPlan(caps=loaded.caps, concurrency=4, clock=backend.clock)
    joined = view(run(backend, trace, plan).tables)
    return joined, power_curve(CARD, backend._segments, backend.clock.now() + 5)


def metered(
    meters: ModuleType, sensor: Sensor, tool_time: str = "1/2", **changes: Any
) -> tuple[Metered, MeterInfo]:
    joined, curve = session_run(tool_time)
    samples = PowerSamples(*sensor.readings(curve, joined.start_s - 3, joined.end_s + 3))
    meter = meters.info(sensor, cap_w=500.0, **changes)
    energy = window_energy(samples, meter, joined.start_s, joined.end_s, CARD.idle_w)
    assert energy.energy_j is not None
    return Metered(joined, samples, energy.energy_j), meter


def drawn_joules(tool_time: str) -> dict[str, float]:
    """By phase and idle, from the constants of the card."""
    joined, _ = session_run(tool_time)
    launches = joined.tables["launches"]
    spans = launches["end_s"] - launches["start_s"]
    watts = {"prefill_cold": CARD.prefill_w, "prefill_append": CARD.prefill_w}
    watts["decode"] = CARD.decode_w
    drawn = {
        name: float(spans[launches["phase"] == PHASES.index(name)].sum()) * power
        for name, power in watts.items()
    }
    return drawn | {"idle": CARD.idle_w * (joined.window_s - float(spans.sum()))}


COUNTER = Sensor("counter", 0.1, phase=0.6, read_period_s=0.025, resolution=0.001)
MEAN = Sensor("watts", 0.1, 0.1, phase=0.37, read_period_s=0.025, drawn=True, resolution=1.0)
SENSORS = {
    "counter": COUNTER,
    "mean": MEAN,
    "3 percent off": Sensor("watts", 0.1, 0.1, phase=0.8, gain=0.03, read_period_s=0.05),
    "moments": Sensor("watts", 0.0, read_period_s=0.1, drawn=True),
}


@pytest.mark.parametrize("tool_time", ["1/16", "1/2"])
@pytest.mark.parametrize("name", SENSORS)
def test_phases_are_within_a_tenth_by_a_meter_of_100_ms(
    simulated_meters: ModuleType, name: str, tool_time: str
) -> None:
    repeat, meter = metered(simulated_meters, SENSORS[name], tool_time)
    found = phase_energies([repeat], meter)
    assert found.reason is None
    known = {k: phase for k, phase in found.phases.items() if phase.method}
    drawn = drawn_joules(tool_time)
    # The host's own time is microseconds a step: it has no joules that could be told.
    assert set(known) == set(drawn)
    for phase, joules in drawn.items():
        one = known[phase]
        if one.interval is not None and phase == "idle":
            assert one.interval[0] <= joules <= one.interval[1]
        # Of a twentieth of W idle draws half a percent of the joules.
        if phase != "idle" or tool_time == "1/2":
            assert one.energy_j == pytest.approx(joules, rel=0.1), phase
    assert sum(one.energy_j or 0.0 for one in known.values()) == pytest.approx(
        repeat.energy_j, rel=0.01
    )


def test_all_of_them_are_regressed_where_none_ran_alone(simulated_meters: ModuleType) -> None:
    repeat, meter = metered(simulated_meters, COUNTER, "1/16")
    found = phase_energies([repeat], meter)
    assert {one.method for one in found.phases.values()} == {"regressed", None}
    assert found.phases["harness"].energy_j is None
    assert found.phases["harness"].seconds > 0


def test_what_ran_alone_is_its_power_times_its_seconds(simulated_meters: ModuleType) -> None:
    repeat, meter = metered(simulated_meters, MEAN)
    idle = phase_energies([repeat], meter).phases["idle"]
    assert idle.method == "pure"
    assert idle.energy_j == pytest.approx(CARD.idle_w * idle.seconds, rel=1e-3)


def test_several_repeats_are_one_fit(simulated_meters: ModuleType) -> None:
    repeat, meter = metered(simulated_meters, COUNTER, "1/16")
    one, two = (phase_energies([repeat] * n, meter).phases["decode"] for n in (1, 2))
    assert two.seconds == pytest.approx(2 * one.seconds)
    assert two.energy_j == pytest.approx(2 * (one.energy_j or 0.0), rel=1e-3)


def test_phases_that_cannot_be_told_are_null(simulated_meters: ModuleType) -> None:
    slow = Sensor("watts", 0.1, 2.0, read_period_s=0.1, drawn=True)
    assert phase_energies(*listed(metered(simulated_meters, slow))).reason == (
        "phases_too_few_windows"
    )
    repeat, meter = metered(simulated_meters, COUNTER, "1/16")
    lost = replace(repeat, energy_j=1.02 * repeat.energy_j)
    assert phase_energies([lost], meter).reason == "phases_do_not_sum"
    assert phase_energies([replace(repeat, view=halved(repeat.view))], meter).reason == (
        "phases_alike"
    )


def listed(found: tuple[Metered, MeterInfo]) -> tuple[list[Metered], MeterInfo]:
    return [found[0]], found[1]


def halved(joined: RepeatView) -> RepeatView:
    """The same launches, the second half of each a KV copy."""
    launches = joined.tables["launches"]
    edges = np.linspace(launches["start_s"], launches["end_s"], 3, axis=1)
    phases = np.array([PHASES.index("decode"), PHASES.index("kv")])
    halves = {
        "start_s": edges[:, :2].ravel(),
        "end_s": edges[:, 1:].ravel(),
        "phase": np.resize(phases, 2 * len(edges)),
    }
    return replace(joined, tables={**joined.tables, "launches": halves})
