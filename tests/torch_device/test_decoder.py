"""Logits of the decoder with cached keys and values against the oracle and transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from chipmark_models.config import ModelConfig, RopeScaling
from chipmark_models.decoder.reading import split_pairs
from chipmark_models.decoder.slots import torch_ops
from chipmark_models.decoder.slots.decoder import Decoder
from chipmark_models.decoder.slots.kv import Span
from chipmark_models.decoder.slots.linear import CALLS, STORE, fits_fp16, packing_available
from chipmark_models.decoder.slots.ops import TABLE
from chipmark_models.errors import UnknownNameError
from chipmark_models.oracle import Oracle
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import ComputedWeights, prepare
from chipmark_models.weights.source import WeightRef
from chipmark_models.weights.synthetic import SyntheticWeights

CPU = torch.device("cpu")
TINY = preset("tiny")
CONFIGS: dict[str, ModelConfig] = {
    "llama-tied": TINY,
    "llama3-scaling-untied": replace(
        TINY,
        tied_embeddings=False,
        rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 64),
        attn_out_bias=True,
        qkv_bias=True,
        mlp_bias=True,
    ),
    "mistral": replace(TINY, family="mistral", tied_embeddings=False, n_heads=4, head_dim=24),
    "qwen2-qkv-bias": replace(TINY, family="qwen2", qkv_bias=True),
    "qwen3-qk-norm": replace(TINY, family="qwen3", qk_norm=True, head_dim=32),
    "ernie-interleaved": replace(TINY, family="ernie4_5", rope_interleaved=True),
    "ernie-bias": replace(
        TINY, family="ernie4_5", rope_interleaved=True, qkv_bias=True, n_kv_heads=6
    ),
}


@pytest.fixture(autouse=True)
def one_thread():
    # Barriers of two threads cost a scheduler's slice each on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def decoder(config: ModelConfig, precision: str = "fp32", **more) -> Decoder:
    weights = ComputedWeights(SyntheticWeights(config, 3), precision)
    return Decoder(weights, CPU, **({"n_slots": 3, "max_context": 160} | more))


def sequences(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, TINY.vocab_size, n) for n in lengths]


def oracle(config: ModelConfig, precision: str, ids: list[np.ndarray]) -> list[np.ndarray]:
    weights = ComputedWeights(SyntheticWeights(config, 3), precision)
    return Oracle(config, weights.float32).logits(ids)


def step(model: Decoder, rows: list[tuple[int, int, np.ndarray]]) -> np.ndarray:
    """One launch of rows (slot, start, tokens); logits of every row's last token."""
    spans, first = [], 0
    for slot, start, tokens in rows:
        spans.append(Span(slot, start, len(tokens), first))
        first += len(tokens)
    tokens = np.concatenate([tokens for _, _, tokens in rows])
    return model.forward(tokens, spans, range(len(rows))).float().numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_the_oracles_over_chunks_turns_and_ragged_batches(name):
    config = CONFIGS[name]
    a, b, c = sequences(70, 45, 9)
    expected = oracle(config, "fp32", [a, b, c])
    model = decoder(config)
    got = [
        # cold, ragged; then appended chunks next to a cold row; then decode, ragged.
        (step(model, [(2, 0, a[:33]), (0, 0, b[:20])]), [(0, 32), (1, 19)]),
        (
            step(model, [(0, 20, b[20:41]), (2, 33, a[33:66]), (1, 0, c[:8])]),
            [(1, 40), (0, 65), (2, 7)],
        ),
        (
            step(model, [(2, 66, a[66:67]), (1, 8, c[8:]), (0, 41, b[41:42])]),
            [(0, 66), (2, 8), (1, 41)],
        ),
        (step(model, [(2, 67, a[67:68])]), [(0, 67)]),
        (step(model, [(2, 68, a[68:])]), [(0, 69)]),
    ]
    for logits, rows in got:
        for found, (which, position) in zip(logits, rows, strict=True):
            assert np.abs(found - expected[which][position]).max() <= 1e-4


@pytest.mark.parametrize(("precision", "allowed"), [("bf16", 0.08), ("fp16", 0.01)])
@pytest.mark.parametrize("name", ["llama-tied", "qwen3-qk-norm", "ernie-interleaved"])
def test_sixteen_bit_stays_near_the_oracle_of_the_rounded_weights(name, precision, allowed):
    (a,) = sequences(40)
    expected = oracle(CONFIGS[name], precision, [a])[0]
    model = decoder(CONFIGS[name], precision)
    for start, stop in ((0, 30), (30, 38), (38, 39), (39, 40)):
        found = step(model, [(1, start, a[start:stop])])[0]
        error = np.sqrt(np.mean((found - expected[stop - 1]) ** 2))
        assert error / expected[stop - 1].std() < allowed
    assert model.kv.layers[0].dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def test_a_copied_prefix_continues_as_the_original_does():
    (a,) = sequences(50)
    expected = oracle(TINY, "fp32", [a])[0]
    model = decoder(TINY)
    step(model, [(0, 0, a[:30])])
    step(model, [(1, 0, a[::-1].copy()[:40])])  # what the slot held before has no influence
    copied = model.kv.copy(0, 1, 30)
    assert copied == 30 * 2 * TINY.n_layers * TINY.n_kv_heads * TINY.head_dim * 4
    found = step(model, [(1, 30, a[30:]), (0, 30, a[30:40])])
    assert np.abs(found[0] - expected[49]).max() <= 1e-4
    assert np.abs(found[1] - expected[39]).max() <= 1e-4


def test_a_decode_step_neither_moves_nor_reallocates_the_cache():
    (a,) = sequences(20)
    model = decoder(TINY)
    step(model, [(0, 0, a[:10])])
    where = [t.data_ptr() for t in model.kv.layers]
    before = [t[0, :, :10].clone() for t in model.kv.layers]
    for i in range(10, 15):
        step(model, [(0, i, a[i : i + 1])])
    assert where == [t.data_ptr() for t in model.kv.layers]
    after = [t[0, :, :10] for t in model.kv.layers]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_logits_are_made_for_sampled_rows_only():
    (a,) = sequences(20)
    model = decoder(TINY)
    spans = [Span(0, 0, 12, 0), Span(1, 0, 8, 12)]
    assert model.forward(a, spans, []).shape == (0, TINY.vocab_size)
    assert model.forward(a, spans, [1]).shape == (1, TINY.vocab_size)


def test_prepared_weights_load_as_the_computed_ones(tmp_path):
    (a,) = sequences(12)
    weights = prepare(WeightRef("synthetic", "tiny", None, 3), "bf16", tmp_path)
    loaded = Decoder(weights, CPU, n_slots=1, max_context=16)
    computed = decoder(TINY, "bf16", n_slots=1, max_context=16)
    found, expected = (step(m, [(0, 0, a)]) for m in (loaded, computed))
    assert np.array_equal(found, expected)
    assert torch.equal(loaded.weights.embedding, computed.weights.embedding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 5])
def test_every_storage_and_call_gives_the_product(dtype, rows):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 24, generator=generator).to(dtype)
    x = torch.randn(rows, 24, generator=generator)
    expected = x.double() @ weight.double().t()
    calls = {"columns": ["mm"] + ["halves"] * (rows == 1), "rows": ["linear", "widened"]}
    if dtype != torch.float32:
        calls["rows"] += ["mv"] * (rows == 1)
        calls.pop("columns")
        if packing_available():
            calls["packed-fp16"] = ["packed"]
    for storage, names in calls.items():
        stored = STORE[storage](weight.clone())
        for name in names:
            out = CALLS[name](x, stored)
            allowed = 1e-5 if dtype == torch.float32 or name == "packed" else 0.1
            assert out.dtype == torch.float32, name
            assert (out.double() - expected).abs().max() < allowed, (storage, name)


def test_weights_beyond_float16_are_not_packed():
    assert fits_fp16(torch.tensor([[1.5, -0.25]], dtype=torch.bfloat16))
    assert not fits_fp16(torch.tensor([[1e6, 1.0]], dtype=torch.bfloat16))
    assert not fits_fp16(torch.tensor([[1e-9, 1.0]], dtype=torch.bfloat16))


def test_split_pairs_turns_interleaved_pairs_into_halves():
    rows = torch.arange(8.0)  # two heads of two pairs
    assert split_pairs(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_an_operation_can_be_replaced():
    calls = []

    def counted(residual, x, weight):
        calls.append(x.shape)
        return torch_ops.down_add(residual, x, weight)

    ops = TABLE.select(TABLE.resolve(None, "torch"))
    (a,) = sequences(7)
    step(decoder(TINY, ops=replace(ops, down_add=counted)), [(0, 0, a)])
    assert len(calls) == TINY.n_layers


def test_an_unknown_operation_or_implementation_is_refused():
    with pytest.raises(UnknownNameError, match="down_add"):
        TABLE.resolve({"down_ad": "torch"}, "torch")
    with pytest.raises(UnknownNameError, match="implementation of down_add"):
        TABLE.resolve({"down_add": "triton"}, "torch")


def test_the_implementation_has_every_operation():
    assert set(torch_ops.OPS) == set(TABLE.operations)


def test_logits_equal_those_of_transformers_with_its_cache():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = replace(TINY, n_heads=4)  # transformers wants hidden_size % n_heads == 0
    source = SyntheticWeights(config, 3)
    hf = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=TINY.vocab_size,
            hidden_size=TINY.hidden_size,
            intermediate_size=TINY.intermediate_size,
            num_hidden_layers=TINY.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=TINY.n_kv_heads,
            head_dim=TINY.head_dim,
            rms_norm_eps=TINY.rms_eps,
            rope_theta=TINY.rope_theta,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )
    ).eval()
    state = {name: torch.from_numpy(source.read(name)) for name in source.names()}
    hf.load_state_dict(state, strict=False)
    (a,) = sequences(24)
    model = decoder(config)
    with torch.no_grad():
        first = hf(torch.from_numpy(a[None, :20]), use_cache=True)
        cache = first.past_key_values
        assert np.abs(step(model, [(0, 0, a[:20])])[0] - first.logits[0, -1].numpy()).max() <= 1e-4
        for i in range(20, 24):
            out = hf(torch.from_numpy(a[None, i : i + 1]), past_key_values=cache, use_cache=True)
            found = step(model, [(0, i, a[i : i + 1])])[0]
            assert np.abs(found - out.logits[0, -1].numpy()).max() <= 1e-4
