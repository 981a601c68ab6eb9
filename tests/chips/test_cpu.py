from __future__ import annotations

from pathlib import Path

import pytest

from chipmark.chips.caches import last_level_cache
from chipmark.chips.cpu import read_cpu
from chipmark.chips.cpu_makers import maker_of, slug
from chipmark.chips.cpulist import cpu_list
from chipmark.chips.identify import identify_cpu

ARM = """processor\t: {n}
Features\t: fp asimd sve
CPU implementer\t: {implementer}
CPU architecture: 8
CPU part\t: {part}
"""


def arm(root: Path, parts: list[tuple[str, str]], packages: list[str], vendor: str = "") -> Path:
    blocks = [ARM.format(n=n, implementer=i, part=p) for n, (i, p) in enumerate(parts)]
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text("\n".join(blocks))
    for cpu, package in enumerate(packages):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{package}\n")
    if vendor:
        (root / "sys/devices/virtual/dmi/id").mkdir(parents=True)
        (root / "sys/devices/virtual/dmi/id/sys_vendor").write_text(f"{vendor}\n")
    return root


@pytest.mark.parametrize(
    ("implementer", "part", "platform", "name", "vendor"),
    [
        ("0x48", "0xd01", "", "cpu-hisilicon-kunpeng-920", "HiSilicon"),
        ("0x70", "0x862", "", "cpu-phytium-ftc862", "Phytium"),
        ("0x41", "0xd40", "Somebody", "cpu-arm-neoverse-v1", "ARM"),
        ("0xc0", "0xac3", "", "cpu-ampere-1", "Ampere"),
        ("0x61", "0x023", "", "cpu-apple-firestorm-m1", "Apple"),
        ("0x41", "0xfff", "", "cpu-arm-part-0xfff", "ARM"),
        ("0x99", "0x001", "", "cpu-implementer-0x99-part-0x001", "implementer-0x99"),
    ],
)
def test_arm_is_told_by_implementer_and_part(
    tmp_path: Path, implementer: str, part: str, platform: str, name: str, vendor: str
) -> None:
    chip = identify_cpu("cpu", arm(tmp_path, [(implementer, part)] * 2, ["0", "1"], platform))
    assert chip is not None
    assert (chip.name, chip.vendor, chip.unit, chip.used) == (name, vendor, "package", 2)


def test_clouds_name_of_a_core_is_told_by_the_platform(tmp_path: Path) -> None:
    chip = identify_cpu("cpu", arm(tmp_path, [("0x41", "0xd40")], ["0"], "Amazon EC2"))
    assert chip is not None
    assert chip.name == "cpu-arm-graviton3-neoverse-v1"


def test_sockets_without_physical_id_are_counted_by_topology(tmp_path: Path) -> None:
    root = arm(tmp_path, [("0x48", "0xd01")] * 4, ["36", "36", "40", "40"])
    assert read_cpu(root).sockets == 2


def test_unknown_topology_is_one_socket(tmp_path: Path) -> None:
    assert read_cpu(arm(tmp_path, [("0x41", "0xd0c")] * 2, ["-1", "-1"])).sockets == 1


def test_two_kinds_of_core_are_in_the_identity(tmp_path: Path) -> None:
    chip = identify_cpu("cpu", arm(tmp_path, [("0x61", "0x022"), ("0x61", "0x023")], []))
    assert chip is not None
    assert chip.identity["core_kinds"] == ["Apple Firestorm-M1", "Apple Icestorm-M1"]


@pytest.mark.parametrize(
    ("block", "maker", "name"),
    [
        (
            {"vendor_id": "HygonGenuine", "model name": "Hygon C86 7390 32-core Processor"},
            "Hygon", "cpu-hygon-c86-7390",
        ),
        (
            {"vendor_id": "  Shanghai  ", "model name": "ZHAOXIN KaiSheng KH-40000/32"},
            "Zhaoxin", "cpu-zhaoxin-kaisheng-kh-40000-32",
        ),
        ({"vendor_id": "CentaurHauls", "model name": "ZX-D"}, "Zhaoxin", "cpu-zhaoxin-zx-d"),
        (
            {"vendor_id": "GenuineIntel", "model name": "Intel(R) Xeon(R) Gold 6230 CPU @ 2.1GHz"},
            "Intel", "cpu-intel-xeon-gold-6230",
        ),
        (
            {"CPU Family": "Loongson-64bit", "Model Name": "Loongson-3C5000"},
            "Loongson", "cpu-loongson-3c5000",
        ),
        ({"cpu model": "Loongson-3 V0.4"}, "Loongson", "cpu-loongson-3-v0-4"),
        (
            {"isa": "rv64imafdcv", "mvendorid": "0x5b7", "marchid": "0x0"},
            "T-Head", "cpu-t-head-marchid-0x0",
        ),
        ({"isa": "rv64gc", "uarch": "sifive,u74-mc"}, "sifive", "cpu-sifive-u74-mc"),
        ({"cpu": "POWER9 (architected)"}, "IBM", "cpu-ibm-power9-architected"),
        ({}, "", "cpu-unknown-x99"),
    ],
)  # fmt: skip
def test_makers_are_told_apart(block: dict[str, str], maker: str, name: str) -> None:
    found = maker_of(block, machine="x99")
    assert found.maker == maker
    assert slug(found.maker, found.model_name) == name


def test_loongarch_counts_its_packages(tmp_path: Path) -> None:
    block = "processor\t\t: {n}\npackage\t\t\t: {p}\nCPU Family\t\t: Loongson-64bit\n"
    block += "Model Name\t\t: Loongson-3C5000\nFeatures\t\t: cpucfg fpu lsx lasx\n"
    (tmp_path / "proc").mkdir()
    text = "system type\t\t: generic-loongson-machine\n\n"
    text += "\n".join(block.format(n=n, p=n // 2) for n in range(4))
    (tmp_path / "proc/cpuinfo").write_text(text)
    facts = read_cpu(tmp_path)
    assert (facts.maker, facts.sockets, facts.isa) == ("Loongson", 2, ("lsx", "lasx"))


def test_a_products_number_of_another_maker_is_not_its_entry(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor : 0\nvendor_id : HygonGenuine\ncpu family : 24\nmodel : 1\n"
        "model name : Hygon EPYC 7763 lookalike\n"
    )
    chip = identify_cpu("cpu", tmp_path)
    assert chip is not None
    assert (chip.name, chip.vendor) == ("cpu-hygon-epyc-7763-lookalike", "Hygon")


def cache(root: Path, cpu: int, caches: list[tuple[int, str, str, str]]) -> None:
    for index, (level, kind, size, shared) in enumerate(caches):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
        folder.mkdir(parents=True)
        fields = {"level": level, "type": kind, "size": size, "shared_cpu_list": shared}
        for name, value in fields.items():
            (folder / name).write_text(f"{value}\n")


def test_last_level_cache_is_the_sum_over_the_clusters_in_use(tmp_path: Path) -> None:
    for cpu in range(8):
        cluster = "0-3" if cpu < 4 else "4-7"
        own = [(1, "Instruction", "64M", str(cpu)), (2, "Unified", "1M", str(cpu))]
        cache(tmp_path, cpu, [*own, (3, "Unified", "32768K", cluster)])
    assert last_level_cache(range(8), tmp_path) == 64 << 20
    assert last_level_cache([1, 2], tmp_path) == 32 << 20
    assert last_level_cache([3, 4], tmp_path) == 64 << 20


def test_without_an_l3_it_is_the_l2(tmp_path: Path) -> None:
    for cpu in range(4):
        shared = "0-1" if cpu < 2 else "2-3"
        cache(tmp_path, cpu, [(1, "Data", "64K", str(cpu)), (2, "Unified", "2M", shared)])
    assert last_level_cache(range(4), tmp_path) == 4 << 20


def test_cache_whose_sharers_are_not_said_is_unknown(tmp_path: Path) -> None:
    cache(tmp_path, 0, [(3, "Unified", "32M", "")])
    assert last_level_cache([0], tmp_path) is None
    assert last_level_cache([5], tmp_path) is None


def test_share_by_affinity_is_a_share_with_its_own_cache(tmp_path: Path) -> None:
    root = arm(tmp_path, [("0x48", "0xd01")] * 4, ["0", "0", "1", "1"])
    for cpu in range(4):
        cache(root, cpu, [(3, "Unified", "32M", "0-1" if cpu < 2 else "2-3")])
    whole, share = read_cpu(root), read_cpu(root, mask={0, 1})
    assert (whole.vcpus, whole.llc_bytes) == (4, 64 << 20)
    assert (share.vcpus, share.online, share.llc_bytes) == (2, 4, 32 << 20)


def test_machine_that_proc_shows_in_part_is_counted_by_sys(tmp_path: Path) -> None:
    root = arm(tmp_path, [("0x41", "0xd0c")] * 2, ["0", "0"])
    (root / "sys/devices/system/cpu/online").write_text("0-63\n")
    assert read_cpu(root, mask={0, 1}).online == 64


@pytest.mark.parametrize(
    ("files", "unit"),
    [
        ({"sys_vendor": "Amazon EC2", "product_name": "c7g.xlarge"}, "cpu-share"),
        ({"sys_vendor": "Amazon EC2", "product_name": "c7g.metal"}, "package"),
        ({"sys_vendor": "QEMU", "product_name": "KVM Virtual Machine"}, "cpu-share"),
        ({"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine"}, "cpu-share"),
        ({"sys_vendor": "Huawei", "product_name": "TaiShan 200 (Model 2280)"}, "package"),
    ],
)
def test_virtual_machines_without_a_cpu_flag_are_shares(
    tmp_path: Path, files: dict[str, str], unit: str
) -> None:
    root = arm(tmp_path, [("0x41", "0xd40")] * 2, ["0", "0"], files["sys_vendor"])
    dmi = root / "sys/devices/virtual/dmi/id"
    (dmi / "product_name").write_text(files["product_name"])
    chip = identify_cpu("cpu", root)
    assert chip is not None
    assert chip.unit == unit


def test_device_tree_tells_a_virtual_machine(tmp_path: Path) -> None:
    root = arm(tmp_path, [("0x48", "0xd01")], ["0"])
    (root / "proc/device-tree/hypervisor").mkdir(parents=True)
    (root / "proc/device-tree/hypervisor/compatible").write_text("linux,kvm\0")
    chip = identify_cpu("cpu", root)
    assert chip is not None
    assert chip.unit == "cpu-share"
    assert any("linux,kvm" in line for line in chip.evidence)


def test_list_of_cpus() -> None:
    assert cpu_list("0-2,7, 9-9") == {0, 1, 2, 7, 9}
    assert cpu_list("") == cpu_list("none") == frozenset()
