"""Perplexity of real weights: smollm2-135m on the project's text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chipmark.results.manifest import QualityResult
from chipmark.results.quality_loss import quality_lost
from chipmark_models.perplexity import perplexity
from chipmark_models.pull import installed, resolve_model
from chipmark_models.quality_text import quality_text, sequences_of
from chipmark_models.weights.prepared import WeightSpec, open_any

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        installed("smollm2-135m") is None,
        reason="smollm2-135m is not pulled: chipmark models pull smollm2-135m",
    ),
]

SOURCE, W4 = 15.3676, 22.854
"""Of the whole text, by the oracle in fp32; w4 with activations rounded to bf16."""


def test_smollm2_has_its_golden_perplexity_and_w4_is_barred(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tokenizers")
    from chipmark_models.oracle import Oracle
    from chipmark_models.rounding import ROUNDINGS
    from chipmark_models.tokenizer import open_tokenizer

    ref = resolve_model("smollm2-135m")
    sequences = sequences_of(quality_text(), open_tokenizer(ref).encode, 8192)
    assert [len(ids) for ids in sequences] == [547, 547, 550, 329]
    sums = []
    for precision, rounding in (("fp32", None), ("w4", ROUNDINGS["bf16"])):
        weights = open_any(WeightSpec(ref, precision, None))
        found = Oracle(weights.config, weights.float32, rounding=rounding).token_nll(sequences)
        sums.append(float(np.concatenate(found).sum()))
    assert perplexity(sums[0], 1969) == pytest.approx(SOURCE, rel=1e-3)
    # bf16 rounds in another order on another CPU.
    assert perplexity(sums[1], 1969) == pytest.approx(W4, rel=2e-2)
    stored = QualityResult(reason=None, tokens=1969, nll_source=sums[0], nll=sums[1])
    assert "over the source's 15.37" in quality_lost(stored)
