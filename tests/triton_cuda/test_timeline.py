"""When launches ran, from device marks and host times."""

from __future__ import annotations

import pytest

from chipmark.backends.triton_cuda.product_choice import ByRows, Choice
from chipmark.backends.triton_cuda.timeline import Span, Timeline


def test_a_step_on_an_idle_device_begins_when_it_was_submitted():
    placed = Timeline().place([Span(0.0, 0.010), Span(0.011, 0.020)], 5.0, 5.1)
    assert placed == [Span(5.0, 5.010), Span(5.011, 5.020)]


def test_a_step_that_waits_begins_behind_the_other_not_when_it_was_submitted():
    line = Timeline()
    line.place([Span(0.0, 0.5)], 1.0, 1.6)
    (second,) = line.place([Span(0.0, 0.4)], 1.01, 2.0, after_last_s=0.02)
    assert second.start_s == pytest.approx(1.52)
    assert second.end_s - second.start_s == pytest.approx(0.4)


def test_clocks_of_other_rates_never_let_a_step_end_after_it_was_seen():
    line, seen, before = Timeline(), 0.0, 1.0
    line.place([Span(0.0, 1.0)], 0.0, 1.0)
    for step in range(1, 1000):
        seen = 1.0 + step  # the device counts 1.00001 s for each of the host's
        (span,) = line.place([Span(0.0, 1.00001)], seen - 1, seen, after_last_s=0.0)
        assert span.end_s <= seen
        assert span.start_s >= before - 1.1e-5
        assert span.end_s - span.start_s == pytest.approx(1.00001)
        before = span.end_s


def test_no_step_begins_before_it_was_submitted():
    line = Timeline()
    # The host was interrupted between reading its clock and the first launch: placed 3 ms early.
    (first,) = line.place([Span(0.0, 0.010)], 1.000, 1.014)
    assert first == Span(1.000, 1.010)
    (second,) = line.place([Span(0.0, 0.010)], 1.012, 1.025, after_last_s=0.0)
    assert second.start_s == 1.012
    (third,) = line.place([Span(0.0, 0.010)], 1.020, 1.040, after_last_s=0.001)
    assert third.start_s == pytest.approx(second.end_s + 0.001)


def test_a_step_without_launches_moves_nothing():
    line = Timeline()
    assert line.place([], 1.0, 2.0) == []


def test_a_product_goes_to_the_implementation_of_its_rows():
    import torch

    calls = ByRows((1, 64), (lambda x: "few", lambda x: "many"))
    assert [calls(torch.zeros(n, 2)) for n in (1, 2, 64, 900)] == ["few", "many", "many", "many"]
    assert Choice({"triton": 2.0, "torch": 1.0}).name == "torch"
