"""The suite fails a backend that breaks the contract, each in the check that is about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chipmark.backends.sim.backend import SimBackend
from chipmark.backends.sim.spec import SPECS
from chipmark.engine import conformance
from chipmark.engine.conformance import ConformanceError, Subject, conformance_load

VOCAB = 97


class IgnoresCopies(SimBackend):
    def _operate(self, cells, op, launches):
        return 0


class ReusesFirstLogits(SimBackend):
    first = None

    def _logits(self, context):
        self.first = super()._logits(context) if self.first is None else self.first
        return self.first


class SeesTheBatch(SimBackend):
    def submit(self, step):
        self._rows = max(launch.rows.seq.size for launch in step.launches)
        super().submit(step)

    def _logits(self, context):
        return super()._logits(context) + np.float32(self._rows)


class RunsBackwards(SimBackend):
    def wait(self):
        done = super().wait()
        launches = tuple(replace(x, start_s=x.end_s, end_s=x.start_s) for x in done.launches)
        return replace(done, launches=launches)


class EndsAfterTheStep(SimBackend):
    def wait(self):
        done = super().wait()
        launches = tuple(replace(x, end_s=x.end_s + 1e-4) for x in done.launches)
        return replace(done, launches=launches)


class BeginsBeforeTheStep(SimBackend):
    def wait(self):
        done = super().wait()
        launches = tuple(replace(x, start_s=x.start_s - 1e-4) for x in done.launches)
        return replace(done, launches=launches[:1] + done.launches[1:])


class Overlaps(SimBackend):
    before = None

    def wait(self):
        done = super().wait()
        first = done.launches[0]
        start = first.start_s if self.before is None else self.before.start_s
        self.before = first
        return replace(done, launches=(replace(first, start_s=start), *done.launches[1:]))


class SwapsTheTwoLargest(SimBackend):
    def wait(self):
        done = super().wait()
        return replace(done, top2=done.top2[:, ::-1])


class KeepsTheFirstTwoLargest(SimBackend):
    first = None

    def wait(self):
        done = super().wait()
        if self.first is None and len(done.top2):
            self.first = done.top2[:1]
        return done if self.first is None else replace(done, top2=0 * done.top2 + self.first)


class SamplesTheLeast(SimBackend):
    def wait(self):
        done = super().wait()
        return replace(done, sampled=(done.sampled + 1) % VOCAB)


class HalfPrecisionLogits(SimBackend):
    def _logits(self, context):
        return super()._logits(context).astype(np.float16)


class FailsWithoutAStep(SimBackend):
    def wait(self):
        return super().wait() if self._queue else [].pop()


class TakesAStepTooMany(SimBackend):
    def submit(self, step):
        caps, self._caps = self._caps, replace(self._caps, in_flight=99)
        super().submit(step)
        self._caps = caps


def subject_of(backend):
    loaded = backend.load(conformance_load({"vocab_size": VOCAB}))
    return Subject(backend, loaded, VOCAB, tolerance=1e-6, clock=backend.clock)


UNVERIFIED_SLOTS = replace(SPECS["golden-slots"], verify=False)


@pytest.mark.parametrize(
    ("backend", "check"),
    [
        (IgnoresCopies(UNVERIFIED_SLOTS), conformance.check_prefix_reuse),
        (ReusesFirstLogits("golden"), conformance.check_sampling),
        (SeesTheBatch("golden-paged"), conformance.check_ragged_batch),
        (RunsBackwards("golden"), conformance.check_times),
        (EndsAfterTheStep("golden"), conformance.check_times),
        (BeginsBeforeTheStep("golden"), conformance.check_times),
        (Overlaps("golden-paged"), conformance.check_times),
        (SamplesTheLeast("golden"), conformance.check_sampling),
        (SwapsTheTwoLargest("golden"), conformance.check_two_largest),
        (KeepsTheFirstTwoLargest("golden"), conformance.check_two_largest),
        (FailsWithoutAStep("golden"), conformance.check_misuse),
        (TakesAStepTooMany("golden"), conformance.check_misuse),
        (HalfPrecisionLogits("golden"), conformance.check_logits_form),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, SimBackend) else value.__name__,
)
def test_the_suite_finds(backend, check):
    with pytest.raises(ConformanceError):
        check(subject_of(backend))


def test_a_virtual_clock_that_the_harness_did_not_give_is_found():
    own = replace(subject_of(SimBackend("golden")), clock=None)
    with pytest.raises(ConformanceError, match="virtual clock"):
        conformance.check_capabilities(own)


def test_too_few_slots_are_found():
    backend = SimBackend("golden-slots-none")
    subject = subject_of(backend)
    promised = replace(subject.loaded, caps=replace(subject.caps, prefix="copy"))
    lying = replace(subject, loaded=promised)
    conformance.check_capabilities(lying)
    few = replace(promised, caps=replace(subject.caps, n_slots=1))
    with pytest.raises(ConformanceError, match="slots"):
        conformance.check_capabilities(replace(subject, loaded=few))
