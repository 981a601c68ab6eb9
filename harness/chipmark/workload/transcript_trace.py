"""From recorded conversations to a trace, through a model's own tokenizer and chat template.

Every assistant message is a turn: its prompt is what the template renders of the messages
before it, its output is what the template adds for the message itself. A server renders the
whole conversation anew for each turn, and so does this: a turn's context is kept as far as the
new prompt starts with it, token by token, and the rest counts as new. Templates that drop or
rewrite history, and tokenizers that merge across a border, therefore show as resets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from chipmark.errors import DoesNotFitError
from chipmark.workload.message_forms import text_of
from chipmark.workload.rendered import Render, Rendered, rendered
from chipmark.workload.scale import Scale
from chipmark.workload.session import Ids, Session, Turn
from chipmark.workload.trace import Trace
from chipmark.workload.transcript import Conversation, read_transcript

Encode = Callable[[str], Sequence[int]]


def transcript_trace(
    path: str | os.PathLike[str],
    encode: Encode,
    render: Render,
    vocab_size: int,
    *,
    tool_time: str = "1",
    max_context: int | None = None,
    n_sessions: int | None = None,
) -> Trace:
    """The trace of a transcript file, a closed loop at scale (1, 1, `tool_time`).

    `encode` turns text into ids without adding any; `render` is the chat template. Where the
    template does not show tools or calls, schemas are written in front of the system message and
    calls into the text of the answers, and the trace's name ends in `+tools-as-text`; results that
    it does not show become messages of the user (`+results-as-text` where only these are written
    so). `n_sessions` takes the first sessions of the file only.

    Raises `BadInputError` for a bad transcript, messages that the template refuses and text that
    it does not show, `DoesNotFitError` when a context is longer than `max_context`.
    """
    recorded = read_transcript(path)[:n_sessions]
    talks = [rendered(each, render) for each in recorded]
    if any(talk.form.tools == "text" for talk in talks):  # one workload, one way
        talks = [rendered(each, render, tools_as_text=True) for each in recorded]
    suffixes = sorted({talk.form.suffix for talk in talks})
    scale = Scale("1", "1", tool_time)
    groups: dict[str, int] = {}
    streams: list[_Stream] = []
    for conversation, talk in zip(recorded, talks, strict=True):
        group = groups.setdefault(_head(conversation), len(groups))
        stream = _Stream(talk, group, scale.tool_time_factor)
        stream.fill(encode)
        if max_context is not None and stream.longest > max_context:
            raise DoesNotFitError(
                f"{path}:{conversation.line}: the session grows to {stream.longest} tokens; the "
                f"model holds {max_context}",
                "shorten the session or use a model with a longer context",
            )
        streams.append(stream)
    return Trace(
        sessions=tuple(_sessions(streams)),
        vocab_size=vocab_size,
        name=f"transcript:{Path(path).stem}" + "".join(suffixes),
        scale=scale,
        seed=0,
        loop="closed",
    )


class _Stream:
    """One conversation as it becomes turns."""

    def __init__(self, talk: Rendered, group: int, time_factor: Fraction) -> None:
        self.talk, self.group, self._time_factor = talk, group, time_factor
        self.pieces: list[Ids] = []
        self.turns: list[Turn] = []
        self.longest = 0
        self.first_prompt: Ids = np.zeros(0, dtype=np.int32)

    def fill(self, encode: Encode) -> None:
        """Encode turn by turn."""
        context: Ids = np.zeros(0, dtype=np.int32)
        position, after = 0, 0
        for exchange in self.talk.exchanges:
            asked, answer = exchange.asked, exchange.answer
            between = self.talk.conversation.messages[after : exchange.at]
            waited = sum(float(message.get("duration_s") or 0.0) for message in between)
            after = exchange.at + 1
            prompt = _ids(encode(asked))
            output = self._output_ids(encode, asked, answer, prompt)
            # At least one token must be run to answer, so one is always new.
            kept = min(common_prefix(context, prompt), prompt.size - 1)
            own = prompt[kept:]
            if self.turns:
                self._set_gap(waited)
            self.turns.append(
                Turn(
                    index=len(self.turns),
                    prompt_tokens=int(prompt.size),
                    n_new=int(own.size),
                    n_cached=kept,
                    n_out=int(output.size),
                    tokens_start=position,
                    tokens_stop=position + int(own.size),
                    reset=kept < context.size,
                )
            )
            self.pieces += [own, output]
            position += int(own.size) + int(output.size)
            context = np.concatenate([prompt, output])
            self.longest = max(self.longest, int(context.size))
            if len(self.turns) == 1:
                self.first_prompt = prompt

    @staticmethod
    def _output_ids(encode: Encode, asked: str, answer: str, prompt: Ids) -> Ids:
        """Ids of the answer as the next prompt will hold them, where the border allows it."""
        whole = _ids(encode(asked + answer))
        if whole.size > prompt.size and common_prefix(whole, prompt) == prompt.size:
            return whole[prompt.size :]
        return _ids(encode(answer))

    def _set_gap(self, waited_s: float) -> None:
        scaled = float(Fraction(waited_s) * self._time_factor)
        self.turns[-1] = replace(self.turns[-1], tool_time_s=scaled)


def common_prefix(a: Ids, b: Ids) -> int:
    """How many leading ids two arrays share."""
    size = min(a.size, b.size)
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if different.size else size


def _sessions(streams: list[_Stream]) -> list[Session]:
    """Sessions in file order, hits between sessions counted."""
    sessions: list[Session] = []
    seen: list[Ids] = []
    for number, stream in enumerate(streams):
        shared = max(
            (
                common_prefix(stream.first_prompt, other.first_prompt)
                for other in streams
                if other is not stream and other.group == stream.group
            ),
            default=0,
        )
        session = Session(
            id=number,
            group=stream.group,
            shared_prefix_tokens=shared,
            arrival_s=None,
            tokens=np.concatenate(stream.pieces),
            turns=tuple(stream.turns),
        )
        sessions.append(_with_hits(session, seen))
    return sessions


def _with_hits(session: Session, seen: list[Ids]) -> Session:
    """Count as cached what any earlier context in `seen` holds; adds this session's contexts."""
    turns = []
    for turn in session.turns:
        prompt = session.prompt(turn)
        known = max((common_prefix(prompt, context) for context in seen), default=0)
        cached = max(turn.n_cached, min(known, turn.prompt_tokens - 1))
        turns.append(replace(turn, n_cached=cached, n_new=turn.prompt_tokens - cached))
        following = session.turns[turn.index + 1 : turn.index + 2]
        if not following or following[0].reset:
            seen.append(np.concatenate([prompt, session.output(turn)]))
    return replace(session, turns=tuple(turns))


def _head(conversation: Conversation) -> str:
    """What sessions of one group have in common: tools and system messages before the task."""
    system = [m for m in conversation.messages if m["role"] in ("system", "developer")][:1]
    return json.dumps({"tools": list(conversation.tools), "system": [text_of(m) for m in system]})


def _ids(ids: Sequence[int]) -> Ids:
    return np.asarray(ids, dtype=np.int32)
