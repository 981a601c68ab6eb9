"""What quantising loses: the project's text scored under a cell's weights and under the source's.

By the oracle in its own process, before anything is timed. Parity compares a backend with the
oracle on the same quantised weights and knows nothing of this.
"""

from __future__ import annotations

from chipmark.cell.measure import MeasuredCell
from chipmark.cell.reference import NO_TORCH, Weights, oracle_code, oracle_here
from chipmark.cell.text_score import text_score
from chipmark.codes import NoteCode, NullReason
from chipmark.engine.computed import linear_input_of
from chipmark.errors import ChipmarkError
from chipmark.results.manifest import Note, QualityResult
from chipmark_models.precision import rounding_of
from chipmark_models.quality_text import TokenIds, quality_text, sequences_of
from chipmark_models.tokenizer import open_tokenizer
from chipmark_models.weights.prepared import WeightSpec
from chipmark_models.weights.source import WeightRef

SOURCE_PRECISION = "fp32"
"""The source's weights are read as they are; every stored type is exact in it."""


def check_quality(cell: MeasuredCell) -> QualityResult:
    """Score the text under both weights. What cannot be done is a reason and a note, and does not
    fail the cell: its speed is known all the same."""
    in_use = cell.inputs.in_use
    if in_use is None or cell.inputs.no_quality is not None:
        return QualityResult(reason=cell.inputs.no_quality)
    if not oracle_here():
        return _without(cell, NullReason.NO_ORACLE, NO_TORCH)
    try:
        ref = WeightSpec.from_dict(in_use.spec).ref
        encode = open_tokenizer(ref).encode
        sequences = sequences_of(quality_text(), encode, in_use.config.max_context)
    except (ChipmarkError, ImportError) as error:
        return _without(cell, NullReason.NO_TOKENIZER, str(error))
    if not sequences:
        return _without(cell, NullReason.NO_TOKENIZER, "it makes no tokens of the text")
    try:
        return _scored(cell, ref, sequences)
    except ChipmarkError as error:
        return _without(cell, NullReason.NO_ORACLE, error.message)


def _scored(cell: MeasuredCell, ref: WeightRef, sequences: list[TokenIds]) -> QualityResult:
    taken = linear_input_of(cell.loaded.precision.activation)
    rounded = rounding_of(taken)
    if not rounded and taken != SOURCE_PRECISION:
        text = f"perplexity: products take {taken}, which the oracle does not round to"
        cell.take([Note(code=NoteCode.PRECISION_NOTE, text=text)])
    weights, references = cell.weights, cell.references
    own = text_score(references, weights, sequences, rounded)
    spec = WeightSpec(ref, SOURCE_PRECISION, None)
    source = Weights(spec.to_dict(), weights.source_hash, SOURCE_PRECISION)
    known = text_score(references, source, sequences)
    # It is asked for nothing else, and would keep the whole source open while cells are timed.
    references.oracle(source).close()
    while references.remarks:
        cell.take([Note(code=NoteCode.CELL, text=references.remarks.pop())])
    return QualityResult(
        reason=None,
        text_sha256=quality_text().sha256,
        tokens=own.count,
        nll=own.nll,
        nll_source=known.nll,
        rounded=rounded,
        cached=own.cached or known.cached,
        oracle_code=oracle_code(),
    )


def _without(cell: MeasuredCell, reason: NullReason, text: str) -> QualityResult:
    cell.take([Note(code=NoteCode.CELL, text=f"no perplexity: {text}")])
    return QualityResult(reason=reason)
