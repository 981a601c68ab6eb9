from __future__ import annotations

import pytest

from chipmark.results.stored_bytes import too_few_kv_bytes, too_few_weight_bytes
from chipmark_models.costs import weight_bytes_stored
from chipmark_models.presets import preset

CONFIG = preset("smollm2-135m")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "w8", "w4", "fp8"])
def test_the_bytes_of_a_precision_are_enough_for_it(precision: str) -> None:
    need = int(weight_bytes_stored(CONFIG, precision))
    assert too_few_weight_bytes(CONFIG, precision, need, need) == ""
    assert too_few_weight_bytes(CONFIG, precision, 2 * need) == ""


@pytest.mark.parametrize(("precision", "stored"), [("fp32", "bf16"), ("bf16", "w8"), ("w8", "w4")])
def test_a_narrower_storage_under_a_wider_name_is_found(precision: str, stored: str) -> None:
    told = int(weight_bytes_stored(CONFIG, stored))
    assert f"{precision} of this model needs" in too_few_weight_bytes(CONFIG, precision, told)
    need = int(weight_bytes_stored(CONFIG, precision))
    assert "never held" in too_few_weight_bytes(CONFIG, precision, need, told)


@pytest.mark.parametrize(
    "caps",
    [
        {"kv": "slots", "n_slots": 5, "max_context": 400, "n_pages": 0, "page_tokens": 16},
        {"kv": "paged", "n_slots": 0, "max_context": 400, "n_pages": 125, "page_tokens": 16},
    ],
)
def test_narrower_kv_under_a_wider_name_is_found(caps: dict[str, object]) -> None:
    per_token = 2 * 30 * 3 * 64 * 4  # keys and values, layers, KV heads, head_dim, bytes of fp32
    assert too_few_kv_bytes(CONFIG, "fp32", 2000 * per_token, caps) == ""
    found = too_few_kv_bytes(CONFIG, "fp32", 2000 * per_token // 2, caps)
    assert "2000 tokens in fp32 need" in found
    assert too_few_kv_bytes(CONFIG, "bf16", 2000 * per_token // 2, caps) == ""
    assert too_few_kv_bytes(CONFIG, "unknown", 1, caps) == ""
    assert too_few_kv_bytes(CONFIG, "fp32", 1, {"max_chunk": 64}) == ""
