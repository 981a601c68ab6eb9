"""Which precisions a backend computes, asked before weights are prepared or a child is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chipmark.engine.plugins import backend_factory
from chipmark.errors import MissingBackendError, UsageError
from chipmark.registry import split_backend


def precisions_of(backend: str) -> tuple[str, ...] | None:
    """What `KIND:DEVICE` says that it computes, by `BackendFactory.precisions`.

    None where it takes any, or where its module needs a package that is not here: then its
    child answers. Raises UnknownNameError for a kind that does not exist.
    """
    kind, device = split_backend(backend)
    try:
        return backend_factory(kind).precisions(device)
    except MissingBackendError:
        return None


@dataclass(frozen=True, slots=True)
class Pairs:
    """(backend, precision) pairs that can be measured, and what was left out of the product."""

    pairs: frozenset[tuple[str, str]]
    left_out: tuple[str, ...]


def computed_pairs(backends: Sequence[str], precisions: Sequence[str], *, named: bool) -> Pairs:
    """The pairs of the product that are computed; the others are named, never substituted.

    Raises UsageError where nothing remains, or, when the backends were named by the user, where
    nothing remains of one of them.
    """
    pairs, left_out, refused = set(), [], []
    for backend in dict.fromkeys(backends):
        known = precisions_of(backend)
        able = [p for p in precisions if known is None or p in known]
        pairs |= {(backend, p) for p in able}
        if known is not None and (unable := [p for p in precisions if p not in able]):
            text = f"{backend} does not compute {', '.join(unable)}"
            left_out.append(f"{backend} {', '.join(unable)}: it computes {', '.join(known)}")
            if not able:
                hint = f"{backend} computes {', '.join(known)}; a precision is never substituted"
                refused.append((text, hint))
    if refused and (named or not pairs):
        raise UsageError(
            "; ".join(text for text, _ in refused), "\n".join(hint for _, hint in refused)
        )
    return Pairs(frozenset(pairs), tuple(left_out))
