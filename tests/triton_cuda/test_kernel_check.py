"""The check at load and the trial call a product as the decoder does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chipmark.backends.triton_cuda import loading, product_choice
from chipmark.backends.triton_cuda.kernel_check import failures
from chipmark.backends.triton_cuda.streams import stream_of
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.ops import FEW_ROWS, TABLE, Fp8Rows
from chipmark_models.decoder.paged.reference_ops import OPS
from chipmark_models.precision import product_type
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import ComputedWeights
from chipmark_models.weights.synthetic import SyntheticWeights

CPU = torch.device("cpu")


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


def test_a_row_says_which_products_take_rounded_activations() -> None:
    told = loading._precision("fp8", "fp8")
    assert told.words()["activation"] == "bf16, fp8 into products of over 64 rows"
    assert told.kv == "bf16"
    assert product_type(told.linear_input) == "fp8"  # its matrix rate is that of prompts
    assert loading._precision("w8", "bf16").words()["activation"] == "bf16"
