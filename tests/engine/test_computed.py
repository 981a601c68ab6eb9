from __future__ import annotations

import pytest

from chipmark.engine.computed import (
    Accumulator,
    ComputedPrecision,
    Number,
    Weights,
    linear_input_of,
)
from chipmark_models.precision import NARROW_KV, PRECISIONS, ROUNDED, WIDE_KV


def computed(activation="fp32", linear="", attention="", rows=0):
    return ComputedPrecision(
        Weights.BF16,
        Number(activation),
        Number(linear or activation),
        Number.BF16,
        Accumulator.FP32,
        Number(attention) if attention else None,
        rows,
    )


@pytest.mark.parametrize(
    ("given", "words", "taken"),
    [
        (computed(), "fp32", "fp32"),
        (computed(attention="bf16"), "fp32, bf16 into decode attention", "fp32"),
        (
            computed(linear="bf16", attention="bf16"),
            "fp32, bf16 into products and decode attention",
            "bf16",
        ),
        (
            computed("bf16", linear="fp8", rows=64),
            "bf16, fp8 into products of over 64 rows",
            "fp8",
        ),
        (
            computed(linear="int8", attention="bf16"),
            "fp32, int8 into products, bf16 into decode attention",
            "int8",
        ),
        (
            computed(linear="int8 by group"),
            "fp32, int8 by group into products",
            "int8 by group",
        ),
    ],
)
def test_the_words_of_a_record_say_what_products_take(given, words, taken):
    assert given.words()["activation"] == words
    assert linear_input_of(words) == given.linear_input == taken


def test_words_are_those_that_records_have_always_kept():
    assert ComputedPrecision.plain("bf16", "fp32", Accumulator.PROVIDER).words() == {
        "weights": "bf16",
        "activation": "bf16",
        "kv": "fp32",
        "accumulate": "provider",
    }
    assert str(Accumulator.TORCH) == "torch's default"


def test_the_closed_sets_are_those_of_the_models():
    assert {str(name) for name in Weights} == set(PRECISIONS)
    assert {str(name) for name in Number} == {*WIDE_KV, *NARROW_KV, *ROUNDED}


def test_what_is_no_type_is_refused():
    with pytest.raises(ValueError, match="fp31"):
        ComputedPrecision.plain("fp31")
