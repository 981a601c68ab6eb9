"""The meters of a cell while something runs: the row's and the others, started and stopped.

None of them may cost the cell: one that fails, hangs, or hands over what cannot be samples leaves
a note, and its readings are missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from chipmark.codes import NoteCode
from chipmark.errors import ChipmarkError
from chipmark.log import logger_of
from chipmark.meters.contract import Meter, PowerSamples
from chipmark.meters.pick import Picked
from chipmark.meters.replay import samples_fault, save_samples
from chipmark.results.manifest import Note
from chipmark.results.meter_files import power_file
from chipmark_models.plain_text import one_line

_LOG = logger_of(__name__)
LIMIT_S = 30.0
"""After which a meter that is to start or to stop hangs; a tool's own limit is far below."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Readings:
    """What the meters read over one stretch of time."""

    own: PowerSamples | None = None
    """Of the row's meter; None where there is none, or it failed."""
    beside: Mapping[str, PowerSamples] = field(default_factory=dict)
    """Of the others that did not fail, by name."""
    notes: tuple[Note, ...] = ()
    """What went wrong, each once."""

    def save(self, path: Path) -> None:
        """Write the row's to `path` (`power.npz`), the others next to it (`power-NAME.npz`)."""
        if self.own is not None:
            save_samples(path, self.own)
        for name, samples in self.beside.items():
            save_samples(path.with_name(f"{power_file(path.stem, name)}.npz"), samples)


class Metering:
    """Starts and stops the meters of a cell together. One that hung is not asked again."""

    def __init__(self, picked: Picked, limit_s: float = LIMIT_S) -> None:
        self.picked = picked
        self._limit_s = limit_s
        self._hung: list[Meter] = []
        self._running: list[Meter] = []
        self._remarks: dict[str, None] = {}

    def start(self) -> None:
        """Begin sampling, the row's meter last: nothing that takes time lies between it and what
        is measured."""
        self._running, self._remarks = [], {}
        for meter in (*self.picked.beside, self.picked.meter):
            if meter is not None and meter not in self._hung:
                self._start(meter)

    def stop(self) -> Readings:
        """End sampling, the row's meter first, and hand over everything since `start`."""
        own, beside = None, {}
        for meter in reversed(self._running):
            samples = self._stop(meter)
            if samples is None:
                continue
            if meter is self.picked.meter:
                own = samples
            else:
                beside[meter.info.name] = samples
        self._running = []
        notes = tuple(Note(code=NoteCode.METER, text=text) for text in self._remarks)
        return Readings(own, beside, notes)

    def _start(self, meter: Meter) -> None:
        _, fault = self._asked(meter, "start", meter.start)
        if fault:
            self._remark(meter, fault)
        else:
            self._running.append(meter)

    def _stop(self, meter: Meter) -> PowerSamples | None:
        samples, fault = self._asked(meter, "stop", meter.stop)
        if not fault and isinstance(samples, PowerSamples):
            for text in samples.remarks:
                self._remark(meter, text)
            wrong = samples_fault(samples)
            if wrong is None:
                return samples
            fault = f"its readings cannot be used: {' '.join(filter(None, wrong))}"
        self._remark(meter, fault or "handed over no samples")
        return None

    def _asked(self, meter: Meter, verb: str, call: Callable[[], T]) -> tuple[T | None, str]:
        """What a call of a meter returns, and how it failed ("" where it did not). On a thread,
        since what hangs there cannot be interrupted."""
        done = threading.Event()
        answers: list[T] = []
        faults: list[str] = []

        def ask() -> None:
            try:
                answers.append(call())
            except ChipmarkError as error:
                faults.append(error.sentences)
            except Exception as error:  # a plug-in may raise anything
                _LOG.debug("meter %s failed", meter.info.name, exc_info=error)
                faults.append(f"{type(error).__name__}: {error}")
            finally:
                done.set()

        threading.Thread(target=ask, name=f"meter-{verb}", daemon=True).start()
        if not done.wait(self._limit_s):
            self._hung.append(meter)
            return None, f"did not {verb} within {self._limit_s:g} s"
        if faults:
            return None, f"did not {verb}: {one_line(faults[0])}"
        return answers[0] if answers else None, "" if answers else f"did not {verb}"

    def _remark(self, meter: Meter, text: str) -> None:
        _LOG.info("meter %s: %s", meter.info.name, text)
        self._remarks[f"{meter.info.name}: {text}"] = None
