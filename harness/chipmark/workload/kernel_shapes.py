"""The kernel shapes a profile stands for, so that kernel benches and sessions share one spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chipmark.workload.profile import Profile
from chipmark.workload.scale import Scale, scaled_tokens

CONTEXTS = (16384, 32768, 65536, 131072)
APPENDS = (128, 512, 2048, 8192)
BATCHES = (1, 4, 16, 64)


@dataclass(frozen=True, slots=True)
class KernelShape:
    """One launch: `batch` rows of `q_tokens` new tokens each, on `context_tokens` in the cache.

    An append-prefill is one row; a decode is one token a row.
    """

    kind: Literal["append_prefill", "decode"]
    batch: int
    q_tokens: int
    context_tokens: int


def kernel_shapes(profile: Profile, scale: Scale) -> list[KernelShape]:
    """Append-prefill and decode shapes at the contexts that the profile's cap allows, scaled.

    Appends of 128 to 8k new tokens and decode batches of 1 to 64, each at 16k to 128k of context
    at scale 1; a cap under 16k is itself the only context. New tokens scale with the context;
    shapes that become equal by scaling appear once.
    """
    cap = profile.context_cap
    contexts = [context for context in CONTEXTS if context <= cap] or [cap]
    factor = scale.context_factor
    shapes = [
        KernelShape(
            "append_prefill", 1, scaled_tokens(append, factor), scaled_tokens(context, factor)
        )
        for context in contexts
        for append in APPENDS
        if append < context
    ]
    shapes += [
        KernelShape("decode", batch, 1, scaled_tokens(context, factor))
        for context in contexts
        for batch in BATCHES
    ]
    return list(dict.fromkeys(shapes))
