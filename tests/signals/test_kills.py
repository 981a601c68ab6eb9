"""Runs that are killed at seeded moments, from the start of the interpreter on: nothing is half
written, nothing runs on, no scratch stays, and the same command makes the rest whole."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

SEED_VARIABLE = "CHIPMARK_SIGNALS_SEED"
HOWS = ("alone", "all", "SIGINT", "SIGTERM", "SIGHUP")
MOST_SCRATCH = 1 << 20
EARLY_S = 1.5
"""Until then the interpreter may not have come to chipmark's first line."""

CHAIN = 6
"""Kills into one folder before it is resumed to its end."""

PLACES = {
    ("sim:golden",): 3.0,
    ("sim:golden", "torch:cpu"): 9.0,
}
"""Backends of a run, and the seconds within which it is killed."""


class Trial:
    """Kills at moments drawn from a seed, into folders that are resumed until they are whole."""

    def __init__(self, root: Path, signals: Any, seed: int, side_by_side: int) -> None:
        self.root, self.signals = root, signals
        self.random = random.Random(seed)
        self.side_by_side = side_by_side
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._places = 0

    def run(self, kills: int) -> None:
        """So many kills, a fifth of them of a run with a real model."""
        hows = [HOWS[i % len(HOWS)] for i in range(kills)]
        self.random.shuffle(hows)
        models = [self.random.random() < 0.2 for _ in hows]
        work = {True: [h for h, m in zip(hows, models, strict=True) if m]}
        work[False] = [h for h, m in zip(hows, models, strict=True) if not m]
        chains = [
            (PLACE_OF[model], left[at : at + CHAIN])
            for model, left in work.items()
            for at in range(0, len(left), CHAIN)
        ]
        draws = [random.Random(self.random.random()) for _ in chains]
        with ThreadPoolExecutor(self.side_by_side) as pool:
            list(pool.map(self._chain, chains, draws))

    def _chain(self, chain: tuple[tuple[str, ...], list[str]], draw: random.Random) -> None:
        backends, hows = chain
        place = self._place(backends)
        for how in hows:
            while not self._kill(place, how, draw.uniform(0.0, PLACES[backends])):
                # It had ended before: what follows would only find it done.
                self._whole(place)
                place = self._place(backends)
        self._whole(place)

    def _place(self, backends: tuple[str, ...]) -> Any:
        with self._lock:
            self._places += 1
            number = self._places
        return self.signals.Place(self.root / str(number), backends)

    def _kill(self, place: Any, how: str, moment_s: float) -> bool:
        """One kill; False where the run had ended by then."""
        process = place.start()
        try:
            time.sleep(moment_s)
            alive = process.poll() is None
            if alive:
                self.signals.hit(process, how)
            _, err = process.communicate(timeout=self.signals.ENDS_S)
        finally:
            process.kill()
            process.wait()
        about = f"{how} at {moment_s:.3f} s of {'+'.join(place.backends)}"
        if alive:
            self._count(how)
            self._expect_code(process.returncode, err, how, moment_s, about, place)
        self._expect(about, "orphan", place.orphans())
        self._expect(about, "half record", place.half_records())
        if how not in ("alone", "all") and place.scratch_bytes() > MOST_SCRATCH:
            self._expect(about, "scratch", [str(place.scratch_bytes())])
        return alive

    def _expect_code(
        self, code: int, err: str, how: str, moment_s: float, about: str, place: Any
    ) -> None:
        if how in ("alone", "all"):
            # 0: it had ended between the look and the kill.
            right = code in (-signal.SIGKILL, 0)
        else:
            number = getattr(signal, how)
            right = code == 128 + number and err.count("interrupted by") == 1
            right = right and "Traceback" not in err
            before = code == -number or (code == 1 and "chipmark/" not in err)
            if before and moment_s < EARLY_S:
                self._count("died by the signal before chipmark's first line")
                right = True
            if code == 0:
                right = place.done() == sorted(place.backends)
        self._expect(about, "exit code", [] if right else [f"{code}: {err[-2000:]}"])

    def _whole(self, place: Any) -> None:
        process = place.start()
        _, err = process.communicate(timeout=self.signals.ENDS_S)
        about = f"resume of {'+'.join(place.backends)}"
        self._count("resumes")
        wrong = process.returncode != 0 or place.done() != sorted(place.backends)
        self._expect(about, "resume", [f"{process.returncode}: {err[-2000:]}"] if wrong else [])
        self._expect(about, "orphan", place.orphans())
        self._expect(about, "half record", place.half_records())
        left = [p.name for p in place.out.glob(".*")] + [p.name for p in place.temporary.iterdir()]
        self._expect(about, "scratch", left)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def _expect(self, about: str, what: str, found: list[str]) -> None:
        with self._lock:
            self.counts[f"wrong: {what}"] += len(found)
            self.faults += [f"{about}: {what}: {text}" for text in found]


PLACE_OF = {"torch:cpu" in backends: backends for backends in PLACES}


def trial(root: Path, signals: Any, kills: int, record_property: Any) -> None:
    seed = int(os.environ.get(SEED_VARIABLE, "12"))
    tried = Trial(root, signals, seed, side_by_side=2)
    tried.run(kills)
    told = ", ".join(f"{what} {count}" for what, count in sorted(tried.counts.items()))
    record_property(signals.COUNTS, f"{kills} with seed {seed} ({SEED_VARIABLE}): {told}")
    assert not tried.faults, "\n".join(tried.faults)


def test_eight_kills(tmp_path: Path, signals: Any, record_property: Any) -> None:
    trial(tmp_path, signals, 8, record_property)


@pytest.mark.long
def test_two_hundred_kills(tmp_path: Path, signals: Any, record_property: Any) -> None:
    trial(tmp_path, signals, 200, record_property)
