from __future__ import annotations

import numpy as np
import pytest

from chipmark.meters.contract import PowerSamples
from chipmark.meters.replay import summed


def test_watts_of_parts_are_one_series() -> None:
    first = PowerSamples(
        np.array([0.0, 1.0, 3.0]), np.array([0.0, 10.0, 50.0]), np.array([10.0, 20.0, 5.0])
    )
    other = PowerSamples(np.array([0.0, 2.0]), np.array([0.0, 200.0]), np.array([100.0, 1.0]))
    both = summed([first, other])
    assert both.time_s.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert both.power_w.tolist() == [110.0, 120.0, 21.0, 6.0]
    # 10 + 100 J in the first second, 20 + 100 J in the next, then 20 + 1 J.
    assert both.energy_j == pytest.approx([0.0, 110.0, 230.0, 251.0])
    assert summed([other]) is other
