"""A conversation through a chat template, turn by turn, with the check that none of it vanished.

Templates pass over what they do not know without a word: a role, the calls of an answer, the
text next to a call. So each prompt is rendered a second time with a mark in every text, and a mark
that does not come out is an error. Thoughts of earlier answers may go, as templates of reasoning
models drop them on purpose; the thought of the answer itself may not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chipmark.errors import BadInputError
from chipmark.workload.marks import Item, Marker, Message
from chipmark.workload.message_forms import Form, forms, shaped
from chipmark.workload.transcript import Conversation


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
        """Render; `add_generation_prompt` ends the text where the model's answer begins.

        Raises BadInputError where the template refuses the messages.
        """


@dataclass(frozen=True, slots=True)
class Exchange:
    """A turn as text: the answer is message `at`, `asked` its prompt, `answer` what follows."""

    at: int
    asked: str
    answer: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation in the form that its template shows whole, and its turns."""

    conversation: Conversation
    form: Form
    exchanges: tuple[Exchange, ...]


def rendered(
    conversation: Conversation, render: Render, *, tools_as_text: bool = False
) -> Rendered:
    """The conversation in the first form (`message_forms`) that the template shows whole.

    `tools_as_text` leaves out the forms that use the template's own tools. Raises BadInputError
    with file, line and field where no form does: the failure that came latest in the messages,
    what vanishes before what the template refuses.
    """
    failures: list[_FormError] = []
    for form in forms(conversation):
        if tools_as_text and form.tools == "native" and _uses_tools(conversation):
            continue
        template = _Template(shaped(conversation, form), render)
        try:
            turns = tuple(template.exchange(at) for at in template.answers)
            return Rendered(template.conversation, form, turns)
        except _FormError as error:
            failures.append(error)
    raise max(failures, key=lambda each: (each.at, each.vanished)).located(conversation)


def _uses_tools(conversation: Conversation) -> bool:
    return bool(conversation.tools) or any(m.get("tool_calls") for m in conversation.messages)


class _FormError(Exception):
    """Why a form does not do: message `at` of it, the field in the file, the problem, the fix.

    `vanished`: the template took the messages, but does not show a text.
    """

    vanished = False

    def __init__(self, at: int, field: str, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.at, self.field, self.problem, self.hint = at, field, problem, hint

    def located(self, conversation: Conversation) -> BadInputError:
        return BadInputError(
            conversation.path,
            self.problem,
            line=conversation.line,
            field=self.field,
            hint=self.hint,
        )


class _VanishedError(_FormError):
    vanished = True


class _Template:
    """One form of a conversation and its template."""

    def __init__(self, conversation: Conversation, render: Render) -> None:
        self.conversation, self._render = conversation, render
        messages = conversation.messages
        self.answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        self._marker = Marker(json.dumps([messages, conversation.tools], ensure_ascii=False))
        pairs = [self._marker.message(message) for message in messages]
        self._marked = [message for message, _ in pairs]
        self._items = [items for _, items in pairs]

    def exchange(self, at: int) -> Exchange:
        """Render the turn whose answer is message `at`, checked; raises _FormError."""
        messages = self.conversation.messages
        asked = self._text(messages[:at], prompt=True)
        told = self._text(messages[: at + 1], prompt=False)
        answer = _added(asked, told)
        if not answer:
            raise self._error(at, "", "the chat template shows nothing of this answer")
        self._check_tools(at, asked)
        marked = self._marked_text(at + 1, prompt=False)
        # A prompt that the whole starts with is shown by it too.
        before = marked if told.startswith(asked) else self._marked_text(at, prompt=True)
        self._check_shown(range(at), asked, before, earlier=True)
        self._check_shown(range(at, at + 1), told, marked, earlier=False)
        self._check_spelling(at, told, marked)
        return Exchange(at, asked, answer)

    def _text(self, messages: Sequence[Message], *, prompt: bool) -> str:
        tools = self.conversation.tools or None
        try:
            return self._render(messages, tools=tools, add_generation_prompt=prompt)
        except BadInputError as error:
            at = self._first_refused(messages, error.problem)
            raise self._error(at, "", f"the chat template refuses it: {error.problem}") from error

    def _first_refused(self, messages: Sequence[Message], problem: str) -> int:
        """Index of the message with which the template first fails as it does with all."""
        for count in range(1, len(messages)):
            if self._try(messages[:count], prompt=False) == problem:
                return count - 1
        return max(0, len(messages) - 1)

    def _try(self, messages: Sequence[Message], *, prompt: bool) -> str:
        """The text, or the problem where the template refuses."""
        tools = self.conversation.tools or None
        try:
            return self._render(messages, tools=tools, add_generation_prompt=prompt)
        except BadInputError as error:
            return error.problem

    def _error(self, at: int, field: str, problem: str, hint: str = "") -> _FormError:
        place = self.conversation.places[at]
        return _FormError(at, f"{place}.{field}" if field else place, problem, hint)

    def _vanished(self, at: int, item: Item, *, thought: bool) -> _FormError:
        problem, what = "the chat template does not show it", "text"
        if thought and (item.thought or item.answer):
            problem = "the chat template does not show the thought of an answer in its own turn"
            what = "thought"
        return _VanishedError(
            at,
            f"{self.conversation.places[at]}.{item.field}",
            f"vanishes: {problem}",
            f"remove the {what} from the transcript, or use a model whose template shows it",
        )

    def _check_tools(self, at: int, asked: str) -> None:
        if not self.conversation.tools or at != self.answers[0]:
            return
        try:
            without = self._render(
                self.conversation.messages[:at], tools=None, add_generation_prompt=True
            )
        except BadInputError:
            return
        if without == asked:
            raise _FormError(0, "tools", "the chat template does not show them")

    def _marked_text(self, count: int, *, prompt: bool) -> str:
        """The first `count` messages with marks, "" where the template looks into its texts and
        refuses these."""
        tools = self.conversation.tools or None
        try:
            return self._render(self._marked[:count], tools=tools, add_generation_prompt=prompt)
        except BadInputError:
            return ""

    def _check_shown(self, indices: range, text: str, marked: str, *, earlier: bool) -> None:
        """Every text of these messages is in the rendering `text`, with marks `marked`."""
        found = self._marker.found(marked)
        for index in indices:
            for item in self._items[index]:
                if not self._shows(item, indices.stop, text, found, earlier=earlier):
                    raise self._vanished(index, item, thought=not earlier)

    def _shows(
        self, item: Item, count: int, text: str, found: frozenset[str], *, earlier: bool
    ) -> bool:
        """Whether `text`, of the first `count` messages, has an item; `found` are the marks."""
        if item.came_out(found, earlier=earlier):
            return True
        return item.stands_in(text, self._seen(count), earlier=earlier)

    def _seen(self, count: int) -> tuple[Item, ...]:
        """Items that a rendering of the first `count` messages shows, thoughts left out."""
        found = [item for items in self._items[:count] for item in items]
        return tuple(item for item in found if not (item.thought or item.answer))

    def _check_spelling(self, at: int, told: str, marked: str) -> None:
        """No null, object or list of parts is printed as Python writes it."""
        message = self.conversation.messages[at]
        for number, call in enumerate(message.get("tool_calls") or []):
            arguments = call["function"]["arguments"]
            if isinstance(arguments, dict) and arguments and repr(arguments) in told:
                field = f"tool_calls[{number}].function.arguments"
                raise self._error(at, field, "the chat template prints an object, not JSON")
        for index, each in enumerate(self.conversation.messages[: at + 1]):
            content = each.get("content")
            if isinstance(content, list) and repr(content) in told:
                raise self._error(index, "content", "the chat template prints a list of parts")
        if message.get("content") is None and self._prints_null(at, marked):
            raise self._error(at, "content", "the chat template prints null as None")

    def _prints_null(self, at: int, marked: str) -> bool:
        """Whether a null content comes out as "None": more of these than with empty contents."""
        empty = [
            m | {"content": ""} if m.get("content") is None else m for m in self._marked[: at + 1]
        ]
        other = self._try(empty, prompt=False)
        found = self._marker.found(other)
        whole = all(self._shows(i, at + 1, other, found, earlier=False) for i in self._items[at])
        return whole and marked.count("None") > other.count("None")


def _added(asked: str, told: str) -> str:
    """What a template adds to a question for its answer.

    Without the white space after the end-of-turn token, which belongs to the template.
    """
    if told.startswith(asked):
        return told[len(asked) :].rstrip()
    same = (at for at, (a, b) in enumerate(zip(asked, told, strict=False)) if a != b)
    return told[next(same, min(len(asked), len(told))) :].rstrip()
