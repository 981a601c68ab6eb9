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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from chipmark.errors import BadInputError, DoesNotFitError
from chipmark.workload.scale import Scale
from chipmark.workload.session import Ids, Session, Turn
from chipmark.workload.trace import Trace
from chipmark.workload.transcript import Conversation, read_transcript

Encode = Callable[[str], Sequence[int]]
Message = Mapping[str, Any]


class Render(Protocol):
    """A chat template: messages (OpenAI format) to the text of a prompt."""

    def __call__(
        self,
        messages: Sequence[Message],
        /,
        *,
        tools: Sequence[Message] | None,
        add_generation_prompt: bool,
    ) -> str:
        """Render; `add_generation_prompt` ends the text where the model's answer begins."""


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
    template ignores tools, their schemas are written in front of the system message and calls
    into the text of the answers, and the trace's name ends in `+tools-as-text`. `n_sessions`
    takes the first sessions of the file only.

    Raises `BadInputError` for a bad transcript or an answer the template does not show,
    `DoesNotFitError` when a context is longer than `max_context`.
    """
    conversations = read_transcript(path)[:n_sessions]
    scale = Scale("1", "1", tool_time)
    as_text = any(_ignores_tools(render, conversation) for conversation in conversations)
    if as_text:
        conversations = [tools_as_text(conversation) for conversation in conversations]
    groups: dict[str, int] = {}
    streams: list[_Stream] = []
    for conversation in conversations:
        group = groups.setdefault(_head(conversation), len(groups))
        stream = _Stream(conversation, group, scale.tool_time_factor)
        stream.fill(encode, render)
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
        name=f"transcript:{Path(path).stem}" + ("+tools-as-text" if as_text else ""),
        scale=scale,
        seed=0,
        loop="closed",
    )


def tools_as_text(conversation: Conversation) -> Conversation:
    """The same conversation for a template that knows no tools.

    Schemas stand as JSON lines in `<tools>` in front of the system message; each call stands in
    `<tool_call>` after the text of its answer.
    """
    messages = [dict(message) for message in conversation.messages]
    for message in messages:
        calls = message.pop("tool_calls", None) or []
        shown = [_call_text(call["function"]) for call in calls]
        message["content"] = "\n".join([_text(message)] * bool(_text(message)) + shown)
    if conversation.tools:
        lines = "\n".join(_json(tool) for tool in conversation.tools)
        if messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": ""})
        text = f"<tools>\n{lines}\n</tools>\n{messages[0]['content']}"
        messages[0] = messages[0] | {"content": text.rstrip("\n")}
    return Conversation(tuple(messages), (), conversation.path, conversation.line)


class _Stream:
    """One conversation as it becomes turns."""

    def __init__(self, conversation: Conversation, group: int, time_factor: Fraction) -> None:
        self.conversation, self.group, self._time_factor = conversation, group, time_factor
        self.pieces: list[Ids] = []
        self.turns: list[Turn] = []
        self.longest = 0
        self.first_prompt: Ids = np.zeros(0, dtype=np.int32)

    def fill(self, encode: Encode, render: Render) -> None:
        """Render and encode turn by turn."""
        messages, tools = self.conversation.messages, self.conversation.tools or None
        context: Ids = np.zeros(0, dtype=np.int32)
        position, waited = 0, 0.0
        for at, message in enumerate(messages):
            if message["role"] != "assistant":
                waited += float(message.get("duration_s") or 0.0)
                continue
            asked = render(messages[:at], tools=tools, add_generation_prompt=True)
            told = render(messages[: at + 1], tools=tools, add_generation_prompt=False)
            answer = _added(asked, told)
            if not answer:
                raise BadInputError(
                    self.conversation.path,
                    "the chat template shows nothing of this answer",
                    line=self.conversation.line,
                    field=f"messages[{at}]",
                )
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
            waited = 0.0

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


def _ignores_tools(render: Render, conversation: Conversation) -> bool:
    if not conversation.tools:
        return False
    question = [m for m in conversation.messages if m["role"] in ("system", "user")][:2]
    with_tools = render(question, tools=conversation.tools, add_generation_prompt=True)
    return with_tools == render(question, tools=None, add_generation_prompt=True)


def _head(conversation: Conversation) -> str:
    """What sessions of one group have in common: tools and system messages before the task."""
    system = [m for m in conversation.messages if m["role"] in ("system", "developer")][:1]
    return _json({"tools": list(conversation.tools), "system": [_text(m) for m in system]})


def _added(asked: str, told: str) -> str:
    """What a template adds to a question for its answer.

    Without the white space after the end-of-turn token, which belongs to the template.
    """
    same = (at for at, (a, b) in enumerate(zip(asked, told, strict=False)) if a != b)
    return told[next(same, min(len(asked), len(told))) :].rstrip()


def _call_text(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": json.loads(function["arguments"])}
    return f"<tool_call>\n{_json(call)}\n</tool_call>"


def _text(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or ""


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _ids(ids: Sequence[int]) -> Ids:
    return np.asarray(ids, dtype=np.int32)
