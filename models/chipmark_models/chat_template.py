"""Messages in the OpenAI format to text, through the model's own Jinja template in a sandbox.

The template sees what transformers lets it see: the messages as they are given, the special
tokens, the filter tojson with its options, `raise_exception`, `strftime_now`, and the statements
break, continue and generation.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from chipmark_models.errors import BadInputError, ChipmarkError
from chipmark_models.tokenizer import ModelTokenizer

# What a template's own code can raise: 1 / 0, "{x}".format(), a list and a text added.
_MISTAKES = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip
_MOST, _MOST_STEPS, _SMALL = 1_000_000, 10_000, 1_000
"""Bounds within a template: characters of one product, steps of a range, numbers of a power."""

_REASONING = ("reasoning_content", "thinking", "reasoning")


def render_chat(
    tokenizer: ModelTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    today: datetime.date = datetime.date(2025, 1, 1),
) -> str:
    """The prompt text of a conversation.

    `tools` are passed on as the template's variable of that name, None where there are none; a
    model with a template of its own for tools renders by that one. `today` is what the template's
    strftime_now sees: a fixed date, or the same transcript would become other tokens tomorrow.
    Raises BadInputError where the template refuses the messages or is broken, ChipmarkError where
    the model has none.
    """
    template = (tokenizer.tool_template if tools else "") or tokenizer.chat_template
    if not template:
        raise ChipmarkError("the model has no chat template", "use another model for transcripts")
    return render_template(
        template,
        messages,
        tools=tools,
        add_generation_prompt=add_generation_prompt,
        today=today,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        special_tokens=tokenizer.special_tokens,
    )


def render_template(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    today: datetime.date,
    bos_token: str,
    eos_token: str,
    special_tokens: Mapping[str, str] | None = None,
) -> str:
    """Render one template; it sees no file, no attribute that starts with "_", no mutation."""
    import jinja2

    try:
        rendered: str = _compiled(template, today).render(
            **(special_tokens or {}),
            messages=[_with_thought(message) for message in messages],
            tools=list(tools) if tools else None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
        )
    except (jinja2.TemplateError, *_MISTAKES) as exc:  # the sandbox's SecurityError among them
        raise BadInputError("chat template", f"{type(exc).__name__}: {exc}") from exc
    return rendered


@lru_cache(maxsize=8)
def _compiled(template: str, today: datetime.date) -> Any:
    """The template in its sandbox; raises jinja2.TemplateSyntaxError."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} .. {% endgeneration %} marks what a model writes; it prints its body."""

        tags = {"generation"}  # noqa: RUF012 - as the base class declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    class Environment(ImmutableSandboxedEnvironment):
        """The sandbox, which also refuses a product or a power that would fill the memory."""

        intercepted_binops = frozenset(("*", "**"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" and not _small(left, right):
                raise jinja2.TemplateError("a power of large numbers")
            if operator == "*" and max(_repeats(left, right), _repeats(right, left)) > _MOST:
                raise jinja2.TemplateError(f"a text of over {_MOST} characters by one product")
            return super().call_binop(context, operator, left, right)

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = today.strftime
    environment.globals["range"] = _short_range
    return environment.from_string(template)


def _short_range(*bounds: int) -> range:
    """As range; an OverflowError for one that is longer than any conversation's loop."""
    found = range(*bounds)
    if len(found) > _MOST_STEPS:
        raise OverflowError(f"a range of {len(found)} steps")
    return found


def _small(*values: Any) -> bool:
    return all(isinstance(value, int | float) and abs(value) < _SMALL for value in values)


def _repeats(sequence: Any, times: Any) -> int:
    """Length of a sequence taken so many times; 0 where one is not that."""
    if not isinstance(sequence, str | list | tuple) or not isinstance(times, int):
        return 0
    return len(sequence) * times


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own tojson escapes for HTML; templates expect plain JSON, in transformers' signature.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _with_thought(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the thought under each name that templates read, as transformers fills it."""
    thought = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    if thought is None:
        return dict(message)
    return {"thinking": thought, **message, "reasoning_content": thought}
