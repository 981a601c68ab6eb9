"""Perplexity out of a sum of likelihoods. Needs the standard library only."""

from __future__ import annotations

import math


def perplexity(nll: float, count: int) -> float | None:
    """exp of the mean negative log-likelihood. nll: its sum over `count` predicted tokens, in nats.
    None where nothing was predicted, and where it is too large for a float.

    As Jelinek et al., "Perplexity, a measure of the difficulty of speech recognition tasks" (1977).
    """
    if count < 1:
        return None
    try:
        return math.exp(nll / count)
    except OverflowError:
        return None
