"""Triton's driver where there is no device, so that its own launchers can compile for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from chipmark_kernels.device import DeviceFacts


def target_of(device: DeviceFacts) -> GPUTarget:
    """What Triton calls the device."""
    return GPUTarget(device.vendor, device.arch, device.warp_size)


class StandInDriver:
    """Answers what `kernel.warmup` asks of a driver; it can launch nothing.

    Kernels keep what they compiled by device in memory. Each stand-in is a device of its own, so
    that nothing is found there, and nothing of it is found by a real device.
    """

    def __init__(self, device: DeviceFacts) -> None:
        self._target = target_of(device)

    def get_current_target(self) -> GPUTarget:
        """The device that is compiled for."""
        return self._target

    def get_current_device(self) -> StandInDriver:
        """A key of kernels' caches in memory."""
        return self

    def get_current_stream(self, device: object = None) -> int:
        """Nothing is queued on it."""
        return 0


@contextmanager
def standing_in(device: DeviceFacts) -> Iterator[None]:
    """Triton takes `device` for the one at hand; the driver before is put back."""
    # The property would ask for a real one and raise where there is none.
    before = driver._active
    driver.set_active(StandInDriver(device))
    try:
        yield
    finally:
        driver.set_active(before)
