from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chipmark.chips.catalogue import catalogue
from chipmark.chips.cpu import cgroup_quota, read_cpu
from chipmark.chips.detect import chip_of, vendor_trace
from chipmark.chips.identify import identify_cpu, identify_nvidia
from chipmark.chips.nameplate import nameplate
from chipmark.errors import MissingBackendError, UnknownNameError, UsageError

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
    for index, size in enumerate(("32K", "512K", "32768K")):
        (cache / f"index{index}").mkdir(parents=True)
        (cache / f"index{index}/size").write_text(size + "\n")
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
    assert cgroup_quota(root) == cpus
    facts = read_cpu(root)
    assert facts.vcpus == (4 if cpus is None else 2)
    chip = identify_cpu("cpu", root)
    assert chip is not None
    assert chip.unit == ("package" if cpus is None else "cpu-share")


def test_quota_of_the_own_group_in_version_1_is_read(tmp_path: Path) -> None:
    root = _machine(tmp_path)
    own = root / "sys/fs/cgroup/cpu/box"
    own.mkdir(parents=True)
    (own / "cpu.cfs_quota_us").write_text("200000")
    (own / "cpu.cfs_period_us").write_text("100000")
    (root / "proc/self/cgroup").write_text("4:memory:/box\n1:cpu,cpuacct:/box\n0::/\n")
    assert cgroup_quota(root) == 2.0


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


class FakeNvml:
    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.shut = False

    def nvmlInit(self) -> None:
        pass

    def nvmlShutdown(self) -> None:
        self.shut = True

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index > 1:
            raise self.NVMLError("invalid argument")
        return f"card{index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetName(self, handle: str) -> bytes:
        return b"NVIDIA H200" if handle == "card1" else b"NVIDIA H20"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(total=141 << 30)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 600_000

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: str) -> int:
        return 700_000

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def __getattr__(self, name: str) -> Any:
        def missing(*_: Any) -> None:
            raise self.NVMLError(f"{name} is not supported")

        return missing


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


def test_nvidia_card_is_named_by_nvml_with_its_power_limit(nvml: FakeNvml) -> None:
    chip = identify_nvidia("cuda:1")
    assert chip is not None
    assert (chip.name, chip.device_name, chip.unit) == ("nvidia-h200-sxm", "NVIDIA H200", "card")
    assert chip.identity["power_limit_w"] == 600.0
    assert chip.identity["power_limit_default_w"] == 700.0
    assert chip.context["driver"] == "580.1"
    assert nvml.shut


def test_visible_devices_renumber_the_cards(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    chip = identify_nvidia("cuda")
    assert chip is not None
    assert chip.name == "nvidia-h200-sxm"
    with pytest.raises(UsageError, match="cuda:1"):
        identify_nvidia("cuda:1")


def test_missing_bindings_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingBackendError) as caught:
        identify_nvidia("cuda")
    assert "chipmark[cuda]" in caught.value.hint
