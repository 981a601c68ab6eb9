"""How far from the oracle a cell's logits may be: by its precision class, or by what rounding does.

They are below every step that compares, so that a stored tolerance can be checked, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from chipmark_models.precision import INT8_BY_GROUP, KV8, BaseClass

TOLERANCE_RMS_REL: Mapping[BaseClass, float] = {
    "fp32": 1e-3,
    "16-bit": 3e-2,
    "fp8": 5e-2,
    "w8a16": 5e-2,
    "w8a8": 5e-2,
    "w4a16": 5e-2,
    "w4a8": 5e-2,
}
"""Largest rms-relative distance that passes, by precision class (narrow KV apart).

The oracle computes in fp32 with the weights as rounded, so this is the error of the backend's
arithmetic alone. fp32: sums of a few thousand products in another order differ by 1e-6 to 1e-4;
a wrong mask, position or cached row by 1e-1 and more. 16-bit: 16-bit weights and KV with
activations in fp32; for rounded ones see ROUNDED_FACTOR. Quantised weights: two providers on
the same ones were seen 0.002 to 0.03 apart.
"""

ROUNDED_FACTOR = 1.5
"""How far a backend whose products take rounded activations may be, in terms of what that rounding
does by itself (the oracle with and without it).

It moves logits by another amount for every model, and by more than a fixed tolerance allows. bf16,
worst of 25 rows: rms 0.024 on `tiny`, 0.096 on smollm2-135m, where transformers in bf16, which
rounds in another order, is 0.11 away; e4m3: 0.21 on `tiny`, 0.29 on qwen3-0.6b (seeded), 0.49 on
smollm2-135m, where noise of bf16's size on what is rounded (72 runs) gave 0.70 to 1.49 of it. A
single cached row left out moves them by 0.30, 0.57 and 0.33: parity in bf16 sees it, and parity in
`fp8` on such a model does not, so the same path is to be checked in bf16 too.
"""

INT8_FACTOR = 2.5
"""The same of activations in int8 by group, whose groups share a scale with one large value: a
single value that is rounded the other way moves the logits of a small model by as much as all
rounding does. smollm2-135m, worst of 30 rows: rms 0.15 to 0.29 on `w8` and 0.27 to 0.66 on `w4`,
noise of 1e-6 on what is rounded (13 runs each), so one run may be 2.4 times as far as another. With
fp32 activations (`accuracy_level` 0) the same graph is 1e-5 away: what is wrong shows there.
"""

INT8_MEDIAN_FACTOR = 2.0
"""The same of the median over rows, which noise moves less: 0.080 to 0.110 on `w8`, 0.107 to 0.153
on `w4`. The last cached row left out: 2.4 and 2.7 of it, the first 10; one in the middle 1.3 and
1.7, which is not seen.
"""

SIM_TOLERANCE = 0.1
"""A simulated device samples by a rule: logits 2 and below 1, so every margin is clear."""


def median_tolerance_of(rounding: str, own: float) -> float | None:
    """Largest median over rows of the rms-relative distance, where `own` is that of the oracle with
    and without the rounding; None where the worst row alone decides."""
    return INT8_MEDIAN_FACTOR * own if rounding == INT8_BY_GROUP else None


def tolerance_of(class_name: str, own: float | None = None, rounding: str = "") -> float:
    """Largest rms-relative distance that passes for a precision class. own: distance of the
    oracle with rounded activations from the plain one, where the backend's products take such; it
    then decides alone (down to the tolerance of fp32), as a class's tolerance would let fp16 be
    ten times as far as it is. rounding: the name of that rounding (`precision.ROUNDED`)."""
    if own is not None:
        factor = INT8_FACTOR if rounding == INT8_BY_GROUP else ROUNDED_FACTOR
        return max(TOLERANCE_RMS_REL["fp32"], factor * own)
    return TOLERANCE_RMS_REL[cast("BaseClass", class_name.removesuffix(KV8))]
