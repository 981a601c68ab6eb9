"""Marks in the texts of a conversation, to see in a rendering which of them came out.

A mark is a word that stands nowhere in the conversation. It goes inside a pair of tags that
encloses a text, because templates look at those.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]

REASONING = ("reasoning_content", "thinking", "reasoning")
# Where an inline thought ends: templates show the earlier answer from there on.
THOUGHT_ENDS = (
    "</think>", "</thinking>", "</thought>", "</reasoning>", "</seed:think>", "[/THINK]",
    "◁/think▷", "<|end_of_thought|>",
)  # fmt: skip
_OPENING = re.compile(r"\s*(<[^<>/\s][^<>\s]*>|\[THINK\]|◁think▷)?")
_CLOSING = re.compile(r"</[^<>\s]+>\Z")


@dataclass(frozen=True, slots=True)
class Item:
    """One text of a message: its field, the marks within, and what it says.

    `answer`: what of it is left without an inline thought. `thought`: it is nothing but thought.
    """

    field: str
    marks: tuple[str, ...]
    texts: tuple[str, ...]
    answer: str = ""
    thought: bool = False

    def came_out(self, found: frozenset[str], *, earlier: bool) -> bool:
        """Whether its marks are in `found`; `earlier` answers need not show their thoughts."""
        if earlier and self.thought:
            return True
        wanted = self.marks[-1:] if earlier and self.answer else self.marks
        return bool(wanted) and found.issuperset(wanted)

    def stands_in(self, text: str, seen: tuple[Item, ...], *, earlier: bool) -> bool:
        """Whether the plain `text` has it as it is, as often as the items `seen` up to here do."""
        return all(
            any(
                text.count(spelling) >= (_occurrences(spelling, seen) if self.marks else 1)
                for spelling in _spellings(each)
            )
            for each in ((self.answer,) if earlier and self.answer else self.texts)
        )


def _spellings(text: str) -> tuple[str, ...]:
    """A text as templates print it: trimmed, or within JSON."""
    trimmed = text.strip()
    return (trimmed, *(json.dumps(trimmed, ensure_ascii=a)[1:-1] for a in (False, True)))


def _occurrences(text: str, items: tuple[Item, ...]) -> int:
    return max(1, sum(each.count(text) for item in items for each in item.texts))


class Marker:
    """Puts words that stand nowhere in the conversation around its texts."""

    def __init__(self, all_text: str) -> None:
        self._stem = "qz"
        while self._stem in all_text.lower():
            self._stem += "q"
        self._pattern = re.compile(rf"{self._stem}\d{{6}}x")
        self._count = 0

    def message(self, message: Message) -> tuple[dict[str, Any], tuple[Item, ...]]:
        """A marked copy of a message whose content is text, null or parts, and its items."""
        copy = dict(message)
        items = list(self._content(copy)) + list(self._thoughts(copy))
        if copy.get("tool_calls"):
            calls = [self._call(call, n) for n, call in enumerate(copy["tool_calls"])]
            copy["tool_calls"] = [call for call, _ in calls]
            items += [item for _, found in calls for item in found]
        return copy, tuple(items)

    def found(self, rendered: str) -> frozenset[str]:
        """The marks in a rendering, whose letters the template may have made capitals."""
        return frozenset(self._pattern.findall(rendered.lower()))

    def _mark(self) -> str:
        self._count += 1
        return f"{self._stem}{self._count:06d}x"

    def _content(self, copy: dict[str, Any]) -> Iterator[Item]:
        content = copy.get("content")
        if not content:
            return
        parts = content if isinstance(content, list) else [{"text": content}]
        marked = []
        for part in parts:
            text, ends = part["text"], THOUGHT_ENDS if copy["role"] == "assistant" else ()
            if text.strip():
                after = max((text.rfind(end) + len(end) for end in ends if end in text), default=0)
                answer = text[after:] if after else ""
                marks = (self._mark(), self._mark())
                thought = bool(after) and not answer.strip()
                yield Item("content", marks, (text,), answer.strip(), thought)
                part = part | {"text": _between(text, *marks)}
            marked.append(part)
        copy["content"] = marked if isinstance(content, list) else marked[0]["text"]

    def _thoughts(self, copy: dict[str, Any]) -> Iterator[Item]:
        seen: dict[str, str] = {}
        for field in REASONING:
            text = copy.get(field)
            if not isinstance(text, str) or not text.strip():
                continue
            if text not in seen:
                mark = self._mark()
                seen[text] = text + mark
                yield Item(field, (mark,), (text,), thought=True)
            copy[field] = seen[text]

    def _call(self, call: Message, number: int) -> tuple[dict[str, Any], list[Item]]:
        where, function = f"tool_calls[{number}].function", call["function"]
        mark = self._mark()
        name = Item(f"{where}.name", (mark,), (function["name"],))
        given = function["arguments"]
        arguments = json.loads(given) if isinstance(given, str) else given
        marks: list[str] = []
        written = self._leaves(arguments, marks)
        texts = tuple(_scalars(arguments))
        items = [name]
        if texts:
            items.append(Item(f"{where}.arguments", tuple(marks), texts))
        if isinstance(given, str):
            written = json.dumps(written, ensure_ascii=False)
        marked = dict(function) | {"name": function["name"] + mark, "arguments": written}
        return dict(call) | {"function": marked}, items

    def _leaves(self, value: Any, marks: list[str]) -> Any:
        """A copy with a mark after every text within; the marks are added to `marks`."""
        if isinstance(value, dict):
            return {key: self._leaves(each, marks) for key, each in value.items()}
        if isinstance(value, list):
            return [self._leaves(each, marks) for each in value]
        if isinstance(value, str):
            marks.append(self._mark())
            return value + marks[-1]
        return value


def _between(text: str, first: str, last: str) -> str:
    """The text with a mark at its start and its end, within the tags that enclose it."""
    trimmed = text.rstrip()
    opening, closing = _OPENING.match(text), _CLOSING.search(trimmed)
    start = opening.end() if opening else 0
    end = max(start, closing.start() if closing else len(trimmed))
    return f"{text[:start]}{first}{text[start:end]}{last}{text[end:]}"


def _scalars(value: Any) -> Iterator[str]:
    """Keys, texts and numbers of arguments as text."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _scalars(each)
    elif isinstance(value, list):
        for each in value:
            yield from _scalars(each)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)
