"""Messages in the OpenAI format to text, through the model's own Jinja template in a sandbox."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from chipmark_models.errors import BadInputError, ChipmarkError
from chipmark_models.tokenizer import ModelTokenizer


def render_chat(
    tokenizer: ModelTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    today: datetime.date = datetime.date(2025, 1, 1),
) -> str:
    """The prompt text of a conversation.

    `tools` are passed on as the template's variable of that name, None where there are none.
    `today` is what the template's strftime_now sees: a fixed date, or the same transcript would
    become other tokens tomorrow. Message contents that are null become "". Raises BadInputError
    where the template refuses the messages or is broken, ChipmarkError where the model has none.
    """
    if not tokenizer.chat_template:
        raise ChipmarkError("the model has no chat template", "use another model for transcripts")
    return render_template(
        tokenizer.chat_template,
        messages,
        tools=tools,
        add_generation_prompt=add_generation_prompt,
        today=today,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
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
) -> str:
    """Render one template; it sees no file, no attribute that starts with "_", no mutation."""
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, indent: int | None = None, **_options: Any) -> str:
        # Jinja's own tojson escapes for HTML; templates expect plain JSON.
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = today.strftime
    try:
        return environment.from_string(template).render(
            messages=[_message(m) for m in messages],
            tools=list(tools) if tools else None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
        )
    except (jinja2.TemplateError, TypeError, ValueError, OverflowError, RecursionError) as exc:
        # The sandbox's SecurityError is a TemplateError; a template's own type mistakes are not.
        raise BadInputError("chat template", f"{type(exc).__name__}: {exc}") from exc


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with contents as text, and the arguments of tool calls as objects, not JSON text."""
    copy = dict(message)
    content = copy.get("content")
    if content is None:
        copy["content"] = ""
    elif isinstance(content, list):
        copy["content"] = "".join(p.get("text", "") for p in content if isinstance(p, dict))
    if copy.get("tool_calls"):
        copy["tool_calls"] = [_tool_call(call) for call in copy["tool_calls"]]
    return copy


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    copy = dict(call)
    function = copy.get("function")
    if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
        try:
            arguments = json.loads(function["arguments"])
        except ValueError as exc:
            raise BadInputError(
                "message", f"is no JSON: {exc}", field="tool_calls.function.arguments"
            ) from exc
        copy["function"] = dict(function) | {"arguments": arguments}
    return copy
