from __future__ import annotations

import os
from types import ModuleType

import pytest

from chipmark.ab.machine import card_faults, card_states, look
from chipmark.chips import device_users


def test_heat_is_a_fault_and_a_power_limit_or_idle_is_none(paper_nvml: ModuleType) -> None:
    card = paper_nvml.PaperCard
    fake = paper_nvml.FakeNvml(
        card(reasons=0x1 | 0x4), card(uuid="GPU-2", reasons=0x40), card(uuid="GPU-3", reasons=None)
    )
    states = card_states(fake)
    assert [state.throttle for state in states] == [0, 0x40, None]
    assert [fault[:6] for fault in card_faults(look(states))] == ["card 1"]
    assert (fake.opened, fake.shut) == (0, 0)


def test_who_else_computes_is_a_fault(
    paper_nvml: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_users, "_in_container", lambda: False)
    card = paper_nvml.PaperCard
    states = card_states(paper_nvml.FakeNvml(card(pids=[os.getpid()]), card(pids=[1, os.getpid()])))
    assert [state.others for state in states] == [(), (1,)]
    assert card_faults(look(states)) == ["card 1 is used by other processes: 1"]
