"""The state that a simulated device has by its constants: the same at every moment."""

from __future__ import annotations

from chipmark.chips.state import DeviceState, Sample
from chipmark.engine.plugins import simulated_factory


class SimulatedSource:
    """A device by the name after the colon of `sim:NAME`."""

    name = "constants of the simulated device"
    period_s = 1.0
    remarks: tuple[str, ...] = ()

    def __init__(self, device: str) -> None:
        told = simulated_factory().condition(device)
        self._told = told
        self._state = DeviceState(
            clock_mhz=told.clock_mhz,
            nominal_mhz=told.nominal_mhz,
            temperature_c=told.temperature_c,
            throttle=told.throttle,
            ecc_errors=0,
            other_processes=0,
            shared="",
        )

    def read(self) -> DeviceState:
        """The constants."""
        return self._state

    def sample(self) -> Sample:
        """The same, under load."""
        told = self._told
        return Sample(told.clock_mhz, told.temperature_c, told.throttle, loaded=True)
