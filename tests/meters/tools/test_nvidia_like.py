from __future__ import annotations

from chipmark.meters.tools.nvidia_like import csv_readings, log_readings
from chipmark.meters.tools.reading import Missing

HEADER = "index, power.draw.average [W], power.draw [W], power.draw.instant [W], mig.mode.current\n"


def test_the_instantaneous_power_goes_before_means() -> None:
    both, mean, none = csv_readings(
        f"{HEADER}0, 50.00 W, 51.00 W, 60.00 W, Disabled\n"
        "1, 50.00 W, 51.00 W, [N/A], Disabled\n2, [N/A], [N/A], [N/A], Enabled\n"
    )
    assert (both.power_w, mean.power_w, none.power_w) == (60.0, 51.0, None)
    assert none.missing["power_w"] is Missing.NOT_AVAILABLE
    assert (both.shared, none.shared) == ("", "MIG")


def test_the_module_and_the_memory_are_not_the_card() -> None:
    (card,) = log_readings(
        "GPU 00000000:01:00.0\n"
        "    Module Power Readings\n        Instantaneous Power Draw : 999.00 W\n"
        "    GPU Memory Power Readings\n        Average Power Draw : 9.00 W\n"
    )
    assert card.power_w is None
    assert card.pci == "00000000:01:00.0"


def test_a_guest_of_a_virtual_gpu_is_a_part() -> None:
    (card,) = log_readings(
        "GPU 00000000:01:00.0\n    GPU Virtualization Mode\n        Virtualization Mode : VGPU\n"
    )
    assert card.shared == "vGPU"
