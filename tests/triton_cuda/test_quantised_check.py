"""What the check at load makes of quantised rows, in the precision that is timed."""

from __future__ import annotations

import pytest
import torch

from chipmark.backends.triton_cuda.kernel_check import Case, _problem
from chipmark_models.decoder.paged import reference_ops as paged_reference
from chipmark_models.decoder.paged.ops import Fp8Rows

CPU = torch.device("cpu")


def _exact(x, norm, eps):
    """Not rounded between norm and scale, as the kernel computes them."""
    wide = None if norm is None else norm.float()
    return paged_reference.quantise_rows(x.float(), wide, eps)._replace(dtype=x.dtype)


@pytest.fixture(params=[True, False], ids=["norm", "plain"])
def case(request):
    made = torch.Generator().manual_seed(1)
    x, norm = (torch.randn(shape, generator=made).bfloat16() for shape in ((16, 1024), (1024,)))
    args = (x, norm if request.param else None, 1e-6)
    return Case("quantise_rows", "16 rows", args, {}, paged_reference.quantise_rows)


def test_right_rows_pass_though_bf16_moves_values_over_the_middle_of_two_codes(case):
    assert _problem(case, _exact, CPU) == ""


def test_a_row_of_zeros_may_have_any_scale(case):
    case.args[0][2] = 0
    assert _problem(case, _exact, CPU) == ""


def test_a_wrong_code_and_a_wrong_scale_are_found(case):
    def wrong_code(*args):
        rows = _exact(*args)
        values = rows.values.float()
        values[3, 5] = -values[3, 5] if values[3, 5].abs() > 1 else 100.0
        return rows._replace(values=values.to(torch.float8_e4m3fn))

    def wrong_scale(*args):
        rows = _exact(*args)
        return Fp8Rows(rows.values, rows.scales * 1.01, rows.dtype)

    assert "half steps away" in _problem(case, wrong_code, CPU)
    assert "wrong scale" in _problem(case, wrong_scale, CPU)
