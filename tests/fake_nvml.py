"""NVML's bindings over cards of paper: each function answers from the card or raises NVMLError."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


@dataclass(eq=False)
class PaperCard:
    """`None` is a property that this card does not support. counter_s, power_s: seconds between
    updates; a counter of 0 never moves. resets_s: when the counter begins anew, as it does where
    the driver is loaded again. instant, average, usage: the calls for power that it answers;
    fields: whether it answers queries of fields at all. module_w: by the module's scope. samples_s:
    seconds between the samples that its driver keeps, with times of their own."""

    name: str = "NVIDIA H200"
    uuid: str = "GPU-aaaa0000-1111-2222-3333-444444444444"
    pci: str = "00000000:17:00.0"
    memory: int = 141 << 30
    watts: float = 200.0
    counter_s: float | None = 0.02
    power_s: float = 0.02
    resets_s: float | None = None
    fields: bool = True
    instant: bool = True
    average: bool = False
    usage: bool = True
    module_w: float | None = None
    samples_s: float | None = None
    virtualization: int | None = 0
    limit: int | None = 700_000
    default: int | None = 700_000
    mig: tuple[int, int] = (0, 0)
    parent: PaperCard | None = None
    slices: int | None = None
    children: list[PaperCard] = field(default_factory=list)
    reasons: int | None = 0x1
    capability: tuple[int, int] = (9, 0)
    clock: int | None = None
    most: int | None = None
    celsius: int | None = None
    errors: int | None = None
    pids: list[int] | None = None
    use: int | None = None


class FakeNvml:
    """Functions that the code under test does not know of raise, as an old driver does."""

    NVMLError = NVMLError
    NVML_FI_DEV_POWER_AVERAGE = 185
    NVML_FI_DEV_POWER_INSTANT = 186
    NVML_FI_DEV_POWER_CURRENT_LIMIT = 190
    NVML_POWER_SCOPE_MODULE = 1
    NVML_TOTAL_POWER_SAMPLES = 0
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0

    def __init__(
        self,
        *cards: PaperCard,
        clock: Callable[[], float] = time.perf_counter,
        unix: Callable[[], float] = time.time,
    ) -> None:
        """clock: seconds that move the sensors. unix: seconds by which samples are dated."""
        self.cards = list(cards)
        self.opened = self.shut = 0
        self.clock, self.unix = clock, unix
        self.start = clock()

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.shut += 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> PaperCard:
        if not 0 <= index < len(self.cards):
            raise NVMLError("Invalid Argument")
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> PaperCard:
        for card in self.cards:
            for part in (card, *card.children):
                if part.uuid == uuid:
                    return part
        raise NVMLError("Not Found")

    def nvmlDeviceGetName(self, card: PaperCard) -> bytes:
        return card.name.encode()

    def nvmlDeviceGetUUID(self, card: PaperCard) -> str:
        return card.uuid

    def nvmlDeviceGetMemoryInfo(self, card: PaperCard) -> Any:
        return SimpleNamespace(total=card.memory)

    def nvmlDeviceGetPciInfo(self, card: PaperCard) -> Any:
        if card.parent is not None:
            raise NVMLError("Invalid Argument")
        return SimpleNamespace(busId=card.pci.encode())

    def nvmlDeviceGetEnforcedPowerLimit(self, card: PaperCard) -> Any:
        return self._or_raise(card.limit)

    def nvmlDeviceGetPowerManagementDefaultLimit(self, card: PaperCard) -> Any:
        return self._or_raise(card.default)

    def nvmlDeviceGetMigMode(self, card: PaperCard) -> Any:
        return self._or_raise(None if card.parent else card.mig)

    def nvmlDeviceIsMigDeviceHandle(self, card: PaperCard) -> int:
        return int(card.parent is not None)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, card: PaperCard) -> Any:
        return self._or_raise(card.parent)

    def nvmlDeviceGetMaxMigDeviceCount(self, card: PaperCard) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: PaperCard, index: int) -> Any:
        return self._or_raise(card.children[index] if index < len(card.children) else None)

    def nvmlDeviceGetAttributes(self, card: PaperCard) -> Any:
        return SimpleNamespace(gpuInstanceSliceCount=self._or_raise(card.slices))

    def nvmlDeviceGetTotalEnergyConsumption(self, card: PaperCard) -> int:
        if card.counter_s is None or card.parent is not None:
            raise NVMLError("Not Supported")
        now = self._seconds()
        if card.resets_s is not None and now >= card.resets_s:
            now -= card.resets_s
        ticks = int(now / card.counter_s) if card.counter_s else 5
        return int(ticks * card.counter_s * card.watts * 1000)

    def nvmlDeviceGetFieldValues(self, card: PaperCard, fields: list[Any]) -> list[Any]:
        """Milliwatts; a field with a scope is a pair. A field that the card does not have is
        answered with a code of its own."""
        if not card.fields or card.parent is not None:
            raise NVMLError("Not Supported")
        return [self._field(card, *(one if isinstance(one, tuple) else (one, 0))) for one in fields]

    def _field(self, card: PaperCard, field: int, scope: int) -> Any:
        own = {186: card.instant, 185: card.average, 190: card.limit is not None}[field]
        value = None
        if scope == self.NVML_POWER_SCOPE_MODULE and card.module_w is not None:
            value = 1_000_000 if field == 190 else int(card.module_w * 1000) + self._tick(card)
        elif scope == 0 and own:
            value = card.limit if field == 190 else self._milliwatts(card)
        answer = SimpleNamespace(uiVal=value or 0)
        return SimpleNamespace(nvmlReturn=3 if value is None else 0, value=answer)

    def nvmlDeviceGetPowerUsage(self, card: PaperCard) -> int:
        if not card.usage:
            raise NVMLError("Not Supported")
        return self._milliwatts(card)

    def nvmlDeviceGetSamples(self, card: PaperCard, kind: int, since_us: int) -> Any:
        """What the driver kept of the last 120 updates of power, newer than `since_us`."""
        if card.samples_s is None or kind != self.NVML_TOTAL_POWER_SAMPLES:
            raise NVMLError("Not Supported")
        last = int(self._seconds() / card.samples_s)
        begin = self.unix() - self._seconds()
        kept = [
            SimpleNamespace(
                timeStamp=int((begin + k * card.samples_s) * 1e6),
                sampleValue=SimpleNamespace(uiVal=int(card.watts * 1000) + k % 7),
            )
            for k in range(last - 119, last + 1)
        ]
        new = [sample for sample in kept if sample.timeStamp > since_us]
        if not new:
            raise NVMLError("Not Found")
        return 1, new

    def nvmlDeviceGetVirtualizationMode(self, card: PaperCard) -> Any:
        return self._or_raise(card.virtualization)

    def nvmlDeviceGetCurrentClocksEventReasons(self, card: PaperCard) -> Any:
        return self._or_raise(card.reasons)

    def nvmlDeviceGetCudaComputeCapability(self, card: PaperCard) -> tuple[int, int]:
        return card.capability

    def nvmlDeviceGetClockInfo(self, card: PaperCard, which: int) -> Any:
        return self._or_raise(card.clock if which == self.NVML_CLOCK_SM else None)

    def nvmlDeviceGetMaxClockInfo(self, card: PaperCard, which: int) -> Any:
        return self._or_raise(card.most if which == self.NVML_CLOCK_SM else None)

    def nvmlDeviceGetTemperature(self, card: PaperCard, sensor: int) -> Any:
        return self._or_raise(card.celsius)

    def nvmlDeviceGetTotalEccErrors(self, card: PaperCard, kind: int, counter: int) -> Any:
        assert (kind, counter) == (1, 0)  # uncorrected, volatile
        return self._or_raise(card.errors)

    def nvmlDeviceGetComputeRunningProcesses(self, card: PaperCard) -> Any:
        return [SimpleNamespace(pid=pid) for pid in self._or_raise(card.pids)]

    def nvmlDeviceGetUtilizationRates(self, card: PaperCard) -> Any:
        return SimpleNamespace(gpu=self._or_raise(card.use))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def missing(*_: Any) -> None:
            raise NVMLError(f"{name} is not supported")

        return missing

    def _seconds(self) -> float:
        return self.clock() - self.start

    def _milliwatts(self, card: PaperCard) -> int:
        return int(card.watts * 1000) + self._tick(card)

    def _tick(self, card: PaperCard) -> int:
        """A little more with each update, so that updates of power can be seen."""
        return int(self._seconds() / card.power_s) % 7 if card.power_s else 0

    def _or_raise(self, value: Any) -> Any:
        if value is None:
            raise NVMLError("Not Supported")
        return value


def split_card(profile: str = "1g.18gb", slices: int | None = 1) -> tuple[PaperCard, PaperCard]:
    """An H200 in MIG mode with one slice of it."""
    card = PaperCard(mig=(1, 1))
    part = PaperCard(
        name=f"NVIDIA H200 MIG {profile}",
        uuid="MIG-99990000-5555-6666-7777-888888888888",
        memory=18 << 30,
        parent=card,
        slices=slices,
    )
    card.children.append(part)
    return card, part
