"""Recorded conversations in the OpenAI messages format: read and checked, not yet tokens.

A transcript is JSON Lines, one session a line: `{"messages": [...], "tools": [...]}` with
`tool_calls` in assistant messages and answers with the role `tool`. Besides that format a message
of another role than assistant may carry `duration_s`, how long the tool or the person took.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chipmark.errors import BadInputError, nearest_names
from chipmark_models.foreign_file import MIB, parse_json, read_text

ROLES = ("system", "developer", "user", "assistant", "tool")
_SESSION_FIELDS = ("messages", "tools", "id", "metadata")
# Fields of a message that hold an answer and reach no template; what takes their place.
_OTHER_ANSWERS = {
    "function_call": "tool_calls, and its result in the role tool",
    "audio": "text, in content",
    "reasoning_details": "text, in reasoning_content",
    "thinking_blocks": "text, in reasoning_content",
}


TRANSCRIPT_BYTES = 256 * MIB
"""Most bytes of a file of conversations."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One session of a transcript: messages and tools as they are in the file, and its line.

    `places` names the field that each message comes from where they were written anew.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...]
    path: str
    line: int
    places: tuple[str, ...] = ()


def read_transcript(path: str | os.PathLike[str]) -> list[Conversation]:
    """Read a transcript; empty lines are passed over.

    Raises `BadInputError` naming file, line and field for invalid JSON, unknown fields or roles,
    contents that are not text or refusals, answers that are not in the content or in `tool_calls`,
    results of no call, calls without a name or with arguments that are not a JSON object, and
    sessions in which the model never answers.
    """
    text = read_text(path, TRANSCRIPT_BYTES)
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            found.append(_Line(str(path), number).conversation(line))
    if not found:
        raise BadInputError(path, "holds no session")
    return found


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a session stands, for messages about it."""

    path: str
    number: int

    def wrong(self, field: str, problem: str, hint: str = "") -> BadInputError:
        return BadInputError(self.path, problem, line=self.number, field=field, hint=hint)

    def conversation(self, line: str) -> Conversation:
        entry = parse_json(line, self.path, line=self.number)
        if not isinstance(entry, dict):
            raise BadInputError(self.path, "is not a JSON object", line=self.number)
        if not _is_text(entry):
            raise BadInputError(self.path, "has half of a character", line=self.number)
        for name in entry:
            if name not in _SESSION_FIELDS:
                near = " or ".join(nearest_names(name, _SESSION_FIELDS) or _SESSION_FIELDS)
                raise self.wrong(name, f"is not a field of a session; did you mean {near}?")
        messages = entry.get("messages")
        if not isinstance(messages, list) or not messages:
            raise self.wrong("messages", "must be a list of messages that is not empty")
        tools = entry.get("tools") or []
        self._check_tools(tools)
        called: set[str] = set()
        for index, message in enumerate(messages):
            self._check_message(f"messages[{index}]", message, called)
        if not any(message["role"] == "assistant" for message in messages):
            raise self.wrong("messages", "has no assistant message, so no turn")
        if messages[0]["role"] == "assistant":
            raise self.wrong("messages[0]", "is the model's answer, and there is no question")
        return Conversation(tuple(messages), tuple(tools), self.path, self.number)

    def _check_tools(self, tools: object) -> None:
        if not isinstance(tools, list):
            raise self.wrong("tools", "must be a list")
        for index, tool in enumerate(tools):
            function = tool.get("function") if isinstance(tool, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise self.wrong(f"tools[{index}].function.name", "must be a string")

    def _check_message(self, where: str, message: object, called: set[str]) -> None:
        if not isinstance(message, dict):
            raise self.wrong(where, "is not a JSON object")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            near = nearest_names(role, ROLES) if isinstance(role, str) else []
            raise self.wrong(
                f"{where}.role", f"is {role!r}; it must be {' or '.join(near or ROLES)}"
            )
        calls = message.get("tool_calls")
        self._check_content(where, message, may_be_empty=bool(calls))
        self._check_no_other_answer(where, message)
        if calls is not None:
            if role != "assistant" or not isinstance(calls, list):
                raise self.wrong(f"{where}.tool_calls", "must be a list, in an assistant message")
            for index, call in enumerate(calls):
                called.add(self._call_id(f"{where}.tool_calls[{index}]", call))
        answered = message.get("tool_call_id")
        if role == "tool" and not (isinstance(answered, str) and answered in called):
            raise self.wrong(
                f"{where}.tool_call_id",
                f"is {message.get('tool_call_id')!r}, which no earlier message called",
            )
        duration = message.get("duration_s")
        if duration is not None and (
            role == "assistant"
            or isinstance(duration, bool)
            or not isinstance(duration, int | float)
            or not math.isfinite(duration)
            or duration < 0
        ):
            raise self.wrong(
                f"{where}.duration_s", "must be seconds at or above 0, not in an answer"
            )

    def _check_content(self, where: str, message: dict[str, Any], *, may_be_empty: bool) -> None:
        content, refusal = message.get("content"), message.get("refusal")
        answers = message["role"] == "assistant"
        if refusal is not None:
            if not answers or not isinstance(refusal, str) or content:
                raise self.wrong(
                    f"{where}.refusal", "must be text, in an assistant message without content"
                )
            return
        if isinstance(content, str) or (content is None and may_be_empty):
            return
        if not isinstance(content, list):
            raise self.wrong(f"{where}.content", "must be text or a list of text parts")
        for index, part in enumerate(content):
            kind = part.get("type", "text") if isinstance(part, dict) else None
            text = part.get(kind) if kind in ("text", "refusal") else None
            if not isinstance(text, str) or (kind == "refusal" and not answers):
                raise self.wrong(
                    f"{where}.content[{index}]", "must be a text part (or a refusal, in an answer)"
                )

    def _check_no_other_answer(self, where: str, message: dict[str, Any]) -> None:
        """Refuse answers in fields that no chat template is given."""
        for name, instead in _OTHER_ANSWERS.items():
            if message.get(name):
                raise self.wrong(f"{where}.{name}", "is not read", f"write it as {instead}")

    def _call_id(self, where: str, call: object) -> str:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(call.get("id"), str):
            raise self.wrong(f"{where}.id", "must be a string")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise self.wrong(f"{where}.function.name", "must be a string")
        arguments = function.get("arguments")
        if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
            return str(call["id"])  # a tool without parameters
        where = f"{where}.function.arguments"
        if not isinstance(arguments, str):
            raise self.wrong(where, "must be JSON in a string")
        found = parse_json(arguments, self.path, line=self.number, field=where)
        if not _is_text(found):
            raise self.wrong(where, "has half of a character")
        if found is not None and not isinstance(found, dict):
            raise self.wrong(where, f"must be a JSON object, not {arguments}")
        return str(call["id"])


def _is_text(document: Any) -> bool:
    """Whether no string of a document has a lone surrogate, which no tokenizer takes."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
