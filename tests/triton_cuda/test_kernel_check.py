"""The check at load and the trial call a product as the decoder does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chipmark.backends.triton_cuda import kernel_check, loading, product_choice
from chipmark.backends.triton_cuda.kernel_check import failures
from chipmark.backends.triton_cuda.notes import notes_of
from chipmark.backends.triton_cuda.streams import stream_of
from chipmark.errors import CellFailedError, UsageError
from chipmark_kernels.reference.rope_decode_attention import rope_decode_attention_reference
from chipmark_models.decoder.op_table import SEPARATE, Implementation
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.ops import FEW_ROWS, TABLE, Fp8Rows
from chipmark_models.decoder.paged.reference_ops import OPS
from chipmark_models.precision import product_type
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import ComputedWeights
from chipmark_models.weights.synthetic import SyntheticWeights

CPU = torch.device("cpu")
JOINED = "rope_decode_attention"


@pytest.fixture(scope="module")
def fp8() -> PagedDecoder:
    weights = ComputedWeights(SyntheticWeights(replace(preset("tiny"), n_layers=1), 3), "fp8")
    ops = TABLE.select(TABLE.resolve(None, "torch"))
    sizes = {"n_pages": 8, "max_context": 128}
    return PagedDecoder(weights, CPU, ops, activation=torch.float32, **sizes)


def test_fp8_is_checked_with_few_rows_as_they_are_and_many_quantised(fp8: PagedDecoder) -> None:
    seen = set()

    def product(x, *args, **more):
        quantised = isinstance(x, Fp8Rows)
        seen.add(((x.values if quantised else x).shape[0], quantised, "norm" in more))
        return OPS["qkv"](x, *args, **more)

    ours = {"qkv": product, "quantise_rows": OPS["quantise_rows"]}
    assert failures(fp8, ours, [1, FEW_ROWS], FEW_ROWS + 1) == {}
    assert seen == {(1, False, True), (FEW_ROWS, False, True), (FEW_ROWS + 1, True, False)}


def test_a_wrong_product_of_few_rows_is_found(fp8: PagedDecoder) -> None:
    def scales_forgotten(x, matrix, *args, **more):
        forgotten = replace(matrix, scales=torch.ones_like(matrix.scales))
        return OPS["qkv"](x, forgotten, *args, **more)

    found = failures(fp8, {"down_add": scales_forgotten}, [3], FEW_ROWS)
    assert found["down_add"].startswith("3 rows of ")


@pytest.mark.parametrize("rows", [3, FEW_ROWS + 1])
def test_fp8_products_can_be_tried_at_any_number_of_rows(fp8: PagedDecoder, rows: int) -> None:
    stream = stream_of(CPU)
    for operation in ("qkv", "down_add"):
        assert product_choice._seconds(fp8, operation, "torch", rows, stream) > 0


def wrong_over_a_prefix(q, k, v, table, cu_q, kv_lens, scale):
    out = OPS["prefill_attention"](q, k, v, table, cu_q, kv_lens, scale)
    for seq in range(len(kv_lens)):
        first, last = cu_q[seq : seq + 2].tolist()
        if kv_lens[seq] > last - first:  # as if the tokens before were not there
            alone = torch.tensor([0, last - first], dtype=torch.int32)
            late = table[seq : seq + 1], alone, alone[1:], scale
            out[first:last] = OPS["prefill_attention"](q[first:last], k, v, *late)
    return out


def wrong_beyond_one_split(q, k, v, table, kv_lens, scale):
    assert table.shape[1] * k.shape[1] >= 128  # the decoder's own table, not one of the check's
    return OPS["decode_attention"](q, k, v, table, kv_lens.clamp(max=64), scale)


@pytest.mark.parametrize(
    ("operation", "wrong"),
    [("prefill_attention", wrong_over_a_prefix), ("decode_attention", wrong_beyond_one_split)],
)
def test_attention_is_checked_over_prefixes_and_long_contexts(
    fp8: PagedDecoder, operation: str, wrong: Implementation
) -> None:
    assert failures(fp8, {operation: OPS[operation]}, [1], 256) == {}
    found = failures(fp8, {operation: wrong}, [1], 256)
    assert "(a) rms-relative" in found[operation]


def test_a_product_that_writes_over_a_large_residual_does_not_spoil_its_own_check(
    fp8: PagedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_place(x, matrix, *args, residual, **more):
        return residual.copy_(OPS["down_add"](x, matrix, *args, residual=residual, **more))

    # As if nothing were small enough to be copied for a call.
    monkeypatch.setattr(kernel_check, "_cloned", lambda value: value)
    assert failures(fp8, {"down_add": in_place}, [1], FEW_ROWS) == {}


def joined(*args, ahead, **norms):
    return rope_decode_attention_reference(*args, **norms)


def joined_that_forgets_the_newest(*args, ahead, **norms):
    *rotation, table, lens, n_heads, scale = args
    joined(*args, ahead=ahead, **norms)
    return joined(*rotation, table, (lens - 1).clamp(min=0), n_heads, scale, ahead=(), **norms)


def joined_that_writes_no_value(*args, ahead, **norms):
    before = args[6].clone()
    out = joined(*args, ahead=ahead, **norms)
    args[6].copy_(before)
    return out


def joined_that_reads_garbage_for_padding(*args, ahead, **norms):
    out = joined(*args, ahead=ahead, **norms)
    out[args[8] == 0] = 3.0
    return out


@pytest.mark.parametrize(
    "wrong",
    [
        joined_that_forgets_the_newest,
        joined_that_writes_no_value,
        joined_that_reads_garbage_for_padding,
    ],
)
def test_joined_attention_is_checked_with_its_cache_and_padding(
    fp8: PagedDecoder, wrong: Implementation
) -> None:
    assert failures(fp8, {JOINED: joined}, [1], 16) == {}
    assert "lengths [" in failures(fp8, {JOINED: wrong}, [1], 16)[JOINED]


def test_joined_attention_that_fails_is_left_to_the_separate_operations(
    fp8: PagedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "failures", lambda decoder, ours, rows, chunk: dict.fromkeys(ours))
    names = TABLE.resolve({JOINED: "fused"}, "torch")
    before = fp8.ops
    try:
        found = loading._replace_failing(fp8, names, {}, (1, 2), 16)
        assert fp8.ops.rope_decode_attention is None
    finally:
        fp8.ops = before
    assert list(found) == [JOINED]
    assert names[JOINED] == SEPARATE
    (note,) = notes_of(True, CPU, {JOINED: "reason"}, {})[:1]
    assert note[1] == f"{JOINED} is left to what it joins: the kernel fails here (reason)"
    with pytest.raises(UsageError, match=f"kernel of {JOINED} fails parity"):
        loading._replace_failing(fp8, {JOINED: "fused"}, {JOINED: "fused"}, (1, 2), 16)


def test_a_kernel_that_loses_the_device_is_named_with_the_way_round_it(
    fp8: PagedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(kernel_check, "synchronize", fault)
    monkeypatch.setattr(kernel_check, "answers", lambda device: False)
    with pytest.raises(
        CellFailedError, match=r"kernel of down_add \(1 rows of .* illegal"
    ) as caught:
        failures(fp8, {"down_add": OPS["down_add"]}, [1], FEW_ROWS)
    assert '--option triton:ops.down_add="torch"' in caught.value.hint


def test_a_kernel_that_only_raises_is_out_and_the_check_goes_on(fp8: PagedDecoder) -> None:
    def refused(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("out of resource: shared memory\nsecond line")

    found = failures(fp8, {"down_add": refused, "qkv": OPS["qkv"]}, [1], FEW_ROWS)
    assert list(found) == ["down_add"]
    assert "RuntimeError: out of resource: shared memory" in found["down_add"]


def test_a_candidate_that_raises_is_dropped_and_said(
    fp8: PagedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(decoder, operation, name, rows, stream):
        if name == "triton" and rows > 1:
            raise RuntimeError("out of resource")
        return 1.0 if name == "triton" else 2.0

    monkeypatch.setattr(product_choice, "_seconds", seconds)
    before = fp8.ops
    try:
        found = product_choice.choose_products(
            fp8, {"qkv": ["triton", "torch"]}, [1, 8], stream_of(CPU)
        )
    finally:
        fp8.ops = before
    assert {rows: choice.name for rows, choice in found["qkv"].items()} == {1: "triton", 8: "torch"}
    assert found["qkv"][8].refused == {"triton": "RuntimeError: out of resource"}
    notes = notes_of(False, CPU, {}, found)
    assert (
        "kernel_replaced",
        "qkv at 8 rows: triton was dropped (RuntimeError: out of resource)",
    ) in notes


def test_nothing_that_computes_a_product_fails_the_cell(
    fp8: PagedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(*_: object) -> float:
        raise RuntimeError("out of resource")

    monkeypatch.setattr(product_choice, "_seconds", seconds)
    with pytest.raises(
        CellFailedError, match="nothing computes qkv at 1 rows: triton: RuntimeError"
    ):
        product_choice.choose_products(fp8, {"qkv": ["triton", "torch"]}, [1], stream_of(CPU))


def test_a_row_says_which_products_take_rounded_activations() -> None:
    told = loading._precision("fp8", "fp8")
    assert told.words()["activation"] == "bf16, fp8 into products of over 64 rows"
    assert told.kv == "bf16"
    assert product_type(told.linear_input) == "fp8"  # its matrix rate is that of prompts
    assert loading._precision("w8", "bf16").words()["activation"] == "bf16"


def test_attention_of_cold_prompts_is_checked_with_values_between_other_heads(
    fp8: PagedDecoder,
) -> None:
    seen = []

    def shifted(q, k, v, scale):  # as if a token saw the one behind it
        seen.append((len(q), v.is_contiguous()))
        return right(q, k, v, scale).roll(1, 0)

    right = TABLE.find("cold_attention", "flash")
    assert failures(fp8, {"cold_attention": right}, [1], 256) == {}
    assert "rms-relative" in failures(fp8, {"cold_attention": shifted}, [1], 256)["cold_attention"]
    assert seen == [(17, False)]
    absent = failures(fp8, {"cold_attention": TABLE.find("cold_attention", "cudnn")}, [1], 256)
    assert "No viable backend" in absent["cold_attention"]
