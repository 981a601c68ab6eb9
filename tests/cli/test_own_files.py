"""--providers, --chips and --prices: files of the user's own for one command, or by a variable."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from chipmark.prices.book import EXAMPLE

DATA = Path(__file__).parents[1] / "data"
STORED = Path(__file__).parents[2] / "results" / "amd-epyc-zen4"


def test_chips_are_listed_shown_and_gone_afterwards(chipmark) -> None:
    own = ("--chips", DATA / "own_chips.toml", "--format", "json")
    assert "mychip-200" in {e["name"] for e in chipmark("chips", "list", *own).json}
    assert chipmark("chips", "show", "mychip-200", *own).json["dies"] == 2
    assert "CHIPMARK_CHIPS" not in os.environ
    assert chipmark("chips", "show", "mychip-200").code == 2


@pytest.mark.parametrize("variable", ["CHIPMARK_CHIPS", "CHIPMARK_PROVIDERS"])
def test_a_variable_that_names_no_file_is_said(chipmark, monkeypatch, variable) -> None:
    monkeypatch.setenv(variable, "/nowhere/mine.toml")
    answer = chipmark("run", "quick", "-b", "ort:cpu", "-o", "/nowhere/runs")
    assert answer.code == 2
    assert f"/nowhere/mine.toml: is not a file, but {variable}" in answer.err


def test_a_price_book_may_be_named_by_a_variable(chipmark, monkeypatch, tmp_path: Path) -> None:
    book = tmp_path / "mine.toml"
    book.write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setenv("CHIPMARK_PRICES", str(book))
    assert "prices: mine.toml" in chipmark("table", STORED).err
    assert "prices: mine.toml" in chipmark("cost", STORED).err
    monkeypatch.setenv("CHIPMARK_PRICES", str(tmp_path / "missing.toml"))
    assert chipmark("table", STORED).code == 2


@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"
)
def test_a_provider_of_the_users_own_is_measured_recorded_and_resumed_by_its_entry(
    chipmark, tmp_path: Path
) -> None:
    """An entry of another name for ONNX Runtime's own CPU provider."""
    path, out = tmp_path / "mine.toml", tmp_path / "runs"
    entry = '[mychip]\nkind = "classic"\nep_name = "CPUExecutionProvider"\ninstall = "ask"\n'
    path.write_text(entry)
    command = ["run", "quick", "-b", "ort:mychip", "-m", "tiny@synthetic", "-o", out]
    command += ["--scale", "1/256,1/64,0", "--sessions", "1", "--concurrency", "1"]
    command += ["--repeats", "1", "--audit-s", "0", "--format", "json"]
    assert chipmark(*command).code == 2  # without the file there is no such provider
    first = chipmark(*command, "--providers", path)
    assert first.code == 0, first.err
    notes = {note["code"]: note["text"] for note in first.json[0]["notes"]}
    assert "the user's mine.toml, sha256 " in notes["unverified_provider"]
    (record,) = out.glob("*/record.json")
    files = json.loads(record.read_text())["manifest"]["environment"]["user_files"]
    assert len(files) == 1
    assert files[0].startswith("the user's mine.toml, sha256 ")
    path.write_text(entry + '[other]\nmodule = "ep_other"\n')
    assert "skipped" in chipmark(*command, "--providers", path).err
    path.write_text(entry + 'graph = "contrib"\n')
    assert "skipped" not in chipmark(*command, "--providers", path).err
    assert len(list(out.glob("*/record.json"))) == 2
