"""Files of the user's own: added to the built-in data, never in its place, named where wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from chipmark import user_files
from chipmark.backends.ort.providers import find_provider, known_providers
from chipmark.backends.torch_device.devices import open_device, plugin_modules
from chipmark.chips.catalogue import catalogue
from chipmark.chips.detect import identify_vendor
from chipmark.errors import BadInputError, MissingBackendError, UnknownNameError

CHIP = (Path(__file__).parent / "data" / "own_chips.toml").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(user_files.VARIABLE, str(tmp_path))
    catalogue.cache_clear()
    yield tmp_path
    catalogue.cache_clear()


def test_the_folder_follows_the_variable_then_xdg_then_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv(user_files.VARIABLE, raising=False)
    assert user_files.config_folder() == tmp_path / ".config/chipmark"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "x"))
    assert user_files.config_folder() == tmp_path / "x/chipmark"
    monkeypatch.setenv(user_files.VARIABLE, "~/mine")
    assert user_files.config_folder() == tmp_path / "mine"


def test_nothing_there_changes_nothing(folder):
    assert user_files.user_file("chips.toml") is None
    assert "mychip" not in plugin_modules()


def test_a_chip_and_its_vendor_are_known_and_their_origin_is_evidence(folder):
    (folder / "chips.toml").write_text(CHIP)
    vendor = catalogue().vendors["MyVendor"]
    chip = identify_vendor(vendor, "MyChip 200", folder)
    assert (chip.name, chip.of, chip.verified) == ("mychip-200", 2, False)
    assert any("chips.toml, sha256" in text for text in chip.evidence)
    assert "nvidia-h200-sxm" in catalogue().chips


def test_a_provider_is_found_by_its_name_and_says_its_file(folder):
    text = '[mychip]\nep_name = "MyEP"\nmodule = "ep_mychip"\ninstall = "ask the vendor"\n'
    (folder / "providers.toml").write_text(text)
    provider = find_provider("mychip")
    assert provider.ep_name == "MyEP"
    assert not provider.verified
    assert "providers.toml" in provider.origin
    assert known_providers()["cpu"].origin == ""


def test_a_torch_device_names_its_module(folder):
    (folder / "torch_devices.toml").write_text('[mychip]\nmodule = "torch_mychip"\n')
    with pytest.raises(MissingBackendError, match="torch_mychip"):
        open_device("mychip:0")
    with pytest.raises(UnknownNameError, match="mychip"):
        open_device("mychp")


@pytest.mark.parametrize(
    ("name", "text", "field", "read"),
    [
        ("chips.toml", CHIP.replace("mychip-200", "nvidia-h20"), "nvidia-h20", catalogue),
        (
            "chips.toml",
            CHIP.replace('"MyVendor"\ndevices', '"NVIDIA"\ndevices'),
            "NVIDIA",
            catalogue,
        ),
        ("chips.toml", CHIP.replace("[[vendor]]", "[vendor]"), "vendor", catalogue),
        ("chips.toml", CHIP.replace("dies = 2", 'dies = "2"'), "mychip-200.dies", catalogue),
        ("chips.toml", CHIP.replace("'MyChip 200'", "'MyChip('"), "mychip-200.match", catalogue),
        ("chips.toml", CHIP.replace("mychip-200", "amd-epyc-zen4"), "amd-epyc-zen4", catalogue),
        ("providers.toml", '[mychip]\nkind = "clasic"\n', "mychip.kind", known_providers),
        ("providers.toml", '[mychip]\nprecisions = "fp32"\n', "mychip.precisions", known_providers),
        ("providers.toml", "[mychip]\nprecisions = [1]\n", "mychip.precisions", known_providers),
        ("providers.toml", "[mychip]\nep_name = 5\n", "mychip.ep_name", known_providers),
        ("providers.toml", "[cpu]\n", "cpu", known_providers),
        ("providers.toml", "[default]\n", "default", known_providers),
        ("providers.toml", "mychip = 1\n", "mychip", known_providers),
        ("providers.toml", "[mychip]\nverified = true\n", "mychip.verified", known_providers),
        ("torch_devices.toml", '[cuda]\nmodule = "x"\n', "cuda", plugin_modules),
        ("torch_devices.toml", "[mychip]\nmodule = 1\n", "mychip", plugin_modules),
        ("torch_devices.toml", '[mychip]\nmodul = "x"\n', "mychip", plugin_modules),
    ],
)
def test_what_is_wrong_is_named_with_file_and_field(folder, name, text, field, read):
    (folder / name).write_text(text)
    with pytest.raises(BadInputError) as caught:
        read()
    assert str(folder / name) in caught.value.message
    assert field in caught.value.message


@pytest.mark.parametrize("raw", [b"[", b"\xff"])
def test_a_file_that_is_invalid_toml_is_named(folder, raw):
    (folder / "chips.toml").write_bytes(raw)
    with pytest.raises(BadInputError, match=r"chips\.toml: (invalid TOML|is not UTF-8)"):
        catalogue()


def test_a_folder_that_is_named_and_missing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(user_files.VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(BadInputError, match="is not a folder"):
        user_files.user_file("chips.toml")
