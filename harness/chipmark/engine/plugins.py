"""Backends by name, held to the contract when they are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from chipmark.engine.contract import I32, Backend, BackendFactory, Clock, PowerColumns
from chipmark.errors import MissingBackendError
from chipmark.registry import SIMULATED, check_members, is_simulated, load_plugin, split_backend


def backend_factory(kind: str) -> BackendFactory:
    """The factory behind the KIND of a backend's name.

    Raises UnknownNameError, MissingBackendError where its module needs a package that is not here,
    and BrokenPluginError naming the member that it lacks.
    """
    factory: BackendFactory = load_plugin("chipmark.backends", kind)
    check_members("chipmark.backends", kind, factory, BackendFactory)
    return factory


def open_backend(name: str) -> Backend:
    """The backend `KIND:DEVICE`, not yet loaded. Raises what its factory raises, too."""
    kind, device = split_backend(name)
    backend = backend_factory(kind)(device)
    check_members("chipmark.backends", kind, backend, Backend)
    return backend


def needs_weights_file(name: str) -> bool:
    """Whether the weights of a backend `KIND:DEVICE` must be a prepared folder; False where its
    plug-in cannot be imported here to be asked."""
    try:
        return backend_factory(split_backend(name)[0]).needs_weights_file
    except MissingBackendError:
        return False


@dataclass(frozen=True, slots=True)
class Condition:
    """What a simulated device says of its clock and heat, the same at every moment. throttle: the
    reasons that it gives, None where it hides them."""

    nominal_mhz: float
    clock_mhz: float
    temperature_c: float
    throttle: tuple[str, ...] | None


class SimulatedFactory(BackendFactory, Protocol):
    """What the built-in simulated device answers in addition. No other is asked: such answers
    replace the oracle and a meter."""

    def expected_ids(self, tokens: I32, vocab_size: int) -> I32:
        """The id that is sampled after each token, by the closed rule: it stands for the oracle."""
        ...

    def meter_period_s(self, device: str) -> float:
        """How often the device's meter is read; 0 for an exact counter."""
        ...

    def sensor_s(self, device: str) -> float:
        """The period over which the device's sensor averages; 0 where it shows a moment's watts."""
        ...

    def most_w(self, device: str) -> float | None:
        """Watts that the card never exceeds; None of an unknown one."""
        ...

    def dies(self, device: str) -> int:
        """Devices of the card that the device is one of."""
        ...

    def condition(self, device: str) -> Condition:
        """Its clock, heat and throttle reasons."""
        ...


def simulated_factory() -> SimulatedFactory:
    """The built-in simulated device."""
    factory: SimulatedFactory = load_plugin("chipmark.backends", SIMULATED)
    return factory


def virtual_clock(name: str, backend: object) -> Clock | None:
    """The clock that the engine runs on where `backend`, named `KIND:DEVICE`, is the built-in
    simulated device itself; None for all others, also for what derives from it or is made by a
    plug-in: their time is the host's."""
    built_in: object = simulated_factory() if is_simulated(name) else None
    if type(backend) is not built_in:
        return None
    return cast("_Simulated", backend).clock


def counter_samples(backend: object) -> PowerColumns:
    """The exact counter of the built-in simulated device, next to watts that are polled."""
    return cast("_Simulated", backend).counter_samples()


class _Simulated(Protocol):
    clock: Clock

    def counter_samples(self) -> PowerColumns: ...
