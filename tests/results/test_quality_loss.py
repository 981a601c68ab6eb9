"""What is stored of the quality must be possible for its cell."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from chipmark.results.manifest import Manifest
from chipmark.results.quality_loss import quality_contradictions

W8 = {"requested": "w8", "weights": "w8", "class_name": "w8a16"}
SUMS = {"reason": None, "tokens": 10, "nll": 20.0, "nll_source": 19.0}


def found(rawcells: ModuleType, quality: dict[str, Any], **changes: Any) -> list[str]:
    given = {f"precision__{name}": value for name, value in W8.items()}
    given |= {"model__source_kind": "gguf", "quality": quality} | changes
    return list(quality_contradictions(Manifest.model_validate(rawcells.manifest(**given))))


def test_sums_of_real_quantised_weights_are_possible(rawcells: ModuleType) -> None:
    assert found(rawcells, SUMS) == []
    assert found(rawcells, {}) == []
    assert found(rawcells, {"reason": "no_oracle"}) == []


@pytest.mark.parametrize(
    ("quality", "changes", "says"),
    [
        (SUMS | {"nll": None}, {}, "sums"),
        (SUMS | {"reason": "no_oracle"}, {}, "reason no_oracle"),
        ({"reason": None}, {}, "reason None"),
        (SUMS | {"tokens": 0}, {}, "0 tokens"),
        (SUMS, {"precision__requested": "bf16"}, "bf16, which is not quantised"),
        (SUMS, {"model__source_kind": "synthetic"}, "synthetic weights"),
    ],
)
def test_what_cannot_be_is_named(
    rawcells: ModuleType, quality: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    (text,) = found(rawcells, quality, **changes)
    assert says in text


def test_a_manifest_of_before_has_no_quality(rawcells: ModuleType) -> None:
    assert Manifest.model_validate(rawcells.manifest()).quality.reason == "unknown"
