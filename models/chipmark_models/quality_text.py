"""The text on which the loss of quantising is measured, and its scores.

The text is the project's own: four short runs of an agent (system prompt, tool calls as JSON, their
results, answers) in English, Python and Chinese. It is tokenised by the model's own tokenizer
without a chat template and without a token at the start, so that every model reads the same
characters. Each of the four is a sequence of its own.

Needs the standard library and NumPy; a tokenizer is handed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]

_FOLDER = Path(__file__).parent / "perplexity_text"


@dataclass(frozen=True, slots=True)
class QualityText:
    """The texts in their order, and what names them."""

    parts: tuple[str, ...]
    """Each is scored by itself."""

    sha256: str
    """Over the UTF-8 bytes of the parts, with a zero byte after each."""


@cache
def quality_text() -> QualityText:
    """The project's text, which is part of the package."""
    parts = tuple(path.read_bytes() for path in sorted(_FOLDER.glob("*.txt")))
    digest = hashlib.sha256(b"".join(part + b"\0" for part in parts)).hexdigest()
    return QualityText(tuple(part.decode() for part in parts), digest)


@dataclass(frozen=True, slots=True)
class TextScore:
    """How likely a text is to weights."""

    nll: float
    """Negative log-likelihood in nats, summed."""

    count: int
    """Tokens that it is summed over."""

    cached: bool
    """Whether it was found in the cache, where the oracle confirmed a part of it."""


def sequences_of(
    text: QualityText, encode: Callable[[str], list[int]], max_context: int
) -> list[TokenIds]:
    """Token ids int32 (T,) of each part, cut to `max_context`; a part of under two tokens has
    nothing to predict and is left out."""
    found = [np.array(encode(part)[:max_context], np.int32) for part in text.parts]
    return [ids for ids in found if len(ids) > 1]


def save_numbered(path: Path, arrays: Sequence[npt.NDArray[Any]]) -> None:
    """Write arrays to an `.npz`, named by their places: "0", "1" and so on."""
    named: dict[str, Any] = {str(place): array for place, array in enumerate(arrays)}
    with path.open("wb") as file:
        np.savez(file, **named)
