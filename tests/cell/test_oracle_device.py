"""The oracle on an accelerator, which here is the CPU by another name: the same code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chipmark.cell import reference
from chipmark.cell.contexts import turn_keys
from chipmark.cell.logits import distance
from chipmark.cell.oracle_child import OracleChild
from chipmark.cell.oracle_process import OracleProcess
from chipmark.cell.parity import all_turns, parity_trace
from chipmark.cell.reference import References, Weights
from chipmark.errors import CellFailedError
from chipmark_models.presets import PRESETS
from chipmark_models.weights.open import source_hash
from chipmark_models.weights.prepared import prepare_spec
from chipmark_models.weights.source import WeightRef

CONFIG = PRESETS["tiny"]
TRACE = parity_trace(CONFIG.vocab_size, (), 200)
KEYS = turn_keys(TRACE, all_turns(TRACE))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    ref = WeightRef("synthetic", "tiny", None, 0)
    spec = prepare_spec(ref, "fp32", tmp_path_factory.mktemp("weights"))
    return Weights(spec.to_dict(), source_hash(ref), "fp32", CONFIG)


@pytest.fixture
def accelerated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[References]:
    monkeypatch.setattr(reference, "ON_CPU_FLOPS", 0.0)
    with References(tmp_path / "cache", tmp_path / "o", accelerator="cpu:0") as found:
        yield found


@pytest.mark.long
def test_what_is_too_much_for_the_cpu_is_computed_on_the_accelerator_and_says_so(
    accelerated: References, weights: Weights, tmp_path: Path
) -> None:
    found = accelerated.of(weights, TRACE, KEYS)
    assert found.rows is not None
    assert found.id is not None
    assert (found.id.device, found.id.origin) == ("cpu:0", "computed")
    assert found.id.device_rms_rel is not None
    assert found.id.device_rms_rel < 1e-4
    assert 0 < found.id.device_tokens <= 1024
    (remark,) = accelerated.remarks
    assert "oracle on cpu:0 in plain torch fp32 without TF32 (unverified on hardware)" in remark
    accelerated.rest()  # the next process need not agree again
    drawn = accelerated.drawn(weights, TRACE, KEYS[:4], "", 60.0)
    assert drawn.id is not None
    assert drawn.id.device == "cpu:0"
    assert len(accelerated.remarks) == 1
    # What an accelerator computed is not kept for runs on the CPU.
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_small_work_stays_on_the_cpu(weights: Weights, tmp_path: Path) -> None:
    with References(tmp_path / "cache", tmp_path / "o", accelerator="cpu:0") as references:
        oracle = references.oracle(weights, TRACE)
        assert not oracle.accelerated
        assert oracle.provenance == {}
        assert references.remarks == []


@pytest.mark.long
def test_an_accelerator_that_is_not_there_is_refused_and_the_cpu_computes(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "ON_CPU_FLOPS", 0.0)
    with References(tmp_path / "cache", tmp_path / "o", accelerator="mps") as references:
        found = references.of(weights, TRACE, KEYS)
        assert found.id is not None
        assert (found.id.device, found.id.device_rms_rel) == ("cpu", None)
        (remark,) = references.remarks
        assert "no oracle on mps, the CPU's instead" in remark


def test_a_wrong_accelerator_is_refused_and_the_cpu_computes(
    accelerated: References, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def far(self: OracleProcess, trace: object) -> float:
        raise CellFailedError("the oracle on cpu:0 is rms 2.5e-03 from the CPU's")

    monkeypatch.setattr(OracleProcess, "agree", far)
    assert not accelerated.oracle(weights, TRACE).accelerated
    assert not accelerated.oracle(weights, TRACE).accelerated
    (remark,) = accelerated.remarks
    assert "rms 2.5e-03" in remark


@pytest.mark.parametrize("wrong", ["far", "tf32"])
def test_the_process_refuses_wrong_products(
    weights: Weights, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import chipmark_models.oracle as plain

    child = OracleChild({"model": weights.spec, "device": "cpu:0"})
    assert child._agree(TRACE)["rms_rel"] < 1e-4
    if wrong == "tf32":
        monkeypatch.setattr(plain, "products_are_exact", lambda: False)
    else:
        own = plain.Oracle.logits

        def logits(self: plain.Oracle, *arguments: object) -> list[np.ndarray]:
            found = own(self, *arguments)
            return [x * 1.003 for x in found] if self._exact else found

        monkeypatch.setattr(plain.Oracle, "logits", logits)
    with pytest.raises(CellFailedError, match="TF32" if wrong == "tf32" else "from the CPU's"):
        child._agree(TRACE)


@pytest.mark.long
def test_both_compute_the_same(accelerated: References, weights: Weights, tmp_path: Path) -> None:
    mine = accelerated.of(weights, TRACE, KEYS).rows
    with References(tmp_path / "other", tmp_path / "p") as references:
        its = references.of(weights, TRACE, KEYS).rows
    assert mine is not None
    assert its is not None
    assert distance(its, mine, 1e-4).passes(1e-4)
