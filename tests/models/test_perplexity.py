"""Perplexity by hand, the oracle's likelihoods against its own logits, and the project's text."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from chipmark_models.perplexity import perplexity
from chipmark_models.quality_text import QualityText, quality_text, sequences_of

TEXTS = Path(__file__).parents[2] / "models" / "chipmark_models" / "perplexity_text"


def test_perplexity_by_hand() -> None:
    # Three tokens of probability 1/2, 1/4, 1/8: the geometric mean is 1/4.
    assert perplexity(math.log(2) + math.log(4) + math.log(8), 3) == pytest.approx(4)
    assert perplexity(0.0, 5) == 1
    assert perplexity(1.0, 0) is None
    assert perplexity(1e6, 1) is None


def test_the_text_is_four_parts_whose_hash_moves_with_every_byte() -> None:
    text = quality_text()
    assert len(text.parts) == len(list(TEXTS.glob("*.txt"))) == 4
    assert all('"tool"' in part for part in text.parts[:3])
    assert any("\u4e00" <= letter <= "\u9fff" for letter in text.parts[2])
    assert text.sha256 == "c4d8509bcf23572bc8f44d84edfe7378609a40b05b6332c0e04b1ce50013d711"


def test_a_part_is_cut_to_the_context_and_one_without_a_second_token_is_left_out() -> None:
    text = QualityText(("abcdef", "x", ""), "")
    (ids,) = sequences_of(text, lambda part: [ord(c) for c in part], 4)
    assert ids.tolist() == [97, 98, 99, 100]
    assert ids.dtype == np.int32


def test_the_oracles_likelihoods_are_those_of_its_logits() -> None:
    pytest.importorskip("torch")
    from chipmark_models.oracle import Oracle
    from chipmark_models.presets import preset
    from chipmark_models.weights.synthetic import SyntheticWeights

    source = SyntheticWeights(preset("tiny"), 0)
    oracle = Oracle(source.config, source.read)
    sequences = [np.arange(3, 40, 3), np.array([7, 7]), np.array([5])]
    found = oracle.token_nll(sequences)
    for ids, logits, nll in zip(sequences, oracle.logits(sequences), found, strict=True):
        wide = logits[:-1].astype(np.float64)
        own = np.log(np.exp(wide).sum(1)) - wide[np.arange(len(ids) - 1), ids[1:]]
        assert nll.shape == (len(ids) - 1,)
        np.testing.assert_allclose(nll, own, atol=1e-5)


@pytest.mark.parametrize("rows", [8192, 3])
def test_a_head_of_zeros_gives_every_token_the_same_chance(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perplexity is then the size of the vocabulary, in however many parts the head is taken."""
    pytest.importorskip("torch")
    from chipmark_models import oracle
    from chipmark_models.presets import preset
    from chipmark_models.tensors import EMBEDDING, HEAD
    from chipmark_models.weights.synthetic import SyntheticWeights

    monkeypatch.setattr(oracle, "_SCORED_ROWS", rows if rows > 100 else 100)
    source = SyntheticWeights(preset("tiny"), 0)
    last = EMBEDDING if source.config.tied_embeddings else HEAD

    def zeros(name: str) -> np.ndarray:
        found = source.read(name)
        return found * 0 if name == last else found

    (nll,) = oracle.Oracle(source.config, zeros).token_nll([np.arange(20)])
    assert perplexity(float(nll.sum()), len(nll)) == pytest.approx(source.config.vocab_size)
