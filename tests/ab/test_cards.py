from __future__ import annotations

from types import ModuleType

from chipmark.ab.machine import card_faults, card_states, look


def test_heat_is_a_fault_and_a_power_limit_or_idle_is_none(paper_nvml: ModuleType) -> None:
    card = paper_nvml.PaperCard
    fake = paper_nvml.FakeNvml(
        card(reasons=0x1 | 0x4), card(uuid="GPU-2", reasons=0x40), card(uuid="GPU-3", reasons=None)
    )
    states = card_states(fake)
    assert [state.throttle for state in states] == [0, 0x40, None]
    assert [fault[:6] for fault in card_faults(look(states))] == ["card 1"]
    assert (fake.opened, fake.shut) == (0, 0)
