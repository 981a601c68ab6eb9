"""Files of the user's own: added to the built-in data, never in its place, named where wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from chipmark import user_files
from chipmark.backends.ort import providers
from chipmark.backends.ort.providers import find_provider, known_providers
from chipmark.backends.torch_device.devices import open_device, plugin_modules
from chipmark.chips.catalogue import catalogue
from chipmark.chips.detect import identify_vendor
from chipmark.errors import BadInputError, MissingBackendError, UnknownNameError

CHIP = (Path(__file__).parent / "data" / "own_chips.toml").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(user_files.VARIABLE, str(tmp_path))
    for variable in user_files.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


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
    assert user_files.user_file(user_files.CHIPS) is None
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
        ("providers.toml", '[mychip]\nmodul = "x"\n', "mychip.modul", known_providers),
        ("providers.toml", '[mychip]\nep_name = "X"\n', "mychip.module", known_providers),
        ("providers.toml", '[mychip]\nkind = "classic"\n', "mychip.ep_name", known_providers),
        ("providers.toml", "[mychip]\noptions = 1\n", "mychip.options", known_providers),
        ("providers.toml", "[mychip]\naccuracy_level = 5\n", "accuracy_level", known_providers),
        ("providers.toml", "[mychip]\naccuracy_level = '4'\n", "accuracy_level", known_providers),
        ("providers.toml", "[mychip]\nquantised = 'Gemm'\n", "mychip.quantised", known_providers),
        ("providers.toml", "[mychip.options]\na = 1\n", "mychip.options.a", known_providers),
        ("providers.toml", "[mychip.emulated_on]\na = 1\n", "emulated_on.a", known_providers),
        (
            "providers.toml",
            "[mychip.precision_options]\nfp32 = 1\n",
            "mychip.precision_options.fp32",
            known_providers,
        ),
        (
            "providers.toml",
            "[mychip.precision_options.fp31]\na = 'b'\n",
            "mychip.precision_options",
            known_providers,
        ),
        ("providers.toml", '[mychip]\ngraph = "plane"\n', "mychip.graph", known_providers),
        ("providers.toml", '[mychip]\nstatic = ["bach"]\n', "mychip.static", known_providers),
        ("providers.toml", '[mychip]\nprecisions = ["f32"]\n', "precisions", known_providers),
        ("providers.toml", "[mychip]\nprecisions = []\n", "precisions", known_providers),
        (
            "providers.toml",
            '[mychip]\nquantised = "QMat"\n',
            "mychip.quantised",
            known_providers,
        ),
        ("providers.toml", "[mychip]\naccuracy_level = 9\n", "accuracy_level", known_providers),
        ("providers.toml", "[mychip]\naccuracy_level = true\n", "accuracy_level", known_providers),
        ("providers.toml", '[mychip]\ndevice = "GPU"\n', "mychip.device", known_providers),
        ("providers.toml", "[mychip]\nchunk_buckets = [9, 4]\n", "chunk_buckets", known_providers),
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
        user_files.user_file(user_files.CHIPS)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ('[mychip]\nmodul = "x"\n', "did you mean module"),
        ('[mychip]\nmodule = "x"\ngraph = "plane"\n', "did you mean plain"),
        ('[mychip]\nmodule = "x"\nstatic = ["bach"]\n', "did you mean batch"),
        ('[mychip]\nmodule = "x"\nprecisions = ["fp8x"]\n', "did you mean fp8"),
    ],
)
def test_an_unknown_name_in_a_providers_file_gets_near_ones(folder, text, near):
    (folder / "providers.toml").write_text(text)
    with pytest.raises(BadInputError, match=near):
        known_providers()


def test_every_field_of_the_built_in_list_may_be_given(folder):
    """A copy of each built-in entry under another name is taken as it is."""
    tables = tomllib.loads(Path(providers.__file__).with_name("providers.toml").read_text())
    tables.pop("default")
    lines = []
    for name, table in tables.items():
        table.pop("verified", None)
        lines += _lines(f"my_{name}", table)
    (folder / "providers.toml").write_text("\n".join(lines))
    known = known_providers()
    for name in tables:
        mine = replace(known[f"my_{name}"], name=name, origin="", verified=known[name].verified)
        assert mine == known[name]


def _lines(head: str, table: dict[str, object]) -> list[str]:
    """A table as TOML; JSON's texts, lists and numbers are TOML's too."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"[{head}]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in plain.items())]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _lines(f"{head}.{json.dumps(key)}", value)
    return lines


def test_an_option_that_is_no_text_says_how_to_write_it(folder):
    (folder / "providers.toml").write_text("[mychip]\nmodule = 'x'\n[mychip.options]\na = true\n")
    with pytest.raises(BadInputError) as caught:
        known_providers()
    assert caught.value.hint == 'as a = "true"'


def test_a_file_that_a_variable_names_is_read_in_place_of_the_folders(folder, monkeypatch):
    (folder / "providers.toml").write_text('[one]\nmodule = "ep_one"\n')
    named = folder / "of-this-project.toml"
    named.write_text('[two]\nmodule = "ep_two"\n')
    assert "one" in known_providers()
    monkeypatch.setenv("CHIPMARK_PROVIDERS", str(named))
    known = known_providers()
    assert "one" not in known
    assert known["two"].origin.startswith("the user's of-this-project.toml, sha256 ")
    assert user_files.labels() == [known["two"].origin]
    monkeypatch.setenv("CHIPMARK_PROVIDERS", str(folder / "missing.toml"))
    with pytest.raises(BadInputError, match="is not a file, but CHIPMARK_PROVIDERS"):
        known_providers()


def test_files_in_use_are_those_of_children_too_and_gone_afterwards(folder, monkeypatch):
    monkeypatch.chdir(folder)
    Path("mine.toml").write_text(CHIP)
    before = dict(os.environ)
    with user_files.using(chips="mine.toml", providers=None):
        assert "mychip-200" in catalogue().chips
        code = "from chipmark.chips.catalogue import catalogue; print(*catalogue().chips)"
        told = subprocess.run(
            [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True
        )
        assert "mychip-200" in told.stdout.split()
    assert dict(os.environ) == before
    assert "mychip-200" not in catalogue().chips


def test_a_named_file_that_is_not_there_is_refused_before_anything_is_done(folder):
    before = dict(os.environ)
    with (
        pytest.raises(BadInputError, match=r"nowhere\.toml: is not a file"),
        user_files.using(providers=folder / "nowhere.toml"),
    ):
        raise AssertionError("the body must not run")
    assert dict(os.environ) == before


def test_a_library_beside_the_file_is_found_from_anywhere(folder):
    text = '[mychip]\nlibrary = "lib/libmychip_ep.so"\nep_name = "MyEP"\n'
    (folder / "providers.toml").write_text(text)
    assert find_provider("mychip").library == str(folder.resolve() / "lib/libmychip_ep.so")
