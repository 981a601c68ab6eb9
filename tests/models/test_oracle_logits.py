"""The oracle against transformers, for every family at small random configs in fp32."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest

from chipmark_models.config import ModelConfig
from chipmark_models.errors import BadInputError
from chipmark_models.presets import preset
from chipmark_models.weights.synthetic import SyntheticWeights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from chipmark_models.oracle import Oracle  # noqa: E402

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama-tied": ("LlamaConfig", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "llama-all-biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama-wide-head": ("LlamaConfig", {"head_dim": 16}),
    "llama3-rope-scaling": ("LlamaConfig", {"head_dim": 16, "rope_parameters": LLAMA3}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2-tied": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 20}),
    "qwen3-tied-bias": (
        "Qwen3Config",
        {"head_dim": 20, "tie_word_embeddings": True, "attention_bias": True},
    ),
    "ernie4_5": ("Ernie4_5Config", {"head_dim": 12}),
    "ernie4_5-untied-bias": (
        "Ernie4_5Config",
        {"head_dim": 12, "tie_word_embeddings": False, "use_bias": True},
    ),
}


def hf_model(case: str) -> tuple[Any, ModelConfig, SyntheticWeights]:
    """The transformers model with synthetic weights, the config read from its own config.json."""
    class_name, fields = CASES[case]
    hf_config = getattr(transformers, class_name)(**(SMALL | fields))
    config = ModelConfig.from_hf(hf_config.to_dict(), case)
    weights = SyntheticWeights(config, seed=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_config(
            hf_config, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        state = {n: torch.from_numpy(weights.read(n)) for n in weights.names()}
        missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config.tied_embeddings else set())
    model.tie_weights()
    return model, config, weights


@pytest.mark.parametrize("case", CASES)
def test_logits_agree_with_transformers(case: str) -> None:
    model, config, weights = hf_model(case)
    rng = np.random.default_rng(3)
    sequences = [rng.integers(0, config.vocab_size, n) for n in (1, 17, 130)]
    ours = Oracle(config, weights.read).logits(sequences)
    for ids, logits in zip(sequences, ours, strict=True):
        with torch.no_grad():
            theirs = model(torch.from_numpy(ids)[None]).logits[0].numpy()
        assert logits.shape == theirs.shape == (len(ids), config.vocab_size)
        assert np.abs(theirs).max() > 2.0  # logits that are no near-zero noise
        assert np.abs(logits - theirs).max() <= 1e-4


@pytest.fixture(scope="module")
def tiny() -> SyntheticWeights:
    return SyntheticWeights(preset("tiny"), 0)


def test_double_precision_is_near_single(tiny: SyntheticWeights) -> None:
    ids = np.arange(300) % 512
    single = Oracle(tiny.config, tiny.read).logits([ids])[0]
    double = Oracle(tiny.config, tiny.read, double=True).logits([ids])[0]
    difference = np.abs(single - double).max()
    assert 0 < difference < 1e-4


def test_positions_select_rows_of_the_full_logits(tiny: SyntheticWeights) -> None:
    ids = [np.arange(40), np.arange(7, 19)]
    full = Oracle(tiny.config, tiny.read).logits(ids)
    some = Oracle(tiny.config, tiny.read).logits(ids, [np.array([39]), np.array([0, 5])])
    np.testing.assert_allclose(some[0], full[0][[39]], atol=1e-5)
    np.testing.assert_allclose(some[1], full[1][[0, 5]], atol=1e-5)


def test_a_later_token_changes_no_earlier_logit(tiny: SyntheticWeights) -> None:
    oracle = Oracle(tiny.config, tiny.read)
    a, b = np.arange(270), np.arange(270)
    b[260] = 500
    first, second = oracle.logits([a, b])
    np.testing.assert_array_equal(first[:260], second[:260])
    assert np.abs(first[260:] - second[260:]).max() > 0.1


def test_read_only_weights_are_taken_without_a_warning(tiny: SyntheticWeights) -> None:
    def read_only(name: str) -> np.ndarray:
        array = tiny.read(name)
        array.flags.writeable = False
        return array

    ids = [np.arange(9)]
    np.testing.assert_array_equal(
        Oracle(tiny.config, read_only).logits(ids)[0], Oracle(tiny.config, tiny.read).logits(ids)[0]
    )


@pytest.mark.parametrize(
    ("ids", "problem"),
    [([], "empty"), ([1, 512], "outside the vocabulary"), ([-1], "outside the vocabulary")],
)
def test_bad_tokens_are_refused(tiny: SyntheticWeights, ids: list[int], problem: str) -> None:
    with pytest.raises(BadInputError, match=problem):
        Oracle(tiny.config, tiny.read).logits([np.array(ids, np.int64)])


def logit_deviation(weights: SyntheticWeights) -> float:
    rng = np.random.default_rng(11)
    ids = rng.integers(0, weights.config.vocab_size, 48)
    logits = Oracle(weights.config, weights.read).logits([ids], [np.arange(8, 48)])[0]
    return float(logits.std(axis=-1).mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_synthetic_logits_deviate_by_two_to_three(seed: int) -> None:
    assert 2.0 <= logit_deviation(SyntheticWeights(preset("tiny"), seed)) <= 3.0


def test_synthetic_logits_deviate_by_two_to_three_untied() -> None:
    config = dataclasses.replace(preset("tiny"), tied_embeddings=False, hidden_size=96)
    assert 2.0 <= logit_deviation(SyntheticWeights(config, 0)) <= 3.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", "ernie-4.5-0.3b"])
def test_synthetic_logits_deviate_by_two_to_three_at_full_size(name: str) -> None:
    assert 2.0 <= logit_deviation(SyntheticWeights(preset(name), 0)) <= 3.0


def test_peak_memory_holds_one_layer_at_a_time() -> None:
    """By construction: never more than one layer's tensors, embedding or head alive."""
    import weakref

    config = dataclasses.replace(preset("tiny"), n_layers=6)
    weights = SyntheticWeights(config, 0)
    alive: list[weakref.ref[Any]] = []
    most = 0

    def counted(name: str) -> np.ndarray:
        nonlocal most
        array = weights.read(name)
        alive.append(weakref.ref(array))
        most = max(most, sum(r() is not None for r in alive))
        return array

    Oracle(config, counted).logits([np.arange(5)])
    assert most <= 9 + 1
