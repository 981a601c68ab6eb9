"""What quantising loses: scored once, cached, checked again, and in the cell with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chipmark.cell import quality as of_cell
from chipmark.cell.inputs import CellInputs
from chipmark.cell.quality import check_quality
from chipmark.cell.reference import References, Weights
from chipmark.cell.text_score import _head, score_file, text_score
from chipmark.cell.workloads import ModelInUse, prepare_model
from chipmark.errors import CellFailedError, ChipmarkError
from chipmark.results.manifest import QualityResult
from chipmark.results.quality_loss import perplexities, quality_lost
from chipmark_models.quality_text import QualityText, TextScore
from chipmark_models.weights.prepared import WeightSpec, open_any, prepare_spec
from chipmark_models.weights.source import WeightRef

pytest.importorskip("torch")
REF = WeightRef("synthetic", "tiny", None, 0)


@pytest.fixture
def references(tmp_path: Path) -> Iterator[References]:
    with References(tmp_path / "cache", tmp_path / "oracle") as found:
        yield found


def weights_in(precision: str, folder: Path) -> Weights:
    spec = prepare_spec(REF, precision, folder, to_disk=True)
    return Weights(spec.to_dict(), open_any(spec).source_hash, precision)


def written_by_the_source(lengths: tuple[int, ...]) -> list[np.ndarray]:
    """Sequences that the seeded model itself writes, so that damage to it can be seen: of any other
    text it knows nothing that quantising could lose."""
    from chipmark_models.oracle import Oracle

    source = open_any(WeightSpec(REF, "fp32", None))
    oracle = Oracle(source.config, source.float32)
    found = []
    for start, length in enumerate(lengths):
        ids = [start + 3]
        while len(ids) < length:
            logits = oracle.logits([np.array(ids)], [np.array([len(ids) - 1])])[0][0]
            ids.append(int(logits.argmax()))
        found.append(np.array(ids, np.int32))
    return found


def result(own: TextScore, source: TextScore) -> QualityResult:
    return QualityResult(reason=None, tokens=own.count, nll=own.nll, nll_source=source.nll)


@pytest.mark.long
def test_a_wrong_scale_is_barred_and_the_right_one_is_not(
    references: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = written_by_the_source((24, 24))
    source = Weights(WeightSpec(REF, "fp32", None).to_dict(), "s", "fp32")
    known = text_score(references, source, text)
    good = text_score(references, weights_in("w8", tmp_path / "good"), text)
    assert quality_lost(result(good, known)) == ""

    from chipmark_models.weights import quantise

    right = quantise._scales
    monkeypatch.setattr(quantise, "_scales", lambda top, precision: right(top / 4, precision))
    broken = replace(weights_in("w4", tmp_path / "broken"), source_hash="broken")
    bad = text_score(references, broken, text, "bf16")
    lost = quality_lost(result(bad, known))
    assert "over the source's" in lost
    assert "up to 5% is ranked" in lost


def test_a_score_is_computed_once_and_believed_only_where_the_oracle_confirms_it(
    references: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = [np.arange(2, 30, dtype=np.int32), np.arange(40, 9, -1, dtype=np.int32)]
    weights = weights_in("fp32", tmp_path / "prepared")
    first = text_score(references, weights, text)
    assert (first.count, first.cached) == (57, False)
    asked: list[int] = []
    oracle = references.oracle(weights)
    real = oracle.token_nll
    monkeypatch.setattr(
        oracle, "token_nll", lambda parts, rounded: asked.append(len(parts)) or real(parts, rounded)
    )
    assert text_score(references, weights, text) is first
    assert asked == []
    references.scores.clear()
    again = text_score(references, weights, text)
    assert again == replace(first, cached=True)
    assert asked == [1]
    path = score_file(references.folder, _head(weights, text, ""))
    for forged in ("values", "cut", "another"):
        if forged == "cut":
            path.write_bytes(b"PK")
        elif forged == "another":
            np.savez(path, **{"0": np.ones(3), "1": np.ones(30)})
        else:
            stored = dict(np.load(path))
            np.savez(path, **{name: nll - 0.01 for name, nll in stored.items()})
        references.scores.clear()
        assert text_score(references, weights, text) == first
        assert "computed anew" in references.remarks.pop()


def test_weights_precision_rounding_and_tokens_make_another_score() -> None:
    ids = [np.array([1, 2, 3], np.int32)]
    plain = Weights({}, "abc", "w8")
    heads = {
        _head(plain, ids, ""),
        _head(plain, ids, "bf16"),
        _head(plain, [ids[0][:2], ids[0][2:]], ""),
        _head(replace(plain, precision="w4"), ids, ""),
        _head(replace(plain, source_hash="abd"), ids, ""),
    }
    assert len(heads) == 5


def cell_of(
    references: Any, in_use: ModelInUse | None, precision: str, activation: str = "bf16"
) -> Any:
    """A loaded cell, as far as its quality asks."""
    inputs = SimpleNamespace(in_use=in_use, plan=SimpleNamespace(precision=precision))
    inputs.no_quality = CellInputs.no_quality.fget(inputs)  # type: ignore[attr-defined]
    notes: list[Any] = []
    weights = None
    if in_use is not None:
        weights = Weights(in_use.spec, in_use.identity.source_hash, precision)
    return SimpleNamespace(
        inputs=inputs, references=references, weights=weights, notes=notes, take=notes.extend,
        loaded=SimpleNamespace(precision=SimpleNamespace(activation=activation)),
    )  # fmt: skip


@pytest.fixture
def in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelInUse:
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path))
    return prepare_model(REF, "w8", "triton:cuda", lambda text: None)


def real(in_use: ModelInUse) -> ModelInUse:
    """The same weights, as if a checkpoint had them."""
    identity = in_use.identity.model_copy(update={"source_kind": "gguf"})
    return replace(in_use, identity=identity)


def test_plain_and_synthetic_weights_have_none(in_use: ModelInUse) -> None:
    assert check_quality(cell_of(None, None, "fp32")).reason == "not_quantised"
    assert check_quality(cell_of(None, in_use, "bf16")).reason == "not_quantised"
    assert check_quality(cell_of(None, in_use, "w8")).reason == "synthetic_weights"


def test_a_cell_scores_its_own_weights_and_the_sources(
    references: References, in_use: ModelInUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = QualityText(("some words", "and others"), "f" * 64)
    monkeypatch.setattr(of_cell, "quality_text", lambda: own)
    tokenizer = SimpleNamespace(encode=lambda text: list(text.encode()))
    monkeypatch.setattr(of_cell, "open_tokenizer", lambda ref: tokenizer)
    cell = cell_of(references, real(in_use), "w8")
    found = check_quality(cell)
    assert (found.reason, found.tokens, found.rounded) == (None, 18, "bf16")
    assert found.text_sha256 == "f" * 64
    assert found.nll != found.nll_source
    ratio = perplexities(found)["perplexity_ratio"]
    assert ratio is not None
    assert 0.9 < ratio < 1.1
    assert cell.notes == []
    assert references.oracle(Weights(
        WeightSpec(REF, "fp32", None).to_dict(), "", "fp32"
    ))._child is None  # fmt: skip
    eight = check_quality(cell_of(references, real(in_use), "w8", "bf16, int8 into products"))
    assert eight.rounded == ""


def test_products_that_the_oracle_cannot_round_are_named(
    references: References, in_use: ModelInUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = TextScore(1.0, 2, False)
    monkeypatch.setattr(of_cell, "text_score", lambda *asked: score)
    tokenizer = SimpleNamespace(encode=lambda text: [1, 2, 3])
    monkeypatch.setattr(of_cell, "open_tokenizer", lambda ref: tokenizer)
    cell = cell_of(references, real(in_use), "w8", "fp32, int8 into products")
    assert check_quality(cell).nll == 1.0
    assert [(n.code, "int8" in n.text) for n in cell.notes] == [("precision_note", True)]


@pytest.mark.parametrize("fails", ["no tokenizer", "no tokens", "no torch", "the oracle"])
def test_what_cannot_be_scored_is_a_reason_and_a_note(
    fails: str, references: References, in_use: ModelInUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_tokenizer(ref: WeightRef) -> Any:
        if fails == "no tokenizer":
            raise ChipmarkError("there is none")
        return SimpleNamespace(encode=lambda text: [] if fails == "no tokens" else [1, 2, 3])

    def no_score(*asked: object) -> TextScore:
        raise CellFailedError("it died")

    monkeypatch.setattr(of_cell, "open_tokenizer", no_tokenizer)
    monkeypatch.setattr(of_cell, "text_score", no_score)
    monkeypatch.setattr(of_cell, "oracle_here", lambda: fails != "no torch")
    cell = cell_of(references, real(in_use), "w8")
    reason = "no_tokenizer" if fails.startswith("no tok") else "no_oracle"
    assert check_quality(cell) == QualityResult(reason=reason)
    (note,) = cell.notes
    assert note.text.startswith("no perplexity: ")
