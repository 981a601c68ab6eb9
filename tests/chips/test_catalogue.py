from __future__ import annotations

from pathlib import Path

import pytest

from chipmark.chips.catalogue import CATALOGUE_FILE, Quantity, catalogue
from chipmark.errors import BadInputError, UnknownNameError

GOOD = """
[[chip]]
name = "x"
title = "X"
vendor = "V"
unit = "card"
dies = 1
match = ['X']
memory = { value = 8, unit = "GB", source = "s", date = "2026-01", confidence = "H" }
"""


def _written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "chips.toml"
    path.write_text(text)
    return path


def test_every_number_has_source_date_and_confidence() -> None:
    known = catalogue()
    numbers = [
        getattr(entry, name)
        for entry in [*known.chips.values(), *known.cpus.values()]
        for name in entry.__dataclass_fields__
        if isinstance(getattr(entry, name), Quantity)
    ]
    assert len(numbers) > 200
    for number in numbers:
        if number.value is not None:
            assert number.source
            assert number.date
            assert number.confidence in "HMLK"


def test_unknown_is_a_legal_value_and_not_a_number() -> None:
    m100 = catalogue().chips["kunlun-m100"]
    assert m100.memory.value is None
    assert str(m100.memory) == "unknown"


def test_catalogue_covers_the_vendors_of_the_fleet() -> None:
    vendors = {entry.vendor for entry in catalogue().chips.values()}
    assert vendors >= {"NVIDIA", "AMD", "Huawei", "Kunlunxin", "Cambricon", "Hygon", "MetaX"}
    assert vendors <= set(catalogue().vendors)


@pytest.mark.parametrize(
    ("vendor", "device", "name"),
    [
        ("NVIDIA", "NVIDIA H200", "nvidia-h200-sxm"),
        ("NVIDIA", "NVIDIA H20", "nvidia-h20"),
        ("NVIDIA", "NVIDIA H100 80GB HBM3", "nvidia-h100-sxm"),
        ("NVIDIA", "NVIDIA A100-SXM4-80GB", "nvidia-a100-80g-sxm"),
        ("NVIDIA", "NVIDIA GeForce RTX 4090", "nvidia-rtx-4090"),
        ("NVIDIA", "NVIDIA GeForce RTX 4090 D", "nvidia-rtx-4090d"),
        ("Huawei", "Ascend910B4-1", "ascend-910b4-1"),
        ("Huawei", "910B4", "ascend-910b4"),
        ("Kunlunxin", "P800 OAM", "kunlun-p800"),
    ],
)
def test_device_names_find_their_entry(vendor: str, device: str, name: str) -> None:
    entry = catalogue().chip_named(vendor, device)
    assert entry is not None
    assert entry.name == name


def test_unlisted_device_finds_none() -> None:
    assert catalogue().chip_named("NVIDIA", "NVIDIA T4") is None


@pytest.mark.parametrize(
    ("vendor_id", "family", "model", "model_name", "name"),
    [
        ("AuthenticAMD", 25, 1, "AMD EPYC 7763 64-Core Processor", "amd-epyc-7763"),
        ("AuthenticAMD", 25, 1, "AMD EPYC", "amd-epyc-zen3"),
        ("GenuineIntel", 6, 143, "Intel(R) Xeon(R) Platinum 8480+", "intel-xeon-8480p"),
        ("GenuineIntel", 6, 143, "Intel(R) Xeon(R) Processor", "intel-xeon-sapphire-rapids"),
    ],
)
def test_cpu_is_found_by_name_else_by_family(
    vendor_id: str, family: int, model: int, model_name: str, name: str
) -> None:
    entry = catalogue().cpu_for(
        "AMD" if "AMD" in vendor_id else "Intel", vendor_id, family, model, model_name
    )
    assert entry is not None
    assert entry.name == name
    assert entry.assumed == (entry.cpuid is not None)


def test_names_are_unique_and_an_unknown_one_is_told_its_neighbours() -> None:
    text = CATALOGUE_FILE.read_text()
    names = [line for line in text.splitlines() if line.startswith("name = ")]
    assert len(names) == len(set(names))
    with pytest.raises(UnknownNameError, match="nvidia-h20") as caught:
        catalogue().entry("nvidia-h2")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("memory =", "memroy ="), "memory"),
        (("value = 8", "value = 0"), "not a positive number"),
        (('unit = "GB"', 'unit = "MB"'), "not 'GB'"),
        (('source = "s", ', ""), "exactly"),
        (('source = "s"', 'source = ""'), "source and date"),
        (('confidence = "H"', 'confidence = "X"'), "confidence"),
        (("dies = 1\n", ""), "x.dies"),
    ],
)
def test_bad_entry_names_file_and_field(
    tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    assert change[0] in GOOD
    path = _written(tmp_path, GOOD.replace(*change))
    with pytest.raises(BadInputError, match=problem) as caught:
        catalogue(path)
    assert str(path) in caught.value.message
