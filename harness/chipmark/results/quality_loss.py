"""Perplexity out of a record's raw sums, and whether quantising loses too much for a rank."""

from __future__ import annotations

from collections.abc import Iterator

from chipmark.results.manifest import Manifest, QualityResult
from chipmark_models.perplexity import perplexity
from chipmark_models.precision import precision_named

QUALITY_SHARE = 0.05
"""How much worse than the source's the perplexity of a ranked row may be.

Formats that are used as a matter of course are below it and those that are known to damage a model
above it: llama.cpp's own table on wikitext-2 (its pull request 6936) has a ratio of 1.0004 to
1.0007 for Q8_0, 1.014 and 1.028 for Q4_K_M, and 1.108 and 1.565 for Q2_K (Llama 2 7B, Llama 3 8B).
"""


def perplexities(quality: QualityResult) -> dict[str, float | None]:
    """`perplexity`, `perplexity_source` and their `perplexity_ratio`, None where not known."""
    own, source = (
        None if nll is None else perplexity(nll, quality.tokens)
        for nll in (quality.nll, quality.nll_source)
    )
    ratio = None if own is None or source is None else own / source
    return {"perplexity": own, "perplexity_source": source, "perplexity_ratio": ratio}


def quality_lost(quality: QualityResult) -> str:
    """Why a row has no rank: the loss in numbers. "" where it is allowed or not known."""
    found = perplexities(quality)
    ratio = found["perplexity_ratio"]
    if ratio is None:
        # exp of the mean overflows: no model of a million tokens is that bad by chance.
        broken = quality.nll is not None and quality.tokens > 0
        return "perplexity is too large to be a number" if broken else ""
    if ratio <= 1 + QUALITY_SHARE:
        return ""
    return (
        f"perplexity {found['perplexity']:.4g} is {ratio - 1:.1%} over the source's "
        f"{found['perplexity_source']:.4g}; up to {QUALITY_SHARE:.0%} is ranked"
    )


def quality_contradictions(manifest: Manifest) -> Iterator[str]:
    """Where what is stored of the quality cannot be of this cell."""
    quality = manifest.quality
    sums = (quality.nll, quality.nll_source)
    if (None in sums) != (quality.reason is not None) or sums.count(None) == 1:
        yield f"quality has sums {sums} and reason {quality.reason}"
    if None in sums:
        return
    if quality.tokens < 1:
        yield f"quality is of {quality.tokens} tokens"
    if not precision_named(manifest.precision.requested).quantised:
        yield f"quality is of {manifest.precision.requested}, which is not quantised"
    if manifest.model.source_kind in ("synthetic", "sim"):
        yield f"quality is of {manifest.model.source_kind} weights"
