"""What a record keeps of quantised weights: both hashes, the error, and what was left as it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chipmark.cell import assemble
from chipmark.cell.protocol import Words
from chipmark.cell.settings import RunOptions
from chipmark.cell.workloads import ModelInUse, prepare_model
from chipmark.chips.contract import ChipIdentity
from chipmark.engine.computed import linear_input_of
from chipmark.errors import UnknownNameError
from chipmark.meters.pick import Picked
from chipmark.results.manifest import PrecisionId
from chipmark_models.precision import precision_class
from chipmark_models.weights.open import open_weights
from chipmark_models.weights.source import WeightRef
from chipmark_models.weights.writer import encode_all

REF = WeightRef("synthetic", "tiny", None, 0)


@pytest.fixture
def in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelInUse:
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path))
    return prepare_model(REF, "w4", "triton:cuda", lambda text: None)


def cell_of(in_use: ModelInUse | None) -> Any:
    inputs = SimpleNamespace(
        in_use=in_use,
        meters=Picked(),
        settings=RunOptions(),
        chip=ChipIdentity("chip", "vendor", "device", "card", 1, 1),
        model=in_use.identity if in_use else SimpleNamespace(source_kind="sim"),
    )
    return SimpleNamespace(inputs=inputs, loaded=None, notes=[])


def test_both_hashes_and_the_error_are_kept(in_use: ModelInUse) -> None:
    source = open_weights(REF)
    assert in_use.identity.source_hash == source.hash
    assert in_use.identity.weights_hash == encode_all(source, "w4").precision_hash
    kept = in_use.quantised
    assert kept["label"] == "w4/g32+64"
    assert 0.05 < kept["weight_error"]["rms_rel"] < kept["weight_error"]["worst_rms_rel"] < 0.2
    assert assemble._quantised(cell_of(in_use)) == {"quantised": kept}
    assert assemble._quantised(cell_of(None)) == {}


def test_matrices_without_a_group_are_told_of(in_use: ModelInUse) -> None:
    notes = [n for n in assemble._notes(cell_of(in_use)) if n.code == "precision_note"]
    assert [n.text for n in notes] == [
        "3 matrices stay bf16, as no group divides their rows: "
        "model.layers.0.mlp.down_proj.weight first"
    ]
    none = assemble._notes(cell_of(None))
    assert not [n for n in none if n.code == "precision_note"]


def test_plain_weights_keep_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path))
    assert prepare_model(REF, "bf16", "torch:cpu", lambda text: None).quantised == {}


def test_a_cell_that_failed_before_it_loaded_has_what_its_precision_is() -> None:
    assert assemble._precision("fp8", None) == PrecisionId(
        requested="fp8",
        weights="fp8",
        activation="fp8",
        kv="bf16",
        accumulate="unknown",
        class_name="fp8",
    )
    told = Words("w4", "bf16", "bf16", "fp32")
    assert assemble._precision("w4", told).class_name == "w4a16"


@pytest.mark.parametrize(
    ("weights", "activation", "kv", "class_name"),
    [
        ("fp32", "fp32", "fp32", "fp32"),
        ("fp32", "fp32, bf16 into decode attention", "bf16", "fp32"),
        ("fp32", "bf16", "fp32", "16-bit"),
        ("fp32", "fp32, fp16 into products", "fp32", "16-bit"),
        ("fp32", "fp8", "fp32", "fp8"),
        ("bf16", "bf16, fp8 into products", "bf16", "fp8"),
        ("bf16", "int8", "bf16", "w8a8"),
        ("bf16", "bf16", "int8", "16-bit+kv8"),
        ("w8", "int8", "bf16", "w8a8"),
        ("w8", "fp32, int8 by group into products", "fp32", "w8a8"),
        ("w4", "fp32, int8 by group into products", "fp32", "w4a8"),
        ("w4", "fp32", "fp32", "w4a16"),
    ],
)
def test_the_class_is_of_the_narrowest_that_products_take(
    weights: str, activation: str, kv: str, class_name: str
) -> None:
    assert precision_class(weights, linear_input_of(activation), kv) == class_name


def test_a_kv_type_that_nobody_knows_has_no_class() -> None:
    with pytest.raises(UnknownNameError, match="KV type 'q5'"):
        precision_class("fp32", "fp32", "q5")
