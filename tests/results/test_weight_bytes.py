from __future__ import annotations

import pytest

from chipmark.results.weight_bytes import too_few_weight_bytes
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
