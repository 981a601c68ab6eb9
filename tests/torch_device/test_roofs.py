"""How roofs of a torch device are timed."""

from __future__ import annotations

import pytest
import torch

from chipmark.backends.torch_device import roofs


def test_a_cards_own_counter_times_several_calls_queued_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ms, queued = 0.0, []

    class Event:
        at = 0.0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = now_ms

        def synchronize(self) -> None:
            queued.append(now_ms)

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

    def call() -> None:
        nonlocal now_ms
        now_ms += 0.3

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(roofs, "_READ_S", 0.0)
    monkeypatch.setattr(roofs, "synchronize", lambda device: None)
    assert roofs._best(call, torch.device("cuda")) == pytest.approx(0.3e-3)
    assert len(queued) == 3


def test_a_matrix_rate_is_one_of_values_that_differ() -> None:
    made = roofs._matrix(64, torch.device("cpu"))
    assert made.unique().numel() > 4000
