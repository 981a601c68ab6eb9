from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chipmark.backends.cgroup import cpu_quota
from chipmark.chips.catalogue import catalogue
from chipmark.chips.contract import DeviceKey
from chipmark.chips.cpu import read_cpu
from chipmark.chips.detect import chip_of, chips_here, vendor_trace
from chipmark.chips.identify import identify_cpu, identify_nvidia
from chipmark.chips.nameplate import nameplate
from chipmark.errors import MissingBackendError, UnknownNameError

CPU = """processor	: {n}
vendor_id	: AuthenticAMD
cpu family	: 25
model		: 1
model name	: {name}
stepping	: 1
physical id	: {socket}
core id		: {n}
flags		: fpu avx2 f16c {flags}
"""


def _machine(
    root: Path, *, threads: int = 4, name: str = "AMD EPYC 7763", flags: str = "", sockets: int = 1
) -> Path:
    (root / "proc/self").mkdir(parents=True)
    blocks = [
        CPU.format(n=n, name=name, socket=n * sockets // threads, flags=flags)
        for n in range(threads)
    ]
    (root / "proc/cpuinfo").write_text("\n".join(blocks))
    cache = root / "sys/devices/system/cpu/cpu0/cache"
    for index, (level, size) in enumerate(((1, "32K"), (2, "512K"), (3, "32768K"))):
        (cache / f"index{index}").mkdir(parents=True)
        (cache / f"index{index}/size").write_text(size + "\n")
        (cache / f"index{index}/level").write_text(f"{level}\n")
        (cache / f"index{index}/shared_cpu_list").write_text(f"0-{threads - 1}\n")
    return root


def test_whole_machine_is_metered_and_priced_by_package(tmp_path: Path) -> None:
    root = _machine(tmp_path, threads=8, sockets=2)
    chip = identify_cpu("cpu", root)
    assert chip is not None
    assert (chip.name, chip.unit, chip.used, chip.of) == ("amd-epyc-7763", "package", 2, 2)
    plate = nameplate(chip, root)
    assert plate is not None
    assert plate.power_w == 560.0


def test_virtual_machine_is_a_share_with_its_vcpus(tmp_path: Path) -> None:
    root = _machine(tmp_path, threads=2, name="AMD EPYC", flags="hypervisor")
    chip = identify_cpu("openvino", root)
    assert chip is not None
    assert (chip.name, chip.unit, chip.used, chip.of) == ("amd-epyc-zen3", "cpu-share", 2, 2)
    assert any("product is hidden" in line for line in chip.evidence)
    plate = nameplate(chip, root)
    assert plate is not None
    assert plate.power_w == pytest.approx(280 / 128 * 2)
    assert "280 W / 128 threads x 2 vCPUs" in plate.method


@pytest.mark.parametrize(("text", "cpus"), [("150000 100000", 1.5), ("max 100000", None)])
def test_cgroup_quota_cuts_the_share(tmp_path: Path, text: str, cpus: float | None) -> None:
    root = _machine(tmp_path)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/cpu.max").write_text(text)
    assert cpu_quota(root) == cpus
    facts = read_cpu(root)
    assert facts.vcpus == (4 if cpus is None else 2)
    chip = identify_cpu("cpu", root)
    assert chip is not None
    assert chip.unit == ("package" if cpus is None else "cpu-share")


def test_last_level_cache_is_the_largest(tmp_path: Path) -> None:
    assert read_cpu(_machine(tmp_path)).llc_bytes == 32 << 20


def test_cpu_route_leaves_other_devices_to_others() -> None:
    assert identify_cpu("cuda:0") is None
    assert identify_nvidia("cpu") is None


def test_simulated_device_is_a_chip_of_its_own() -> None:
    chip = chip_of("sim:golden")
    assert (chip.name, chip.unit, chip.used, chip.of) == ("sim-golden", "card", 1, 1)


def test_vendor_without_a_library_of_ours_is_unverified() -> None:
    chip = chip_of("ort:cann", "Ascend 910B3")
    assert (chip.name, chip.vendor, chip.verified) == ("ascend-910b3", "Huawei", False)


def test_unknown_device_is_not_given_a_name_by_itself() -> None:
    chip = chip_of("ort:some_module", "RTX 9090")
    assert (chip.name, chip.device_name, chip.verified) == ("unknown", "RTX 9090", False)


def test_unknown_backend_is_told_its_neighbours() -> None:
    with pytest.raises(UnknownNameError, match="KIND:DEVICE"):
        chip_of("troch:cpu")


def test_lookalike_of_cuda_is_told_by_the_pci_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingBackendError):
        chip_of("torch:cuda", "", tmp_path)
    device = tmp_path / "sys/bus/pci/devices/0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x9999\n")
    (device / "class").write_text("0x038000\n")
    chip = chip_of("torch:cuda", "MetaX C550", tmp_path)
    assert (chip.name, chip.vendor, chip.verified) == ("metax-c550", "MetaX", False)


def _bus(root: Path, *vendors: str) -> Path:
    """Accelerators of these vendors at 0000:01:00.0, 0000:02:00.0, ..."""
    for number, vendor in enumerate(vendors, 1):
        device = root / f"sys/bus/pci/devices/0000:{number:02x}:00.0"
        device.mkdir(parents=True)
        for name, text in (("vendor", f"0x{vendor}"), ("class", "0x120000"), ("device", "0x3685")):
            (device / name).write_text(text + "\n")
    return root


KUNLUN, NVIDIA, METAX = "1d22", "10de", "9999"


def test_kunlun_that_poses_as_cuda_is_told_by_the_bus_whatever_nvml_says(
    tmp_path: Path, install: Callable[..., Any], paper_nvml: ModuleType
) -> None:
    install(paper_nvml.PaperCard(name="NVIDIA H200", uuid="GPU-0b", pci="00000000:02:00.0"))
    chip = chip_of("torch:cuda", "kunlun", _bus(tmp_path, KUNLUN))
    assert (chip.name, chip.vendor, chip.device_name) == (
        "kunlunxin-unknown",
        "Kunlunxin",
        "kunlun",
    )
    assert not chip.verified
    assert any("1d22:3685" in line for line in chip.evidence)


def test_a_p800_has_another_vendor_id_on_the_bus(tmp_path: Path) -> None:
    chip = chip_of("torch:cuda", "Kunlun P800", _bus(tmp_path, "2057"))
    assert (chip.name, chip.vendor) == ("kunlun-p800", "Kunlunxin")
    assert any("2057:3685" in line for line in chip.evidence)


def test_kunlun_by_its_own_name_and_by_a_products(tmp_path: Path) -> None:
    root = _bus(tmp_path, KUNLUN)
    assert chip_of("torch:kunlun", "kunlun", root).vendor == "Kunlunxin"
    assert chip_of("torch:kunlun", "Kunlun P800", root).name == "kunlun-p800"
    assert chip_of("torch:cuda", "Kunlun P800", root).name == "kunlun-p800"


def test_address_decides_whose_card_it_is_where_several_pose(
    tmp_path: Path, install: Callable[..., Any], paper_nvml: ModuleType
) -> None:
    card = paper_nvml.PaperCard(name="NVIDIA H200", uuid="GPU-0b", pci="00000000:02:00.0")
    install(card)
    root = _bus(tmp_path, KUNLUN, NVIDIA, METAX)

    def vendor(**key: str) -> str:
        return chip_of("torch:cuda", key.get("name", ""), root, DeviceKey(**key)).vendor

    assert vendor(pci="00000000:01:00.0", name="NVIDIA H200") == "Kunlunxin"
    assert vendor(pci="00000000:02:00.0", name="NVIDIA H200") == "NVIDIA"
    assert vendor(pci="0000:03:00.0") == "MetaX"
    assert vendor(name="kunlun") == "Kunlunxin"
    assert vendor(name="MetaX C550") == "MetaX"
    assert vendor(name="NVIDIA H200") == "NVIDIA"


def test_vendor_is_found_by_pci_class_and_not_by_its_bridges(tmp_path: Path) -> None:
    for name, vendor, kind in (("0", "0x19e5", "0x120000"), ("1", "0x19e5", "0x020000")):
        device = tmp_path / f"sys/bus/pci/devices/{name}"
        device.mkdir(parents=True)
        (device / "vendor").write_text(vendor + "\n")
        (device / "class").write_text(kind + "\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/davinci0").touch()
    trace = vendor_trace(catalogue().vendors["Huawei"], tmp_path)
    assert (trace.pci_devices, trace.dev_nodes) == (1, 1)
    assert vendor_trace(catalogue().vendors["Cambricon"], tmp_path).pci_devices == 0


def test_display_of_a_servers_management_controller_is_no_accelerator(tmp_path: Path) -> None:
    for name, kind in (("0", "0x030000"), ("1", "0x120000")):
        device = tmp_path / f"sys/bus/pci/devices/{name}"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x19e5\n")
        (device / "class").write_text(kind + "\n")
        (device / "device").write_text("0x1711\n")
    assert vendor_trace(catalogue().vendors["Huawei"], tmp_path).pci_devices == 0


def test_tool_on_the_path_is_no_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("xpu-smi", "npu-smi"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found, missing = chips_here()
    assert not {"Kunlunxin", "Huawei"} & {chip.vendor for chip in found}
    assert any("xpu-smi is on the PATH" in text for text in missing)


def test_missing_bindings_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingBackendError) as caught:
        identify_nvidia("cuda")
    assert "chipmark[cuda]" in caught.value.hint
