"""The decoder over pages against the oracle: chunks, turns, ragged rows, shared pages, padding."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from chipmark_kernels import manifest
from chipmark_kernels.device import TARGETS
from chipmark_kernels.launch import Launch, recording
from chipmark_kernels.reference.attention import prefill_attention_reference
from chipmark_models.decoder.op_table import SEPARATE
from chipmark_models.decoder.paged import ops as paged_ops
from chipmark_models.decoder.paged import torch_ops as paged_torch
from chipmark_models.decoder.paged.decoder import PagedBatch, PagedDecoder
from chipmark_models.decoder.paged.designs import DESIGNS, designs_for
from chipmark_models.decoder.paged.kv import token_places
from chipmark_models.errors import UnknownNameError
from chipmark_models.oracle import Oracle
from chipmark_models.presets import preset
from chipmark_models.rounding import Rounding, round_rows_fp8
from chipmark_models.weights.prepared import ComputedWeights
from chipmark_models.weights.synthetic import SyntheticWeights

CPU = torch.device("cpu")
TINY = preset("tiny")
PAGE, WIDTH = 16, 8
CONFIGS = {
    "llama-tied": TINY,
    "biases-untied": replace(
        TINY, tied_embeddings=False, attn_out_bias=True, qkv_bias=True, mlp_bias=True
    ),
    "qwen3-qk-norm": replace(TINY, family="qwen3", qk_norm=True, head_dim=32),
    "ernie-interleaved": replace(TINY, family="ernie4_5", rope_interleaved=True),
}
Row = tuple[int, np.ndarray, list[int]]  # tokens cached, new tokens, pages


def decoder(config, precision="fp32", chosen=None, default="triton", **more) -> PagedDecoder:
    weights = ComputedWeights(SyntheticWeights(config, 3), precision)
    ops = paged_ops.TABLE.select(paged_ops.TABLE.resolve(chosen, default))
    fields = {"n_pages": 24, "max_context": PAGE * WIDTH, "page_tokens": PAGE}
    if precision in ("w8", "w4", "fp8"):
        # The interpreter multiplies bf16 wrongly; float32 holds every bf16 value.
        fields["activation"] = torch.float32
    return PagedDecoder(weights, CPU, ops, **(fields | more))


def batch(rows: list[Row], pad_to: int = 0) -> PagedBatch:
    """A launch of rows; decode where every row has one token, then padded to `pad_to` rows."""
    start = np.array([r[0] for r in rows], np.int32)
    length = np.array([len(r[1]) for r in rows], np.int32)
    pages = np.full((len(rows), WIDTH), -1, np.int32)
    for i, (_, _, held) in enumerate(rows):
        pages[i, : len(held)] = held
    positions, slots = token_places(start, length, pages, PAGE)
    ids = np.concatenate([r[1] for r in rows]).astype(np.int32)
    lens = start + length
    if (length == 1).all():
        more = max(0, pad_to - len(rows))
        columns = (np.pad(ids, (0, more)), np.pad(positions, (0, more)))
        slots = np.pad(slots, (0, more), constant_values=-1)
        pages = np.pad(pages, ((0, more), (0, 0)), constant_values=-1)
        lens = np.pad(lens, (0, more))
        return PagedBatch(*map(torch.from_numpy, (*columns, slots, pages, lens)))
    cu = np.concatenate(([0], np.cumsum(length))).astype(np.int32)
    arrays = (ids, positions, slots, pages, lens, cu, cu[1:] - 1)
    return PagedBatch(*map(torch.from_numpy, arrays))


def step(model: PagedDecoder, rows: list[Row], pad_to: int = 0) -> np.ndarray:
    return model.forward(batch(rows, pad_to))[: len(rows)].float().numpy()


def sequences(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, TINY.vocab_size, n).astype(np.int32) for n in lengths]


def turns(model: PagedDecoder, a: np.ndarray, b: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Logits by (sequence, position): cold ragged chunks that end next to page boundaries, an
    appended turn, and padded decode of unequal rows. b shares a's first page."""
    found = {}
    pages_a, pages_b = [3, 20, 7, 1], [3, 5, 9]

    def note(rows, names, pad_to=0):
        for logits, (which, position) in zip(step(model, rows, pad_to), names, strict=True):
            found[which, position] = logits

    note([(0, a[:17], pages_a)], [(0, 16)])
    note([(17, a[17:31], pages_a), (16, b[16:20], pages_b)], [(0, 30), (1, 19)])
    note([(31, a[31:32], pages_a), (20, b[20:21], pages_b)], [(0, 31), (1, 20)], 4)
    note([(32, a[32:33], pages_a)], [(0, 32)])
    note([(33, a[33:40], pages_a), (21, b[21:33], pages_b)], [(0, 39), (1, 32)])
    return found


def shared_pair() -> tuple[np.ndarray, np.ndarray]:
    a, b = sequences(40, 33)
    b[:PAGE] = a[:PAGE]
    return a, b


# Two layers with everything that a family may have, because the interpreter takes seconds a launch.
ALL = replace(
    TINY, family="ernie4_5", rope_interleaved=True, qk_norm=True, qkv_bias=True, n_layers=2
)
CASES = [("all", "triton"), *((name, by) for name in CONFIGS for by in ("torch", "reference"))]


@pytest.mark.parametrize(("name", "default"), CASES)
def test_logits_are_the_oracles(name: str, default: str) -> None:
    config = (CONFIGS | {"all": ALL})[name]
    a, b = shared_pair()
    weights = ComputedWeights(SyntheticWeights(config, 3), "fp32")
    expected = Oracle(config, weights.float32).logits([a, b])
    model = decoder(config, default=default)
    with torch.inference_mode():
        for cache in (*model.kv.k, *model.kv.v):
            cache.fill_(torch.nan)  # what was not written must have no influence
    for (which, position), logits in turns(model, a, b).items():
        assert np.abs(logits - expected[which][position]).max() <= 1e-4


@pytest.mark.parametrize(
    ("name", "by"), [("qwen3-qk-norm", "fused"), ("llama-tied", "fused_ahead")]
)
def test_joined_attention_gives_the_logits_of_the_separate_operations(name: str, by: str) -> None:
    # A prompt, then steps of unequal rows across a page's end, a padded row with them, and one row.
    config = replace(CONFIGS[name], n_layers=2)
    a, b = sequences(20, 17)
    kernels = dict.fromkeys(("rope_kv", "decode_attention"), "triton")
    apart, joined = (
        decoder(config, chosen=kernels | more, default="torch")
        for more in ({}, {"rope_decode_attention": by})
    )
    assert apart.ops.rope_decode_attention is None
    for start in (14, 15, 16):
        rows: list[Row] = [(start, a[start : start + 1], [3, 7])]
        if start < 16:
            rows.append((start - 13, b[start - 13 : start - 12], [5]))
        logits = []
        for model in (apart, joined):
            if start == 14:
                step(model, [(0, a[:14], [3]), (0, b[:1], [5])])
            logits.append(step(model, rows, 3 if start < 16 else 0))
        assert np.abs(logits[0] - logits[1]).max() <= 1e-5
    for one, other in zip(*((*m.kv.k, *m.kv.v) for m in (apart, joined)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def two_launches(model: PagedDecoder, a: np.ndarray) -> np.ndarray:
    """A prompt's logits and those of one decoded token."""
    first = step(model, [(0, a[:5], [2])])
    return np.concatenate((first, step(model, [(5, a[5:6], [2])])))


@pytest.mark.parametrize(
    ("precision", "furthest"),
    [
        ("fp16", 5e-3),
        ("w8", 1e-4),
        ("w4", 1e-4),
        pytest.param("fp8", 1e-4, marks=pytest.mark.long),
    ],
)
def test_other_precisions_stay_near_the_oracle_of_their_weights(
    precision, furthest, logit_loss: Any
) -> None:
    (a,) = sequences(6)
    weights = ComputedWeights(SyntheticWeights(TINY, 3), precision)
    expected = Oracle(TINY, weights.float32).logits([a])[0][4:]
    found = two_launches(decoder(TINY, precision), a)
    assert logit_loss([expected], [found]).rms_rel < furthest


def test_a_prompt_in_fp8_is_the_oracle_with_rounded_activations(logit_loss: Any) -> None:
    # The interpreter loses the carry of e4m3's rounding, so torch quantises the rows here.
    (a,) = sequences(paged_ops.FEW_ROWS + 1)
    weights = ComputedWeights(SyntheticWeights(TINY, 3), "fp8")
    plain, rounded = (
        Oracle(TINY, weights.float32, rounding=rounding).logits([a])[0][-1:]
        for rounding in (None, Rounding(round_rows_fp8, lambda x: x))
    )
    pages = list(range(5))
    found = step(decoder(TINY, "fp8", {"quantise_rows": "torch"}), [(0, a, pages)])
    assert logit_loss([rounded], [found]).rms_rel < 0.03
    assert logit_loss([plain], [found]).rms_rel > 0.05


@pytest.mark.parametrize("default", ["torch", "reference"])
@pytest.mark.parametrize(("rows", "quantised"), [(64, False), (65, True)])
def test_only_launches_of_over_64_rows_quantise_activations(default, rows, quantised) -> None:
    seen = []
    model = decoder(replace(TINY, n_layers=1), "fp8", default=default)
    counted = lambda *args: seen.append(args) or paged_torch.quantise_rows(*args)  # noqa: E731
    model.ops = replace(model.ops, quantise_rows=counted)
    (ids,) = sequences(rows)
    step(model, [(0, ids, list(range(5)))])
    assert len(seen) == (4 if quantised else 0)


def test_a_padded_row_changes_no_page_and_no_other_row() -> None:
    (a,) = sequences(20)
    config = replace(TINY, n_layers=1)
    models = [decoder(config), decoder(config)]
    for model, pad_to in zip(models, (0, 3), strict=True):
        step(model, [(0, a[:3], [2, 0])])
        step(model, [(3, a[3:4], [2, 0])], pad_to)
    for one, other in zip(*((*m.kv.k, *m.kv.v) for m in models), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_torch_attends_to_a_cold_prompt_without_a_mask_and_never_copies_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[bool, bool, int]] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **more: Any) -> torch.Tensor:
        asked.append((more["is_causal"], more["attn_mask"] is None, k.shape[1]))
        return attend(q, k, v, **more)

    monkeypatch.setattr(paged_torch.functional, "scaled_dot_product_attention", counted)
    made = torch.Generator().manual_seed(3)
    q = torch.randn(40 + 5, 4, 16, generator=made)
    k, v = (torch.randn(8, 16, 2, 16, generator=made) for _ in range(2))
    table = torch.arange(8, dtype=torch.int32).view(2, 4)
    ends, lengths = (torch.tensor(t, dtype=torch.int32) for t in ([0, 40, 45], [40, 21]))
    got = paged_torch.prefill_attention(q, k, v, table, ends, lengths, 0.25)
    right = prefill_attention_reference(q, k, v, table, ends, lengths, 0.25)
    torch.testing.assert_close(got, right)
    assert asked == [(True, True, 2), (False, False, 2)]


@pytest.mark.parametrize("name", ["triton", "torch"])
def test_a_product_of_many_rows_is_added_onto_the_residual_without_a_copy_of_it(name: str) -> None:
    made = torch.Generator().manual_seed(3)
    x, matrix = (torch.randn(paged_ops.FEW_ROWS + n, 32, generator=made) for n in (1, 8))
    residual = torch.randn(paged_ops.FEW_ROWS + 1, matrix.shape[0], generator=made)
    right = residual + x @ matrix.T
    got = paged_ops.TABLE.find("down_add", name)(x, matrix, residual=residual)
    assert got.data_ptr() == residual.data_ptr()
    torch.testing.assert_close(got, right)


def test_torch_neither_loses_slot_zero_nor_writes_for_padding() -> None:
    (a,) = sequences(2)
    logits = []
    for default in ("torch", "reference"):
        model = decoder(TINY, default=default)
        step(model, [(0, a[:1], [0])], 3)
        logits.append(step(model, [(1, a[1:], [0])], 2))
    assert np.abs(logits[0] - logits[1]).max() <= 1e-4


def test_slots_beyond_two_to_the_31_stay_whole() -> None:
    pages = np.array([[2**31 // 16, 2**31 // 16 - 1]], np.int64).astype(np.int64)
    _, slots = token_places(np.array([15], np.int32), np.array([2], np.int32), pages, 16)
    assert slots.tolist() == [2**31 + 15, 2**31 - 16]


@pytest.mark.parametrize("precision", ["bf16", "w8", "w4", "fp8"])
@pytest.mark.parametrize("rows", [1, 8, 64])
def test_a_decode_layer_takes_at_most_eight_launches(precision: str, rows: int) -> None:
    # Two layers more, so many launches more: embedding, head and sampling belong to no layer.
    counts = []
    for n_layers in (1, 3):
        config = replace(TINY, n_layers=n_layers)
        model = decoder(config, precision, activation=torch.bfloat16)
        (ids,) = sequences(rows)
        launch = batch([(0, ids[i : i + 1], [0]) for i in range(rows)])
        with recording(TARGETS["sm_90"]) as launches:
            model.ops.greedy(model.forward(launch))
        counts.append(len(launches))
    assert 6 * 2 <= counts[1] - counts[0] <= 8 * 2


@pytest.mark.parametrize("name", ["joined", "fused", "fused_ahead"])
def test_designs_that_join_attention_take_one_launch_for_it(name: str) -> None:
    design = DESIGNS[name]
    assert name in designs_for(TARGETS["sm_90"])
    config = replace(TINY, family="qwen3", qk_norm=True, n_layers=1)
    counts = {}
    for chosen in ({}, {"rope_decode_attention": design.operations["rope_decode_attention"]}):
        model = decoder(config, "bf16", chosen, activation=torch.bfloat16)
        with recording(TARGETS["sm_90"]) as launches:
            model.forward(batch([(0, sequences(1)[0], [0])]))
        names = [launch.kernel.__name__ for launch in launches]
        counts[len(chosen)] = [n for n in names if "attention" in n or "rope" in n or "merge" in n]
    assert counts[1] == ["_rope_decode_attention_kernel"]
    assert counts[0] == ["_rope_kv_kernel", "_decode_attention_kernel", "_merge_splits_kernel"]


def _argument_types(launch: Launch) -> tuple[object, ...]:
    """Kernel and, argument by argument, a tensor's dtype or None where there is none."""
    tensors = (x.dtype if isinstance(x, torch.Tensor) else type(x) for x in launch.args)
    return (launch.kernel.__name__, *tensors)


@pytest.fixture(scope="module")
def compiled_ahead() -> set[tuple[object, ...]]:
    return {_argument_types(entry.launch) for entry in manifest.entries(TARGETS["sm_90"])}


@pytest.mark.parametrize("precision", ["bf16", "w8", "w4", "fp8"])
@pytest.mark.parametrize(
    ("rows", "tokens", "by"),
    [
        (1, 1, SEPARATE), (1, 1, "fused"), (1, 1, "fused_ahead"),
        (3, 1, SEPARATE), (3, 1, "fused"), (1, 100, SEPARATE),
    ],
)  # fmt: skip
def test_what_the_decoder_launches_is_what_is_compiled_ahead(
    precision: str, rows: int, tokens: int, by: str, compiled_ahead: set[tuple[object, ...]]
) -> None:
    config = replace(TINY, family="qwen3", qk_norm=True, n_layers=2)
    chosen = {"rope_decode_attention": by}
    model = decoder(config, precision, chosen, activation=torch.bfloat16)
    (ids,) = sequences(rows * tokens)
    launch = batch([(0, part, list(range(7))) for part in np.split(ids, rows)])
    with recording(TARGETS["sm_90"]) as launches:
        model.ops.greedy(model.forward(launch))
    assert {_argument_types(made) for made in launches} - compiled_ahead == set()


def test_an_operation_can_be_replaced() -> None:
    calls = []
    model = decoder(TINY)
    triton = model.ops

    def counted(x, matrix, bias=None, **more):
        calls.append(x.shape)
        return triton.down_add(x, matrix, bias, **more)

    model.ops = replace(triton, down_add=counted)
    (a,) = sequences(3)
    step(model, [(0, a, [0])])
    assert len(calls) == TINY.n_layers


def test_an_unknown_operation_or_implementation_is_refused() -> None:
    table = paged_ops.TABLE
    with pytest.raises(UnknownNameError, match="down_ad"):
        table.resolve({"down_ad": "torch"}, "triton")
    with pytest.raises(UnknownNameError, match="cublas"):
        table.resolve({"qkv": "cublas"}, "triton")
    with pytest.raises(UnknownNameError, match="hopper"):
        table.resolve({"greedy": "hopper"}, "triton")


@pytest.mark.parametrize("name", paged_ops.TABLE.modules)
def test_an_implementation_has_the_operations_that_the_table_lists(name: str) -> None:
    table = paged_ops.TABLE
    listed = {op for op in table.operations if name in table.implementations(op)}
    assert set(importlib.import_module(table.modules[name]).OPS) == listed
