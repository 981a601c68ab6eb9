from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chipmark.cell import oracle_process, reference
from chipmark.cell.contexts import turn_keys
from chipmark.cell.logits import LogitRows, distance, load_logits, save_logits
from chipmark.cell.parity import all_turns, parity_trace
from chipmark.cell.reference import (
    References,
    Weights,
    cached_file,
    carried,
    oracle_code,
)
from chipmark.errors import BadInputError, CellFailedError

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")

TRACE = parity_trace(512, (), 120)
KEYS = turn_keys(TRACE, ((0, 0), (1, 0), (1, 1)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    from chipmark_models.weights.prepared import open_any, prepare_spec
    from chipmark_models.weights.source import WeightRef

    ref = WeightRef("synthetic", "tiny", None, 0)
    spec = prepare_spec(ref, "fp32", tmp_path_factory.mktemp("prepared"))
    return Weights(spec.to_dict(), open_any(spec).source_hash, "fp32")


@pytest.fixture
def references(tmp_path: Path) -> Iterator[References]:
    with References(tmp_path / "cache", tmp_path / "oracle") as found:
        yield found


def _file(cache: Path, weights: Weights) -> Path:
    return cached_file(cache / "reference", weights.head(TRACE, KEYS, ""))


@needs_torch
def test_a_reference_is_the_oracles_and_is_computed_once(
    references: References, weights: Weights, tmp_path: Path
) -> None:
    from chipmark_models.oracle import Oracle
    from chipmark_models.weights.prepared import WeightSpec, open_any

    first = references.of(weights, TRACE, KEYS)
    assert first.rows is not None
    assert first.id is not None
    assert first.id.origin == "computed"
    assert references.of(weights, TRACE, KEYS) is first
    opened = open_any(WeightSpec.from_dict(weights.spec))
    session = TRACE.sessions[1]
    full = Oracle(opened.config, opened.float32).logits([session.tokens])[0]
    for (number, _, position), row in zip(first.rows.keys.tolist(), first.rows.logits, strict=True):
        if number == 1:
            assert np.abs(full[position] - row).max() < 1e-4
    stored = load_logits(_file(tmp_path / "cache", weights))
    assert np.array_equal(stored.logits, first.rows.logits)
    with References(tmp_path / "cache", tmp_path / "later") as later:
        again = later.of(weights, TRACE, KEYS)
        assert later.remarks == []
    assert again.id is not None
    assert again.id.origin == "cache"
    assert again.id.sha256 == first.id.sha256


@needs_torch
@pytest.mark.parametrize("forged", ["values", "head", "cut"])
def test_a_cached_reference_that_the_oracle_does_not_confirm_is_computed_anew(
    references: References, weights: Weights, tmp_path: Path, forged: str
) -> None:
    path = _file(tmp_path / "cache", weights)
    path.parent.mkdir(parents=True)
    head = weights.head(TRACE, KEYS, "")
    if forged == "cut":
        path.write_bytes(b"PK")
    else:
        right = references.oracle(weights).compute(TRACE, KEYS)[0]
        bent = right.logits * (1.01 if forged == "values" else 1.0)
        save_logits(path, LogitRows(right.keys, bent), head if forged == "values" else "{}")
    found = references.of(weights, TRACE, KEYS)
    assert found.id is not None
    assert found.id.origin == "computed"
    (remark,) = references.remarks
    assert "computed anew" in remark


@needs_torch
def test_a_file_that_changes_between_the_oracle_and_its_use_is_found(
    references: References, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = oracle_process.ChildProcess.ask

    def meddle(child: oracle_process.ChildProcess, *reported: object, **more: object) -> object:
        answer = ask(child, *reported, **more)  # type: ignore[arg-type]
        if "out" in more:
            path = Path(str(more["out"]))
            rows = load_logits(path)
            save_logits(path, LogitRows(rows.keys, rows.logits * 2))
        return answer

    monkeypatch.setattr(oracle_process.ChildProcess, "ask", meddle)
    with pytest.raises(CellFailedError, match="reference changed"):
        references.of(weights, TRACE, KEYS)


@needs_torch
def test_rounded_activations_have_a_reference_of_their_own(tmp_path: Path) -> None:
    from chipmark_models.weights.prepared import open_any, prepare_spec
    from chipmark_models.weights.source import WeightRef

    spec = prepare_spec(WeightRef("synthetic", "tiny", None, 0), "fp8", tmp_path)
    fp8 = Weights(spec.to_dict(), open_any(spec).source_hash, "fp8")
    with References(tmp_path / "cache", tmp_path / "oracle") as references:
        plain, rounded, bf16 = (
            references.of(fp8, TRACE, KEYS[:4], name).rows for name in ("", "fp8", "bf16")
        )
    assert plain is not None
    assert rounded is not None
    assert bf16 is not None
    assert 0.003 < distance(plain, bf16, 5e-2).rms_rel < 0.03  # 8 bits of mantissa, a few layers
    assert 0.05 < distance(plain, rounded, 5e-2).rms_rel < 0.5  # e4m3 has 3 bits of mantissa


def test_a_carried_reference_needs_no_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Weights({}, "abc", "fp32")
    path = tmp_path / "carried.npz"
    rows = LogitRows(KEYS, np.ones((len(KEYS), 512), np.float32))
    save_logits(path, rows, plain.head(TRACE, KEYS, ""))
    monkeypatch.setattr(reference, "oracle_here", lambda: False)
    references = References(tmp_path, tmp_path / "oracle", [path])
    found = references.of(plain, TRACE, KEYS)
    assert found.id is not None
    assert found.id.origin == "file"
    assert len(found.id.sha256) == 64
    other = references.of(Weights({}, "abc", "bf16"), TRACE, KEYS)
    assert other.rows is None
    assert "torch" in other.reason


@pytest.mark.parametrize("kind", ["absent", "no head", "old code"])
def test_a_file_that_is_no_reference_of_this_version_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "carried.npz"
    rows = LogitRows(KEYS, np.ones((len(KEYS), 512), np.float32))
    head = json.loads(Weights({}, "abc", "fp32").head(TRACE, KEYS, ""))
    if kind == "old code":
        head[-1] = "0" * 64
    if kind != "absent":
        save_logits(path, rows, "" if kind == "no head" else json.dumps(head))
    with pytest.raises(BadInputError, match=r"carried\.npz"):
        carried(path)


def test_the_key_holds_weights_precision_trace_places_rounding_and_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = Weights({}, "abc", "fp32")
    heads = {
        plain.head(TRACE, KEYS, ""),
        plain.head(TRACE, KEYS[1:], ""),
        plain.head(TRACE, KEYS, "bf16"),
        plain.head(parity_trace(512), KEYS, ""),
        Weights({}, "abd", "fp32").head(TRACE, KEYS, ""),
        Weights({}, "abc", "w8").head(TRACE, KEYS, ""),
    }
    monkeypatch.setattr(reference, "oracle_code", lambda: "another")
    heads.add(plain.head(TRACE, KEYS, ""))
    assert len(heads) == 7


NOT_COMPUTING = (
    "errors", "plain_text", "cache", "foreign_file", "foreign_arrays", "model_folder", "scratch",
)  # fmt: skip
"""Modules that find, keep and read files: no number of a reference hangs on them."""


@needs_torch
def test_the_hash_covers_all_code_that_the_oracle_imports() -> None:
    code = (
        "import sys, chipmark_models.oracle, chipmark_models.rounding\n"
        "import chipmark_models.weights.prepared as p\n"
        "p.open_any(p.WeightSpec(p.WeightRef('synthetic', 'tiny', None, 0), 'fp32', None))\n"
        "print(*(m for m in sys.modules if m.startswith('chipmark_models.')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    covered = {Path(name).stem for name in reference._ORACLE_CODE}
    for module in done.stdout.split():
        name = module.removeprefix("chipmark_models.")
        assert name in covered or name.startswith("weights") or name in NOT_COMPUTING, module
    assert len(oracle_code()) == 64


def test_every_turn_of_the_parity_trace_has_places() -> None:
    assert len(turn_keys(TRACE, all_turns(TRACE))) == TRACE.totals.n_out
