"""From a profile, a scale and a seed to a trace: integer arithmetic only, the same bits anywhere.

Every random quantity of a session has a stream of its own (`chipmark.workload.draws`), so a
session does not change when others are added. Lengths are drawn at scale 1 and then scaled,
so scales share their turns.

Prefixes are shared exactly as far as the trace says. The halves of the id range are kept apart
for that: a group's shared prefix is drawn from the upper half, and a session's private part
starts with an id of the lower half that no other session starts with; so no two sessions
agree by accident beyond what they share.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice

import numpy as np

from chipmark.errors import DoesNotFitError, UsageError
from chipmark.workload.distribution import Distribution
from chipmark.workload.draws import DrawStream
from chipmark.workload.profile import Group, Profile
from chipmark.workload.quantile_tables import mean_one
from chipmark.workload.scale import Scale, scaled_tokens
from chipmark.workload.session import Ids, Session, Turn
from chipmark.workload.trace import Trace

RESERVED_IDS = 32
"""Lowest ids that are left out by default, where tokenizers keep their special tokens."""


def generate(
    profile: Profile,
    scale: Scale,
    seed: int,
    n_sessions: int,
    vocab_size: int,
    max_context: int | None = None,
    *,
    reserved_ids: int = RESERVED_IDS,
) -> Trace:
    """Generate a trace of `n_sessions` sessions with ids in `reserved_ids..vocab_size-1`.

    `max_context` is the longest context the model can hold; it never changes the trace, it is
    only checked, so that one workload is one workload on every model.

    Raises `UsageError` for a negative seed, no sessions, or a vocabulary too small to keep the
    sessions apart; `DoesNotFitError` when the scaled context cap is over `max_context`, with a
    scale that fits.
    """
    half = (vocab_size - reserved_ids) // 2
    if not 0 <= seed < 1 << 64:
        raise UsageError(f"seed must be in 0..2^64-1, not {seed}")
    if n_sessions < 1:
        raise UsageError(f"the number of sessions must be at least 1, not {n_sessions}")
    if reserved_ids < 0 or half < max(n_sessions, len(profile.sharing.groups)):
        raise UsageError(
            f"a vocabulary of {vocab_size} ids, {reserved_ids} of them reserved, cannot keep "
            f"{n_sessions} sessions apart",
            f"use at most {max(half, 0)} sessions or a model with a larger vocabulary",
        )
    cap = scaled_tokens(profile.context_cap, scale.context_factor)
    if max_context is not None and cap > max_context:
        raise DoesNotFitError(
            f"{profile.name} at scale {scale} has contexts of up to {cap} tokens; the model holds "
            f"{max_context}",
            f"a context scale of {_largest_fitting(profile.context_cap, max_context)} fits",
        )
    maker = _Maker(profile, scale, seed, _Ids(reserved_ids, half, vocab_size), cap)
    return Trace(
        sessions=tuple(maker.sessions(n_sessions)),
        vocab_size=vocab_size,
        name=profile.name,
        scale=scale,
        seed=seed,
        loop=profile.loop,
    )


@dataclass(frozen=True, slots=True)
class _Ids:
    """Ranges of ids: `low..low+half-1` starts private parts, `low+half..` fills shared ones."""

    low: int
    half: int
    high: int


@dataclass
class _Maker:
    profile: Profile
    scale: Scale
    seed: int
    ids: _Ids
    cap: int
    _shared: dict[int, Ids] = field(default_factory=dict)
    _longest_seen: dict[int, int] = field(default_factory=dict)

    def sessions(self, count: int) -> list[Session]:
        arrival_us = 0
        made = []
        for index in range(count):
            arrivals = self.profile.arrivals
            if arrivals is not None and index:
                table = "exponential" if arrivals.kind == "poisson" else arrivals.kind
                arrival_us += mean_one(
                    table, arrivals.mean_gap_us, self._stream(index, "arrival").rank()
                )
            made.append(self._session(index, None if arrivals is None else arrival_us))
        return made

    def _stream(self, index: int, name: str) -> DrawStream:
        return DrawStream(self.seed, self.profile.name, index, name)

    def _session(self, index: int, arrival_us: int | None) -> Session:
        profile, context_factor = self.profile, self.scale.context_factor
        number, group = self._group(index)
        first = self._stream(index, "first_prompt")
        shared_most = scaled_tokens(group.shared_tokens, context_factor) * bool(group.shared_tokens)
        if group.task is not None:
            first_prompt = shared_most + scaled_tokens(group.task.draw(first), context_factor)
        else:
            first_prompt = scaled_tokens(profile.first_prompt.draw(first), context_factor)
        first_prompt = min(first_prompt, self.cap - 1)
        # A first prompt shorter than its group's prefix shows fewer tools of it.
        shared = max(
            0, min(shared_most, first_prompt - scaled_tokens(profile.min_task, context_factor))
        )
        cached = min(shared, self._longest_seen.get(number, 0))
        self._longest_seen[number] = max(shared, self._longest_seen.get(number, 0))
        turns, branches = self._turns(index, first_prompt, cached)
        return Session(
            id=index,
            group=number,
            shared_prefix_tokens=shared,
            arrival_s=None if arrival_us is None else self._seconds(arrival_us),
            tokens=self._content(index, number, shared, turns, branches),
            turns=tuple(turns),
        )

    def _group(self, index: int) -> tuple[int, Group]:
        sharing = self.profile.sharing
        if sharing.kind == "blocks":
            return index // sharing.sessions_per_group, sharing.groups[0]
        weight = self._stream(index, "group").below(sum(g.weight for g in sharing.groups))
        for number, group in enumerate(sharing.groups):
            if weight < group.weight:
                return number, group
            weight -= group.weight
        raise AssertionError("a draw below the sum of weights always finds its group")

    def _turns(self, index: int, first_prompt: int, cached: int) -> tuple[list[Turn], list[int]]:
        """The turns of a session, and where in its ids a branch after the first prompt starts."""
        profile = self.profile
        appends, outputs = self._stream(index, "append"), self._stream(index, "output")
        gaps, resets = self._stream(index, "tool_time"), self._stream(index, "reset")
        wanted = profile.turns.draw(self._stream(index, "turns"))
        out = min(self._output(outputs), self.cap - first_prompt)
        turns = [Turn(0, first_prompt, first_prompt - cached, cached, out, 0, first_prompt)]
        branches: list[int] = []
        while len(turns) < wanted and profile.append is not None:
            last = turns[-1]
            reset = resets.below(1000) < profile.reset_per_mille
            own = scaled_tokens(profile.append.draw(appends), self.scale.context_factor)
            out = self._output(outputs)
            kept = first_prompt if reset else last.context_tokens
            if kept + own + out > self.cap:
                break
            turns[-1] = replace(last, tool_time_s=self._gap(profile.tool_time_s, gaps))
            start = last.tokens_stop + last.n_out
            if reset:
                branches.append(start)
            turns.append(
                Turn(
                    index=len(turns),
                    prompt_tokens=kept + own,
                    n_new=own,
                    n_cached=kept,
                    n_out=out,
                    tokens_start=start,
                    tokens_stop=start + own,
                    reset=reset,
                )
            )
        return turns, branches

    def _output(self, stream: DrawStream) -> int:
        return scaled_tokens(self.profile.output.draw(stream), self.scale.output_factor)

    def _gap(self, distribution: Distribution | None, stream: DrawStream) -> float:
        return 0.0 if distribution is None else self._seconds(distribution.draw(stream))

    def _seconds(self, microseconds: int) -> float:
        # A whole number of nanoseconds over 10^9 is one correctly rounded division.
        scaled = Fraction(microseconds) * self.scale.tool_time_factor * 1000
        return (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator) / 10**9

    def _content(
        self, index: int, number: int, shared: int, turns: list[Turn], branches: list[int]
    ) -> Ids:
        ids, size = self.ids, turns[-1].tokens_stop + turns[-1].n_out
        tokens = np.empty(size, dtype=np.int32)
        if shared:
            tokens[:shared] = self._shared_ids(number, shared)
        tokens[shared:] = self._stream(index, "tokens").token_ids(size - shared, ids.low, ids.high)
        if shared < turns[0].prompt_tokens:
            tokens[shared] = ids.low + index
        taken = {int(tokens[turns[0].tokens_stop])}
        for start in branches:
            # The first id after a reset is one that never followed the first prompt before.
            start_id = int(tokens[start])
            while start_id in taken:
                start_id = ids.low + (start_id - ids.low + 1) % (ids.high - ids.low)
            taken.add(start_id)
            tokens[start] = start_id
        return tokens

    def _shared_ids(self, number: int, shared: int) -> Ids:
        if len(self._shared.get(number, ())) < shared:
            ids = self.ids
            stream = DrawStream(self.seed, self.profile.name, "group", number)
            content = stream.token_ids(shared, ids.low + ids.half, ids.high)
            content[0] = ids.low + ids.half + number
            self._shared[number] = content
        return self._shared[number][:shared]


def _largest_fitting(context_cap: int, max_context: int) -> str:
    fitting = (
        f"1/{1 << power}"
        for power in range(1, 31)
        if scaled_tokens(context_cap, Fraction(1, 1 << power)) <= max_context
    )
    return next(islice(fitting, 1), "none")
