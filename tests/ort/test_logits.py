"""Logits of both graphs against the oracle, through submit and wait, over turns with a cache."""

from __future__ import annotations

import numpy as np
import pytest

from chipmark.engine.contract import KvOp

pytest.importorskip("torch")

from chipmark_models.oracle import Oracle

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def case(prepared, helpers):
    """Sequences and their reference logits for a config."""
    made = {}

    def get(config):
        if config.name not in made:
            spec, weights = prepared(config)
            rng = np.random.default_rng(5)
            sequences = [rng.integers(0, config.vocab_size, n) for n in (300, 70, 9, 120)]
            made[config.name] = (spec, sequences, Oracle(config, weights.float32).logits(sequences))
        return made[config.name]

    return get


VARIANTS = {
    "cpu-plain": ("cpu", {"graph": "plain"}),
    "cpu-contrib": ("cpu", {"graph": "contrib"}),
    "cpu-static": ("cpu", {"graph": "plain", "static": True}),
    "cpu-standard": ("cpu", {"graph": "standard"}),
    "cpu-standard-static": ("cpu", {"graph": "standard", "static": True}),
    "openvino": ("openvino", {}),
    "ggml": ("ggml", {}),
}


def two_turns(driver, sequences, reference):
    """Prefill with chunks and growth, ragged decode in changing batches, a second turn on the
    cache, decode again. Returns the largest difference."""
    at, worst = [0] * 4, 0.0

    def compare(done, slot):
        nonlocal worst
        found = done.logits[slot + 10]
        worst = max(worst, float(np.abs(found - reference[slot][at[slot] - 1]).max()))

    for turn_ends in ((150, 40, 2, 60), (280, 55, 6, 100)):
        for slot, end in enumerate(turn_ends):
            done = driver.prefill(slot, at[slot], sequences[slot][at[slot] : end])
            at[slot] = end
            compare(done, slot)
        for batch in ([0, 1, 2, 3], [3, 0], [2], [2, 1, 0]):
            if turn_ends[2] == 2 and 2 not in batch:
                continue
            tokens = [sequences[slot][at[slot] : at[slot] + 1] for slot in batch]
            done = driver.run(batch, [at[slot] for slot in batch], tokens)
            for index, slot in enumerate(batch):
                at[slot] += 1
                compare(done, slot)
                assert done.sampled[index] == reference[slot][at[slot] - 1].argmax()
    return worst, at


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_turns_match_the_oracle(variant, case, helpers, tmp_path):
    device, options = VARIANTS[variant]
    if not helpers.is_here(device):
        pytest.skip(f"{device} is not here")
    spec, sequences, reference = case(helpers.preset("tiny"))
    driver = helpers.Driver(device, spec, tmp_path, options=options)
    assert driver.loaded.ep_coverage == 1.0
    worst, at = two_turns(driver, sequences, reference)
    assert worst < TOLERANCE
    before = driver.run([0], [at[0]], [sequences[0][at[0] : at[0] + 1]]).logits[10]
    copied = driver.run(
        [4],
        [at[0]],
        [sequences[0][at[0] : at[0] + 1]],
        ops=(KvOp("copy", 0, 4, at[0], 14),),
    )
    np.testing.assert_allclose(copied.logits[14], before, atol=TOLERANCE)
    assert copied.launches[0].phase == "kv"
    assert copied.kv_copied_bytes == at[0] * 2 * 3 * 2 * 16 * 4
    driver.backend.close()


@pytest.mark.parametrize("level", ["plain", "standard", "contrib"])
@pytest.mark.parametrize(
    "family", ["llama", "llama-biases", "mistral", "qwen2", "qwen3", "ernie4_5"]
)
def test_every_family_matches_the_oracle(family, level, case, helpers, tmp_path):
    spec, sequences, reference = case(helpers.family_config(family))
    driver = helpers.Driver("cpu", spec, tmp_path, options={"graph": level})
    assert driver.loaded.graph == level
    worst, _ = two_turns(driver, sequences, reference)
    assert worst < TOLERANCE


def test_openvino_matches_the_oracle_for_a_family_with_everything(case, helpers, tmp_path):
    if not helpers.is_here("openvino"):
        pytest.skip("openvino is not here")
    for family in ("llama-biases", "qwen3", "ernie4_5"):
        spec, sequences, reference = case(helpers.family_config(family))
        driver = helpers.Driver("openvino", spec, tmp_path)
        assert two_turns(driver, sequences, reference)[0] < TOLERANCE


def test_rebinding_is_right_and_counted_where_nothing_else_is_safe(
    case, helpers, tmp_path, monkeypatch
):
    from chipmark.backends.ort import binding

    monkeypatch.setattr(
        binding,
        "choose_binding",
        lambda session, device: binding.BindingChoice("rebind", binding.allocate_host),
    )
    spec, sequences, reference = case(helpers.preset("tiny"))
    driver = helpers.Driver("cpu", spec, tmp_path, options={"graph": "plain"})
    assert driver.loaded.bind_is_snapshot
    worst, at = two_turns(driver, sequences, reference)
    assert worst < TOLERANCE
    done = driver.run([0], [at[0]], [sequences[0][at[0] : at[0] + 1]])
    assert done.h2d_bytes > driver.backend._loaded().cache.capacity * 2 * 3 * 2 * 16 * 4


def test_a_decode_step_copies_no_cache(case, helpers, tmp_path):
    spec, sequences, _ = case(helpers.preset("tiny"))
    for level in ("plain", "standard", "contrib"):
        driver = helpers.Driver("cpu", spec, tmp_path, options={"graph": level})
        driver.prefill(0, 0, sequences[0][:100])
        done = driver.run([0], [100], [sequences[0][100:101]])
        assert (done.kv_copied_bytes, done.h2d_bytes) == (0, 0)
