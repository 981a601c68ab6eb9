from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from chipmark.errors import BadInputError, DoesNotFitError
from chipmark.workload.message_forms import Form, shaped
from chipmark.workload.quantiles import describe
from chipmark.workload.rendered import Render
from chipmark.workload.trace import Trace, load_trace, save_trace
from chipmark.workload.transcript import read_transcript
from chipmark.workload.transcript_trace import transcript_trace

RECORDED = Path(__file__).parents[1] / "data" / "agent_transcript.jsonl"
END = "\x01"


def encode(text: str) -> list[int]:
    """One id a character, so that every border is a token border."""
    return [min(ord(c), 0x3FFF) for c in text]


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def render(
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
) -> str:
    """A template that knows tools and never rewrites history."""
    text = json.dumps(tools) + "\n" if tools else ""
    for message in messages:
        calls = json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""
        text += f"[{message['role']}]{message.get('content') or ''}{calls}{END}\n"
    return text + ("[assistant]" if add_generation_prompt else "")


def render_without_tools(
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
) -> str:
    plain = [{"role": m["role"], "content": m.get("content")} for m in messages]
    return render(plain, tools=None, add_generation_prompt=add_generation_prompt)


def render_with_thinking_removed(
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
) -> str:
    """As templates of reasoning models do: thoughts stay only in the last answer."""
    last = len(messages) - 1
    shown = [
        {
            "role": m["role"],
            "content": m["content"] if i == last else m["content"].split("</think>")[-1],
        }
        for i, m in enumerate(messages)
    ]
    return render(shown, tools=tools, add_generation_prompt=add_generation_prompt)


def write(tmp_path: Path, *sessions: object) -> Path:
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(json.dumps(s) for s in sessions) + "\n")
    return path


def message(role: str, content: str | None, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


TALK = [
    message("system", "be brief"),
    message("user", "first?"),
    message("assistant", "one"),
    message("user", "second?", duration_s=4.5),
    message("assistant", "two"),
]


def trace_of(path: Path, how: Render = render, **options: Any) -> Trace:
    return transcript_trace(path, encode, how, 0x4000, **options)


def test_the_recorded_transcript_is_read_and_every_answer_is_a_turn() -> None:
    trace = trace_of(RECORDED)
    answers = [
        sum(m["role"] == "assistant" for m in talk.messages) for talk in read_transcript(RECORDED)
    ]
    assert [len(s.turns) for s in trace.sessions] == answers
    assert len(answers) == 3
    assert all(4 <= n <= 8 for n in answers)
    assert not any(turn.reset for _, turn in trace.walk())
    assert trace.loop == "closed"
    assert trace.name == "transcript:agent_transcript"


def test_prompts_and_outputs_are_what_the_template_renders() -> None:
    trace = trace_of(RECORDED)
    talk = shaped(read_transcript(RECORDED)[1], Form())
    answers = [i for i, m in enumerate(talk.messages) if m["role"] == "assistant"]
    session = trace.sessions[1]
    for turn, at in zip(session.turns, answers, strict=True):
        asked = render(talk.messages[:at], tools=talk.tools, add_generation_prompt=True)
        told = render(talk.messages[: at + 1], tools=talk.tools, add_generation_prompt=False)
        assert decode(session.prompt(turn)) == asked
        assert asked + decode(session.output(turn)) == told.rstrip("\n")


def test_history_is_cached_and_tools_and_system_prompt_are_shared() -> None:
    trace = trace_of(RECORDED)
    for session in trace.sessions:
        for before, turn in zip(session.turns, session.turns[1:], strict=False):
            assert turn.n_cached == before.context_tokens
        assert session.shared_prefix_tokens > 2000
    firsts = [session.turns[0].n_cached for session in trace.sessions]
    assert firsts[0] == 0
    assert all(
        n >= s.shared_prefix_tokens > 0 for n, s in zip(firsts, trace.sessions, strict=True) if s.id
    )
    assert {s.group for s in trace.sessions} == {0}


def test_a_repeated_session_is_cached_but_for_one_token_of_each_prompt(tmp_path: Path) -> None:
    trace = trace_of(write(tmp_path, {"messages": TALK}, {"messages": TALK}))
    assert [t.n_new for t in trace.sessions[1].turns] == [1, 1]


def test_tools_that_a_template_ignores_are_written_as_text_and_the_name_says_so() -> None:
    trace = trace_of(RECORDED, render_without_tools)
    assert trace.name == "transcript:agent_transcript+tools-as-text"
    session = trace.sessions[0]
    prompt = decode(session.prompt(session.turns[0]))
    assert prompt.startswith('[system]<tools>\n{"type": "function"')
    assert '<tool_call>\n{"name": "list_files"' in decode(session.output(session.turns[0]))


def test_a_template_that_rewrites_history_keeps_only_the_common_prefix(tmp_path: Path) -> None:
    talk = [m | {"content": m["content"]} for m in TALK]
    talk[2] = message("assistant", "thinking</think>one")
    trace = trace_of(write(tmp_path, {"messages": talk}), render_with_thinking_removed)
    first, second = trace.sessions[0].turns
    assert second.reset
    assert second.n_cached == first.prompt_tokens
    assert decode(trace.sessions[0].prompt(second)).endswith(
        f"[assistant]one{END}\n[user]second?{END}\n[assistant]"
    )
    assert decode(trace.sessions[0].output(first)) == f"thinking</think>one{END}"


def test_durations_are_the_gap_after_a_turn_and_are_scaled(tmp_path: Path) -> None:
    path = write(tmp_path, {"messages": TALK})
    whole, tenth = (trace_of(path, tool_time=t) for t in ("1", "1/10"))
    assert [t.tool_time_s for t in whole.sessions[0].turns] == [4.5, 0.0]
    assert tenth.sessions[0].turns[0].tool_time_s == pytest.approx(0.45)
    assert tenth.scale.tool_time == "1/10"


def test_a_transcript_survives_its_file_and_is_described(tmp_path: Path) -> None:
    trace = trace_of(RECORDED, n_sessions=2)
    save_trace(trace, tmp_path / "t.npz")
    assert load_trace(tmp_path / "t.npz").hash == trace.hash
    assert len(trace.sessions) == 2
    assert {row.parameter for row in describe(trace)} >= {"turns", "prefix_hit_ideal"}


def test_a_session_longer_than_the_model_holds_is_refused_with_its_line() -> None:
    with pytest.raises(DoesNotFitError, match=r"agent_transcript\.jsonl:1: .* holds 4000"):
        trace_of(RECORDED, max_context=4000)


def call(arguments: str = "{}", **more: object) -> dict[str, object]:
    return {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": arguments},
    } | more


@pytest.mark.parametrize(
    ("session", "says"),
    [
        (
            {"message": []},
            r":1: field 'message': is not a field of a session; did you mean messages",
        ),
        ({"messages": []}, r":1: field 'messages': must be a list of messages"),
        ([], r":1: is not a JSON object"),
        ({"messages": [message("user", "a")]}, r"field 'messages': has no assistant message"),
        (
            {"messages": [message("assistant", "a")]},
            r"field 'messages\[0\]': is the model's answer",
        ),
        (
            {"messages": [message("usr", "a"), message("assistant", "b")]},
            r"field 'messages\[0\]\.role': is 'usr'; it must be user",
        ),
        (
            {"messages": [message("user", None), message("assistant", "b")]},
            r"field 'messages\[0\]\.content': must be text",
        ),
        (
            {"messages": [*TALK, message("tool", "x", tool_call_id="nobody")]},
            r"field 'messages\[5\]\.tool_call_id': is 'nobody', which no earlier",
        ),
        (
            {"messages": [*TALK, message("assistant", None, tool_calls=[call("{")])]},
            r"field 'messages\[5\]\.tool_calls\[0\]\.function\.arguments': truncated or invalid",
        ),
        (
            {"messages": [*TALK, message("user", "x", duration_s=-1)]},
            r"field 'messages\[5\]\.duration_s': must be seconds",
        ),
        (
            {"messages": TALK, "tools": [{"name": "f"}]},
            r"field 'tools\[0\]\.function\.name': must be",
        ),
    ],
)
def test_a_mistake_names_line_and_field(tmp_path: Path, session: object, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        read_transcript(write(tmp_path, session))


def test_files_that_are_no_transcript_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"messages": TALK})
    path.write_text(path.read_text() + "{not json\n")
    with pytest.raises(BadInputError, match=r"talk\.jsonl:2: (truncated or )?invalid JSON"):
        read_transcript(path)
    path.write_text("\n\n")
    with pytest.raises(BadInputError, match="holds no session"):
        read_transcript(path)
    with pytest.raises(BadInputError, match="no such file"):
        read_transcript(tmp_path / "absent.jsonl")


def test_an_answer_that_the_template_hides_is_refused(tmp_path: Path) -> None:
    def hide(messages: Any, *, tools: Any, add_generation_prompt: bool) -> str:
        shown = [m for m in messages if m["role"] != "assistant"]
        return render(shown, tools=tools, add_generation_prompt=False)

    with pytest.raises(
        BadInputError, match=r":1: field 'messages\[2\]': the chat template shows nothing"
    ):
        trace_of(write(tmp_path, {"messages": TALK}), hide)
