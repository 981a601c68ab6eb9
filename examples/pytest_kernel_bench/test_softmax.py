"""A kernel under pytest-benchmark with the `chipmark` fixture: tokens, percentiles, joules, cost.

pytest examples/pytest_kernel_bench --benchmark-only --chipmark-backend sim:golden
"""

import numpy as np
import pytest


def softmax(x: np.ndarray) -> np.ndarray:
    """Row-wise softmax of (rows, width) float32."""
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rows", [1, 64])
def test_softmax(chipmark, rows):
    scores = np.random.default_rng(0).standard_normal((rows, 1024), dtype=np.float32)
    result = chipmark(softmax, scores, tokens=rows)  # tokens: what one call is worth
    np.testing.assert_allclose(result.sum(axis=1), 1.0, rtol=1e-5)


def test_a_decode_step(chipmark):
    chipmark.decode_step(batch=4, context=512)  # on --chipmark-backend
