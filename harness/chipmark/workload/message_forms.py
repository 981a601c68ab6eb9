"""The forms in which one recorded conversation can be handed to a chat template.

A transcript is in OpenAI's format; templates differ in what they take of it. The first form is
what transformers documents (roles and nulls as recorded, arguments of calls as objects); the
others are what servers fall back to. Every form keeps all text of the conversation.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from chipmark.workload.transcript import Conversation

_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 9


@dataclass(frozen=True, slots=True)
class Form:
    """How a conversation is written; the defaults are the first form that is tried.

    tools: schemas and calls as the template's own variables, or as text in messages.
    results: answers of tools in their role, or as text of the user, consecutive ones in one.
    developer: the role as recorded, or as system. null: a content that is null stays so, or is "".
    arguments: of calls, as objects or as JSON text. contents: as text, or as lists of text parts.
    ids: of calls as recorded, or nine letters and digits that follow from them.
    """

    tools: Literal["native", "text"] = "native"
    results: Literal["tool", "user"] = "tool"
    developer: Literal["developer", "system"] = "developer"
    null: Literal["none", "empty"] = "none"
    arguments: Literal["object", "text"] = "object"
    contents: Literal["text", "parts"] = "text"
    ids: Literal["recorded", "letters"] = "recorded"

    @property
    def suffix(self) -> str:
        """What the name of a trace says of this form."""
        if self.tools == "text":
            return "+tools-as-text"
        return "+results-as-text" if self.results == "user" else ""


_OTHER = Form("text", "user", "system", "empty", "text", "parts", "letters")


def forms(conversation: Conversation) -> list[Form]:
    """Forms that differ for this conversation, in the order in which they are tried.

    Tools by the template's own means go before tools as text, then fewer departures before more.
    """
    messages = conversation.messages
    calls = any(message.get("tool_calls") for message in messages)
    roles = {message["role"] for message in messages}
    matters = {
        "tools": calls or bool(conversation.tools),
        "results": "tool" in roles,
        "developer": "developer" in roles,
        "null": any(_content(message) is None for message in messages),
        "arguments": calls,
        "contents": True,
        "ids": calls,
    }
    axes = [field.name for field in fields(Form) if matters[field.name]]
    departures = [
        each
        for count in range(len(axes) + 1)
        for each in itertools.combinations(axes, count)
        # Calls that are text have neither arguments nor ids.
        if "tools" not in each or not {"arguments", "ids"} & set(each)
    ]
    departures.sort(key=lambda each: ("tools" in each, "results" in each, len(each)))
    return [
        replace(Form(), **{axis: getattr(_OTHER, axis) for axis in each}) for each in departures
    ]


def shaped(conversation: Conversation, form: Form) -> Conversation:
    """The conversation in a form; `places` of the result name the messages of the file."""
    messages = [_plain(message) for message in conversation.messages]
    places = [f"messages[{i}]" for i in range(len(messages))]
    if form.developer == "system":
        messages = [m | {"role": "system"} if m["role"] == "developer" else m for m in messages]
    if form.ids == "letters":
        messages = [_with_short_ids(message) for message in messages]
    tools = conversation.tools
    if form.tools == "text":
        messages, places = _tools_as_text(messages, places, tools)
        tools = ()
    if form.results == "user":
        messages, places = _results_as_text(messages, places)
    if form.null == "empty":
        messages = [m | {"content": ""} if m.get("content") is None else m for m in messages]
    if form.arguments == "text":
        messages = [_with_arguments_as_text(message) for message in messages]
    if form.contents == "parts":
        messages = [_with_parts(message) for message in messages]
    return replace(conversation, messages=tuple(messages), tools=tools, places=tuple(places))


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a recorded message, "" where it has none."""
    return _content(message) or ""


def _content(message: Mapping[str, Any]) -> str | None:
    """Content as text: parts joined, and a refusal is what the model answered."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["refusal"] if "refusal" in part else part["text"] for part in content)
    if not content and isinstance(message.get("refusal"), str):
        return str(message["refusal"])
    return None if content is None else str(content)


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the content as text or null, and the arguments of calls as objects."""
    copy = {key: value for key, value in message.items() if key != "refusal"}
    copy["content"] = _content(message)
    if message.get("tool_calls"):
        copy["tool_calls"] = [
            call | {"function": call["function"] | {"arguments": arguments_of(call)}}
            for call in message["tool_calls"]
        ]
    return copy


def arguments_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a recorded call; no text, or null, is a call without any."""
    text = call["function"].get("arguments")
    return (json.loads(text) if text and text.strip() else None) or {}


def _with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    copy = dict(message)
    if copy.get("tool_calls"):
        copy["tool_calls"] = [call | {"id": short_id(call["id"])} for call in copy["tool_calls"]]
    if copy["role"] == "tool":
        copy["tool_call_id"] = short_id(copy["tool_call_id"])
    return copy


def short_id(recorded: str) -> str:
    """Nine letters and digits for a call id: itself where it is such, else from its sha256."""
    if len(recorded) == _ID_LENGTH and set(recorded) <= set(_LETTERS):
        return recorded
    number = int.from_bytes(hashlib.sha256(recorded.encode()).digest(), "big")
    letters = []
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[digit])
    return "".join(letters)


def _with_arguments_as_text(message: dict[str, Any]) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return message
    calls = [
        call | {"function": call["function"] | {"arguments": _json(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return message | {"tool_calls": calls}


def _with_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    return message | {"content": [{"type": "text", "text": content}]} if content else message


def _tools_as_text(
    messages: list[dict[str, Any]], places: list[str], tools: tuple[Mapping[str, Any], ...]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Schemas as JSON lines in `<tools>` before the first instructions, calls after the answers."""
    written = []
    for message in messages:
        copy = dict(message)
        shown = [_call_text(call["function"]) for call in copy.pop("tool_calls", None) or []]
        if shown:
            text = copy["content"] or ""
            copy["content"] = "\n".join([text] * bool(text) + shown)
        written.append(copy)
    if tools:
        lines = "\n".join(_json(tool) for tool in tools)
        if written[0]["role"] not in ("system", "developer"):
            written.insert(0, {"role": "system", "content": ""})
            places = ["tools", *places]
        text = f"<tools>\n{lines}\n</tools>\n{written[0]['content'] or ''}"
        written[0] = written[0] | {"content": text.rstrip("\n")}
    return written, places


def _call_text(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{_json(call)}\n</tool_call>"


def _results_as_text(
    messages: list[dict[str, Any]], places: list[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Results as messages of the user, joined with their neighbours so that roles alternate."""
    written: list[dict[str, Any]] = []
    kept: list[str] = []
    after_result = False
    for message, place in zip(messages, places, strict=True):
        is_result = message["role"] == "tool"
        text = message["content"] or ""
        if is_result:
            text = f"<tool_response>\n{text}\n</tool_response>"
        if after_result and message["role"] in ("tool", "user"):
            before = written[-1]
            waited = [float(m.get("duration_s") or 0.0) for m in (before, message)]
            joined = {"content": f"{before['content']}\n{text}", "duration_s": sum(waited)}
            written[-1] = before | joined
        else:
            own = {"role": "user", "content": text, "duration_s": message.get("duration_s")}
            written.append(own if is_result else message)
            kept.append(place)
        after_result = is_result
    return written, kept


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
