"""Each kernel at the presets' shapes, with torch, Liger and FlagGems as peers.

Models and rows are data; `cases(small=True)` gives the same kernels at sizes for a CPU.
"""

from __future__ import annotations

from chipmark.kernel_bench.attention_cases import attention_cases
from chipmark.kernel_bench.case import TINY, Case
from chipmark.kernel_bench.gemm_cases import dense_cases, fp8_cases, gemm_cases
from chipmark.kernel_bench.order import QUANTISED, by_value, model_of
from chipmark.kernel_bench.quantiser_cases import quantiser_cases
from chipmark.kernel_bench.row_cases import embedding_cases, norm_cases, swiglu_cases
from chipmark.kernel_bench.sampling_cases import sampling_cases
from chipmark_kernels.manifest import MODEL_SHAPES

MODELS = ("qwen3-8b", "qwen3-0.6b", "qwen3-1.7b", "llama-3.2-1b")
"""Of the manifest's; a shape that two of them have is measured for the first, and quantised weights
for the first two alone."""


def cases(*, small: bool = False) -> list[Case]:
    """Every case, the most telling first (`order`)."""
    shapes = {shape.name: shape for shape in MODEL_SHAPES}
    models = [TINY] if small else [shapes[name] for name in MODELS]
    decode, prefill = ((1, 3), (5,)) if small else ((1, 8, 64), (2048,))
    found: list[Case] = []
    for s in models:
        found += attention_cases(s, small=small)
        for rows in decode:
            for family in (gemm_cases, norm_cases, swiglu_cases, embedding_cases, sampling_cases):
                found += family(s, rows)
        for rows in (*decode[1:], *prefill):
            found += [*fp8_cases(s, rows), *quantiser_cases(s, rows)]
        for rows in prefill:
            found += [*swiglu_cases(s, rows), *norm_cases(s, rows), *dense_cases(s, rows)]
    quantised = (TINY.name, *MODELS[:2])
    return by_value(c for c in found if c.kernel not in QUANTISED or model_of(c) in quantised)
