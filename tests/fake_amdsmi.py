"""amdsmi's bindings over cards of paper: each function answers from the card or raises."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


class AmdSmiException(Exception):
    pass


@dataclass(eq=False)
class PaperCard:
    """`None` is a question that this card does not answer. counter_s, power_s: seconds between
    updates; a counter of 0 never moves. counted: what the counter shows of one joule. power: watts
    by their names in the answer; energy_key: of the accumulator there."""

    pci: str | None = "0000:05:00.0"
    uuid: str | None = "74a1ff0000001002"
    hip_id: int | None = 0
    hip_uuid: str = "GPU-0f0e0d0c0b0a0908"
    partition: str | None = "SPX"
    watts: float = 140.0
    counter_s: float | None = 0.001
    counted: float = 1.0
    resets_s: float | None = None
    resolution: Any = 15.3
    energy_key: str = "energy_accumulator"
    power_s: float = 0.05
    power: Mapping[str, Any] | None = field(
        default_factory=lambda: {"current_socket_power": None, "average_socket_power": "N/A"}
    )
    cap: Any = 750_000_000


class FakeAmdSmi:
    AmdSmiException = AmdSmiException

    def __init__(
        self,
        *cards: PaperCard,
        clock: Callable[[], float] = time.perf_counter,
        broken: str = "",
    ) -> None:
        """clock: seconds that move the sensors. broken: why the driver does not answer."""
        self.cards, self.clock, self.broken = list(cards), clock, broken
        self.opened = 0
        self.start = clock()

    def amdsmi_init(self) -> None:
        self.opened += 1
        if self.broken:
            raise AmdSmiException(self.broken)

    def amdsmi_get_processor_handles(self) -> list[PaperCard]:
        return self.cards

    def amdsmi_get_gpu_device_bdf(self, card: PaperCard) -> str:
        return self._or_raise(card.pci)

    def amdsmi_get_gpu_device_uuid(self, card: PaperCard) -> str:
        return self._or_raise(card.uuid)

    def amdsmi_get_gpu_enumeration_info(self, card: PaperCard) -> dict[str, Any]:
        return {"drm_card": 1, "hip_id": self._or_raise(card.hip_id), "hip_uuid": card.hip_uuid}

    def amdsmi_get_gpu_compute_partition(self, card: PaperCard) -> str:
        return self._or_raise(card.partition)

    def amdsmi_get_energy_count(self, card: PaperCard) -> dict[str, Any]:
        if card.counter_s is None:
            raise AmdSmiException("AMDSMI_STATUS_NOT_SUPPORTED - Feature not supported")
        now = self._seconds()
        if card.resets_s is not None and now >= card.resets_s:
            now -= card.resets_s
        joules = card.watts * card.counted * card.counter_s
        joules *= int(now / card.counter_s) if card.counter_s else 1
        unit = card.resolution if isinstance(card.resolution, float) else 15.3
        return {
            card.energy_key: int(joules * 1e6 / unit) + 8_152_136,
            "counter_resolution": card.resolution,
            "timestamp": int(now * 1e9),
        }

    def amdsmi_get_power_info(self, card: PaperCard) -> dict[str, Any]:
        """A name without a value of its own has the card's watts, a little more each update."""
        found = self._or_raise(card.power)
        tick = int(self._seconds() / card.power_s) % 3 if card.power_s else 0
        return {
            "gfx_voltage": 781,
            **{k: int(card.watts) + tick if v is None else v for k, v in found.items()},
        }

    def amdsmi_get_power_cap_info(self, card: PaperCard) -> dict[str, Any]:
        return {"power_cap": self._or_raise(card.cap), "dpm_cap": 2100}

    def _seconds(self) -> float:
        return self.clock() - self.start

    def _or_raise(self, value: Any) -> Any:
        if value is None:
            raise AmdSmiException("AMDSMI_STATUS_NOT_SUPPORTED - Feature not supported")
        return value
