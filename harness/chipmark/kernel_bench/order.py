"""The order in which cases are measured: what tells most about whole models first.

A short stay on a card ends anywhere; what it has measured by then should be what an agent's decode
spends its time on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from chipmark.kernel_bench.case import Case

QUANTISED = ("w4a16_gemm", "w8a16_gemm", "fp8a16_gemm", "fp8_gemm", "quantize_rows_fp8")
KERNELS = (
    "skinny_gemm", "gemv_hopper", "decode_attention", "rope_decode_attention",
    "qknorm_rope_kvwrite", "embedding_rmsnorm", "sample", "nucleus_cutoff", "rmsnorm", "swiglu",
    "prefill_attention", "dense_gemm_hopper", *QUANTISED,
)  # fmt: skip
"""By the share of a step that each takes; others come before the quantised ones."""

FEW_ROWS = 64
MAIN_MODEL = "qwen3-8b"
SMALLEST_MODEL = "qwen3-0.6b"


@dataclass(frozen=True, slots=True)
class Group:
    """Cases of one worth."""

    name: str
    about: str
    holds: Callable[[Case], bool]


def model_of(case: Case) -> str:
    """The model whose shape it is, as its name begins."""
    return case.name.partition(" ")[0]


def _rows(case: Case) -> int:
    """Of a decode step, 0 in a prompt."""
    rows = case.size.get("rows", case.size.get("seqs", 0))
    return rows if rows <= FEW_ROWS else 0


def _plain(case: Case, model: str) -> bool:
    return model_of(case) == model and case.kernel not in QUANTISED


GROUPS = (
    Group("8b-1", "qwen3-8b, one row", lambda c: _plain(c, MAIN_MODEL) and _rows(c) == 1),
    Group("8b-64", "qwen3-8b, 8 and 64 rows", lambda c: _plain(c, MAIN_MODEL) and _rows(c) > 1),
    Group("8b-prefill", "qwen3-8b, prompts", lambda c: _plain(c, MAIN_MODEL)),
    Group("0.6b", "qwen3-0.6b", lambda c: _plain(c, SMALLEST_MODEL)),
    Group("others", "other models where shapes differ", lambda c: c.kernel not in QUANTISED),
    Group("quantised", "weights of 8 and 4 bits", lambda c: True),
)
"""The most telling first; a case is of the first that holds."""


def group_of(case: Case) -> Group:
    """The group of a case."""
    return next(group for group in GROUPS if group.holds(case))


def by_value(cases: Iterable[Case]) -> list[Case]:
    """The cases by group, then by phase, kernel and size; of equal work that of the first model
    stands for all."""

    def place(case: Case) -> tuple[int, int, int, int]:
        rows = _rows(case) or FEW_ROWS + 1
        models = (MAIN_MODEL, SMALLEST_MODEL)
        model = models.index(model_of(case)) if model_of(case) in models else len(models)
        kernel = KERNELS.index(case.kernel) if case.kernel in KERNELS else _before_quantised()
        return GROUPS.index(group_of(case)), model, rows, kernel

    found: dict[tuple[object, ...], Case] = {}
    for case in sorted(cases, key=place):
        found.setdefault(_work(case), case)
    return list(found.values())


def _before_quantised() -> int:
    return KERNELS.index(QUANTISED[0])


def _work(case: Case) -> tuple[object, ...]:
    """What a case is whatever model it is of."""
    words = case.name.partition(" ")[2]
    return case.kernel, words, case.bytes, case.flops
