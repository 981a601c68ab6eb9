from __future__ import annotations

import pytest

from chipmark.backends.sim.backend import SimBackend
from chipmark.backends.sim.spec import SPECS
from chipmark.engine.conformance import CHECKS, Subject, conformance_load

VERIFIED = [name for name, spec in SPECS.items() if spec.verify]


@pytest.fixture(scope="module", params=VERIFIED)
def subject(request):
    backend = SimBackend(request.param)
    loaded = backend.load(conformance_load({"vocab_size": 97}))
    yield Subject(backend, loaded, vocab_size=97, tolerance=0.0, clock=backend.clock)
    backend.close()
    backend.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sim_keeps_the_contract(subject, check):
    check(subject)
