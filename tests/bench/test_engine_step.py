"""chipmark's own work under pytest-benchmark: `scripts/test` runs it once, untimed;
`pytest tests/bench --benchmark-only` times it, on `--chipmark-backend` (torch:cpu)."""

from __future__ import annotations

import importlib.util

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the default backend is torch:cpu"
)


@pytest.mark.benchmark(group="decode step")
@pytest.mark.parametrize("batch", [1, 4])
def test_decode_step(chipmark, batch: int) -> None:
    chipmark.decode_step(batch=batch, context=128, rounds=64)


@pytest.mark.benchmark(group="agent sessions")
def test_agent_sessions(chipmark) -> None:
    result = chipmark.run("agent-code-32k", scale="1/64,1/16,0", sessions=1, rounds=3)
    assert result.complete
