"""Conversations through real Jinja templates: the form that shows all, or what vanishes by name."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from chipmark.errors import BadInputError
from chipmark.workload.message_forms import Form, forms, shaped, short_id
from chipmark.workload.rendered import Rendered, rendered
from chipmark.workload.transcript import read_transcript
from chipmark.workload.transcript_trace import transcript_trace

pytest.importorskip("jinja2")

from chipmark_models.chat_template import render_template

HEAD = "{%- if tools %}[tools]{{ tools | tojson }}{%- endif %}"
LOOP = HEAD + "{%- for m in messages %}"
TAIL = "{%- endfor %}{%- if add_generation_prompt %}<assistant>{%- endif %}"
CALLS = (
    "{%- for c in m.tool_calls or [] %}[call]{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}{%- endfor %}"
)
EVERY_ROLE = LOOP + "<{{ m.role }}>{{ m.content or '' }}" + CALLS + TAIL
KNOWN_ROLES = (
    LOOP
    + "{%- if m.role in ('system', 'user', 'assistant', 'tool') %}"
    + "<{{ m.role }}>{{ m.content or '' }}"
    + CALLS
    + "\n{%- endif %}"
    + TAIL
)


class Template:
    """A template as transcript_trace is given one."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
    ) -> str:
        return render_template(
            self.text,
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            today=datetime.date(2025, 1, 1),
            bos_token="",
            eos_token="",
        )


def say(role: str, content: object, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def call(
    name: str = "count", arguments: object = '{"part": "bolt"}', **more: str
) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": "call_0123456789", "type": "function", "function": function} | more


TOOLS = [{"type": "function", "function": {"name": "count", "parameters": {"type": "object"}}}]
RESULT = say("tool", "312 on the shelf", tool_call_id="call_0123456789", duration_s=0.5)
CALLED = say("assistant", None, tool_calls=[call()])
WITH_CALL = [say("user", "how many?"), CALLED, RESULT, say("assistant", "there are 312")]


def through(
    tmp_path: Path, template: str, messages: list[Any], tools: list[Any] | None = None
) -> Rendered:
    path = tmp_path / "talk.jsonl"
    session = {"messages": messages} | ({"tools": tools} if tools else {})
    path.write_text(json.dumps(session) + "\n")
    return rendered(read_transcript(path)[0], Template(template))


def refused(tmp_path: Path, template: str, messages: list[Any], says: str, **more: Any) -> None:
    with pytest.raises(BadInputError, match=r"talk\.jsonl:1: " + says):
        through(tmp_path, template, messages, **more)


def test_a_template_that_knows_everything_gets_the_first_form(tmp_path: Path) -> None:
    talk = through(tmp_path, EVERY_ROLE, [say("developer", "be brief"), *WITH_CALL], TOOLS)
    assert talk.form == Form()
    assert [e.answer for e in talk.exchanges] == ['[call]count {"part": "bolt"}', "there are 312"]
    assert "<developer>be brief" in talk.exchanges[0].asked
    assert talk.exchanges[1].asked.endswith("<tool>312 on the shelf<assistant>")


def test_a_developer_is_the_system_where_the_template_knows_no_developer(tmp_path: Path) -> None:
    talk = through(tmp_path, KNOWN_ROLES, [say("developer", "be brief"), *WITH_CALL], TOOLS)
    assert talk.form == Form(developer="system")
    assert "<system>be brief" in talk.exchanges[0].asked


def test_a_developer_that_no_form_shows_is_refused(tmp_path: Path) -> None:
    template = (
        "{%- if messages[0].role == 'system' %}{{ messages[0].content }}{%- endif %}"
        "{%- for m in messages if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content }}"
        "{%- endfor %}{%- if add_generation_prompt %}<assistant>{%- endif %}"
    )
    talk = [say("user", "a?"), say("developer", "be brief"), say("assistant", "b")]
    refused(tmp_path, template, talk, r"field 'messages\[1\]\.content': vanishes")


def test_calls_shown_only_where_the_content_is_null_are_shown(tmp_path: Path) -> None:
    template = (
        LOOP
        + "<{{ m.role }}>"
        + "{%- if m.content is none %}{%- for c in m.tool_calls %}"
        + "[call]{{ c.function.name + ' ' + c.function.arguments }}{%- endfor %}"
        + "{%- else %}{{ m.content }}{%- endif %}"
        + TAIL
    )
    talk = through(tmp_path, template, WITH_CALL, TOOLS)
    assert talk.form == Form(arguments="text")
    assert talk.exchanges[0].answer == '[call]count {"part": "bolt"}'


def test_a_null_that_would_be_printed_is_empty(tmp_path: Path) -> None:
    template = LOOP + "<{{ m.role }}>{{ m.content }}" + CALLS + TAIL
    talk = through(tmp_path, template, WITH_CALL, TOOLS)
    assert talk.form == Form(null="empty")
    assert "None" not in talk.exchanges[1].asked


def test_the_word_none_in_a_call_is_no_printed_null(tmp_path: Path) -> None:
    template = (
        LOOP
        + "<{{ m.role }}>{%- if m.content is none %}"
        + CALLS
        + "{%- else %}{{ m.content }}{%- endif %}"
        + TAIL
    )
    answer = say("assistant", None, tool_calls=[call(arguments='{"part": "None"}')])
    talk = through(tmp_path, template, [WITH_CALL[0], answer, *WITH_CALL[2:]], TOOLS)
    assert talk.form == Form()
    assert talk.exchanges[0].answer == '[call]count {"part": "None"}'


def test_arguments_are_text_where_an_object_would_be_printed(tmp_path: Path) -> None:
    template = LOOP + "<{{ m.role }}>{{ m.content or '' }}"
    template += "{%- for c in m.tool_calls or [] %}{{ c.function.name }}={{ c.function.arguments }}"
    template += "{%- endfor %}\n" + TAIL
    talk = through(tmp_path, template, WITH_CALL, TOOLS)
    assert talk.form == Form(arguments="text")
    assert talk.exchanges[0].answer == 'count={"part": "bolt"}'


NINE_LETTERS = (
    LOOP
    + "<{{ m.role }}>{{ m.content or '' }}"
    + "{%- if m.tool_call_id and m.tool_call_id | length != 9 %}{{ raise_exception('nine!') }}"
    + "{%- endif %}{{ m.tool_call_id }}"
    + "{%- for c in m.tool_calls or [] %}{%- if c.id | length != 9 %}"
    + "{{ raise_exception('nine!') }}{%- endif %}{{ c.id }}{%- endfor %}"
    + CALLS
    + "\n"
    + TAIL
)


def test_ids_are_mapped_to_nine_letters_in_calls_and_results_alike(tmp_path: Path) -> None:
    talk = through(tmp_path, NINE_LETTERS, WITH_CALL, TOOLS)
    assert talk.form == Form(ids="letters")
    new = short_id("call_0123456789")
    assert len(new) == 9
    assert new.isalnum()
    assert talk.exchanges[1].asked.count(new) == 2
    assert short_id("aB3456789") == "aB3456789"
    assert short_id("call_other") != new


def test_a_template_that_refuses_names_file_line_and_message(tmp_path: Path) -> None:
    template = LOOP.replace("[tools]", "") + (
        "{%- if m.role == 'tool' %}{{ raise_exception('no tools here') }}{%- endif %}"
        "{%- if m.content and 'shelf' in m.content %}{{ raise_exception('not that') }}{%- endif %}"
        "<{{ m.role }}>{{ m.content or '' }}" + CALLS + TAIL
    )
    says = r"field 'messages\[2\]': the chat template refuses it: TemplateError: no"
    refused(tmp_path, template, WITH_CALL, says)


NO_TOOLS = (
    "{%- for m in messages if m.role in ('system', 'user', 'assistant') %}"
    "<{{ m.role }}>{{ m.content }}\n" + TAIL
)


def test_results_become_text_of_the_user_where_the_role_is_not_known(tmp_path: Path) -> None:
    second = say("tool", "40 more", tool_call_id="call_1", duration_s=1.0)
    calls = say("assistant", "I look.", tool_calls=[call(), call(id="call_1")])
    messages = [WITH_CALL[0], calls, RESULT, second, say("user", "and?", duration_s=2)]
    talk = through(tmp_path, NO_TOOLS, [*messages, say("assistant", "352")], TOOLS)
    assert talk.form == Form(tools="text", results="user")
    prompt = talk.exchanges[1].asked
    assert prompt.count("<user>") == 2
    assert prompt.endswith(
        "<user><tool_response>\n312 on the shelf\n</tool_response>\n"
        "<tool_response>\n40 more\n</tool_response>\nand?<assistant>"
    )
    assert '<tool_call>\n{"name": "count", "arguments": {"part": "bolt"}}' in prompt
    assert [m.get("duration_s") for m in talk.conversation.messages] == [
        None,
        None,
        None,
        3.5,
        None,
    ]


def test_calls_without_schemas_become_text_too(tmp_path: Path) -> None:
    talk = through(tmp_path, NO_TOOLS, WITH_CALL)
    assert talk.form.suffix == "+tools-as-text"
    assert talk.exchanges[0].answer.startswith("<tool_call>")


def test_only_results_become_text_where_only_they_vanish(tmp_path: Path) -> None:
    template = KNOWN_ROLES.replace(", 'tool'", "")
    talk = through(tmp_path, template, WITH_CALL, TOOLS)
    assert talk.form == Form(results="user")
    path = tmp_path / "talk.jsonl"
    trace = transcript_trace(path, lambda text: [ord(c) for c in text], Template(template), 0x4000)
    assert trace.name == "transcript:talk+results-as-text"
    assert trace.sessions[0].turns[0].tool_time_s == 0.5


def test_text_beside_a_call_is_not_lost(tmp_path: Path) -> None:
    template = (
        LOOP
        + "<{{ m.role }}>{%- if m.tool_calls %}"
        + CALLS
        + "{%- else %}{{ m.content }}{%- endif %}"
        + TAIL
    )
    talk = [WITH_CALL[0], CALLED | {"content": "I look."}, *WITH_CALL[2:]]
    found = through(tmp_path, template, talk, TOOLS)
    assert found.form.tools == "text"
    assert "I look." in found.exchanges[0].answer


def test_a_second_call_that_the_template_leaves_out_is_not_lost(tmp_path: Path) -> None:
    first_only = CALLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    template = LOOP + "<{{ m.role }}>{{ m.content or '' }}" + first_only + TAIL
    two = say("assistant", None, tool_calls=[call(), call(arguments='{"n": 7}', id="b")])
    talk = through(tmp_path, template, [WITH_CALL[0], two, *WITH_CALL[2:]], TOOLS)
    assert talk.form.tools == "text"
    assert '{"n": 7}' in talk.exchanges[0].answer


def test_arguments_of_numbers_alone_are_looked_for_too(tmp_path: Path) -> None:
    names_only = CALLS.replace("{{ c.function.arguments | tojson }}", "")
    template = LOOP + "<{{ m.role }}>{{ m.content or '' }}" + names_only + TAIL
    answer = say("assistant", None, tool_calls=[call(arguments='{"depth": 41}')])
    talk = through(tmp_path, template, [WITH_CALL[0], answer, *WITH_CALL[2:]], TOOLS)
    assert talk.form.tools == "text"


def test_a_template_of_parts_gets_parts(tmp_path: Path) -> None:
    template = (
        LOOP
        + "<{{ m.role }}>{%- for p in m.content %}{%- if p.type == 'text' %}{{ p.text }}"
        + "{%- endif %}{%- endfor %}"
        + TAIL
    )
    talk = through(tmp_path, template, [say("user", "hello"), say("assistant", "yes")])
    assert talk.form == Form(contents="parts")
    assert talk.exchanges[0].answer == "yes"


def test_a_short_text_that_stands_elsewhere_too_does_not_hide_a_loss(tmp_path: Path) -> None:
    template = "{%- for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}" + TAIL
    talk = [say("system", "ok"), say("user", "ok ok?"), say("assistant", "ok")]
    refused(
        tmp_path, template, talk, r"field 'messages\[0\]\.content': vanishes.*\nremove the text"
    )


@pytest.mark.parametrize(
    "shown", ["m.content | trim", "m.content | tojson", "m.content | upper", "m.content[:900]"]
)
def test_a_text_may_be_trimmed_escaped_or_in_capitals(tmp_path: Path, shown: str) -> None:
    template = "{%- for m in messages %}<{{ m.role }}>{{ " + shown + " }}" + TAIL
    talk = [say("user", ' a "b"\n\tä '), say("assistant", "c\n")]
    assert through(tmp_path, template, talk).form == Form()


@pytest.mark.parametrize(
    "text",
    [
        "<tool_response>\nx\n</tool_response>",
        "<tool_response></tool_response>",
        "<a>",
        "</a>",
        "  x  ",
        "x" + " " * 300_000 + "y" + "\n" * 300_000,
    ],
)
def test_marks_lie_within_the_tags_that_a_template_looks_at(tmp_path: Path, text: str) -> None:
    template = (
        "{%- for m in messages %}{%- set t = m.content %}"
        "{%- if t.startswith('<tool_response>') and t.endswith('</tool_response>') %}"
        "<result>{{ t }}{%- else %}<{{ m.role }}>{{ t }}{%- endif %}" + TAIL
    )
    talk = through(tmp_path, template, [say("user", text), say("assistant", "b")])
    assert talk.form == Form()


def test_a_text_that_the_template_cuts_is_refused(tmp_path: Path) -> None:
    template = "{%- for m in messages %}<{{ m.role }}>{{ m.content[:20] }}" + TAIL
    talk = [say("user", "a" * 50), say("assistant", "b")]
    refused(tmp_path, template, talk, r"field 'messages\[0\]\.content': vanishes")


def test_history_that_the_template_forgets_is_refused(tmp_path: Path) -> None:
    template = "{%- for m in messages[-3:] %}<{{ m.role }}>{{ m.content }}" + TAIL
    talk = [say("user", "one"), say("assistant", "two"), say("user", "three")]
    talk += [say("assistant", "four"), say("user", "five"), say("assistant", "six")]
    refused(tmp_path, template, talk, r"field 'messages\[0\]\.content': vanishes")


THOUGHTS = (
    LOOP
    + "{%- set c = m.content %}"
    + "{%- if not loop.last and m.role == 'assistant' %}{%- set c = c.split('</think>')[-1] %}"
    + "{%- endif %}<{{ m.role }}>"
    + "{%- if loop.last and m.reasoning_content %}[{{ m.reasoning_content }}]{%- endif %}"
    + "{{ c }}\n"
    + TAIL
)


@pytest.mark.parametrize(
    ("answer", "first"),
    [
        (say("assistant", "<think>hm</think>one"), "<think>hm</think>one"),
        (say("assistant", "one", reasoning_content="hm"), "[hm]one"),
        (say("assistant", "one", reasoning="hm"), "[hm]one"),
        (say("assistant", "one", reasoning="hm", reasoning_content="hm"), "[hm]one"),
    ],
)
def test_thoughts_of_earlier_answers_may_go(tmp_path: Path, answer: Any, first: str) -> None:
    talk = [say("user", "a?"), answer, say("user", "b?"), say("assistant", "two")]
    found = through(tmp_path, THOUGHTS, talk)
    assert found.exchanges[0].answer == first
    assert found.exchanges[1].asked == "<user>a?<assistant>one<user>b?<assistant>"


def test_the_thought_of_the_answer_itself_may_not_go(tmp_path: Path) -> None:
    talk = [say("user", "a?"), say("assistant", "one", reasoning_content="hm")]
    refused(
        tmp_path,
        EVERY_ROLE,
        talk,
        r"field 'messages\[1\]\.reasoning_content': vanishes: .* thought",
    )
    inline = [say("user", "a?"), say("assistant", "<think>hm</think>one")]
    template = THOUGHTS.replace("not loop.last and ", "")
    refused(tmp_path, template, inline, r"field 'messages\[1\]\.content': vanishes")


def test_of_several_failures_the_last_obstacle_is_named(tmp_path: Path) -> None:
    # The first form fails for its null, and the one that gets over this loses the thought.
    template = LOOP + "<{{ m.role }}>{{ m.content + '' }}" + CALLS + TAIL
    answer = CALLED | {"reasoning_content": "hm"}
    says = r"field 'messages\[1\]\.reasoning_content': vanishes"
    refused(tmp_path, template, [WITH_CALL[0], answer, *WITH_CALL[2:]], says, tools=TOOLS)


def test_an_answer_after_a_thought_may_not_go(tmp_path: Path) -> None:
    template = THOUGHTS.replace("[-1]", "[0]")
    talk = [say("user", "a?"), say("assistant", "<think>hm</think>one"), say("user", "b?")]
    refused(
        tmp_path,
        template,
        [*talk, say("assistant", "c")],
        r"field 'messages\[1\]\.content': vanishes",
    )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (say("assistant", None, refusal="I will not."), "I will not."),
        (say("assistant", "", refusal="I will not."), "I will not."),
        (say("assistant", [{"type": "refusal", "refusal": "I will not."}]), "I will not."),
        (
            say(
                "assistant", [{"type": "text", "text": "No: "}, {"type": "refusal", "refusal": "x"}]
            ),
            "No: x",
        ),
    ],
)
def test_a_refusal_is_the_answer(tmp_path: Path, answer: Any, text: str) -> None:
    talk = through(tmp_path, EVERY_ROLE, [say("user", "a?"), answer])
    assert talk.exchanges[0].answer == text


@pytest.mark.parametrize("arguments", ["", "  ", None, "null", "{}"])
def test_a_call_without_arguments_has_none(tmp_path: Path, arguments: object) -> None:
    answer = say("assistant", None, tool_calls=[call(arguments=arguments)])
    talk = through(tmp_path, EVERY_ROLE, [WITH_CALL[0], answer, *WITH_CALL[2:]], TOOLS)
    assert talk.exchanges[0].answer == "[call]count {}"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            say("user", "x", refusal="no"),
            r"field 'messages\[1\]\.refusal': must be text, in an assistant",
        ),
        (say("assistant", "x", refusal="no"), r"field 'messages\[1\]\.refusal': must be text"),
        (say("assistant", None, refusal=7), r"field 'messages\[1\]\.refusal': must be text"),
        (
            say("user", [{"type": "refusal", "refusal": "no"}]),
            r"field 'messages\[1\]\.content\[0\]': must be a text part",
        ),
        (
            say("user", [{"type": "image_url", "text": "a"}]),
            r"field 'messages\[1\]\.content\[0\]': must be a text part",
        ),
        (
            say("assistant", "x", function_call={"name": "f", "arguments": "{}"}),
            r"field 'messages\[1\]\.function_call': is not read\nwrite it as tool_calls",
        ),
        (say("assistant", "x", audio={"id": "a"}), r"field 'messages\[1\]\.audio': is not read"),
        (
            say("assistant", None, tool_calls=[call(arguments="[1]")]),
            r"field 'messages\[1\]\.tool_calls\[0\]\.function\.arguments': must be a JSON object",
        ),
    ],
)
def test_what_no_template_is_given_is_refused(tmp_path: Path, message: Any, says: str) -> None:
    refused(tmp_path, EVERY_ROLE, [say("user", "a?"), message, say("assistant", "b")], says)


def test_forms_are_few_where_little_can_differ(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"messages": [say("user", "a"), say("assistant", "b")]}))
    talk = read_transcript(path)[0]
    assert forms(talk) == [Form(), Form(contents="parts")]
    assert shaped(talk, Form()).places == ("messages[0]", "messages[1]")
