"""The conformance suite of chipmark on this backend: `pytest`."""

import pytest
from chipmark_recompute import Recompute

from chipmark.engine.conformance import CHECKS, Subject, conformance_load
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import WeightSpec
from chipmark_models.weights.source import WeightRef


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conforms(check):
    weights = WeightSpec(WeightRef("synthetic", "tiny", None, 0), "fp32", None)
    backend = Recompute("cpu")
    loaded = backend.load(conformance_load(weights.to_dict()))
    check(Subject(backend, loaded, vocab_size=preset("tiny").vocab_size, tolerance=1e-4))
    backend.close()
