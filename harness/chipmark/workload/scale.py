"""How a workload is shrunk for small machines: exact factors for context, output and tool time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from chipmark.errors import UnknownNameError, UsageError

_FACTOR = re.compile(r"\d{1,18}(?:/\d{1,18}|\.\d{1,18})?", re.ASCII)


def _parse_factor(name: str, text: str) -> Fraction:
    if not _FACTOR.fullmatch(text):
        raise UsageError(
            f"scale {name}: {text!r} is not a factor", "write a fraction such as 1/16, 0.25 or 1"
        )
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise UsageError(f"scale {name}: {text!r} divides by zero") from None


@dataclass(frozen=True, slots=True)
class Scale:
    """Factors of context, output and tool time, as exact fractions in lowest terms (`"1/16"`).

    `context` multiplies first prompts, shared prefixes, appends and the context cap; `output`
    multiplies the tokens of a turn's answer; `tool_time` multiplies every wall-clock gap of the
    trace: the time between turns and, in an open loop, between arrivals. Turns are never scaled.
    Strings in another form ("0.25") are brought to lowest terms.

    Raises `UsageError` for a factor that is not a number, negative, or zero where tokens are meant.
    """

    context: str = "1"
    output: str = "1"
    tool_time: str = "1"

    def __post_init__(self) -> None:
        for name in ("context", "output", "tool_time"):
            text = str(getattr(self, name)).strip()
            factor = _parse_factor(name, text)
            if factor == 0 and name != "tool_time":
                raise UsageError(f"scale {name}: must be above 0, not {text!r}")
            object.__setattr__(self, name, str(factor))

    @property
    def context_factor(self) -> Fraction:
        """Factor of every context length."""
        return Fraction(self.context)

    @property
    def output_factor(self) -> Fraction:
        """Factor of every output length."""
        return Fraction(self.output)

    @property
    def tool_time_factor(self) -> Fraction:
        """Factor of every gap in time; 0 sends the next turn at once."""
        return Fraction(self.tool_time)

    def __str__(self) -> str:
        return f"({self.context}, {self.output}, {self.tool_time})"


SCALES: dict[str, Scale] = {
    "quick": Scale("1/16", "1/16", "0"),
    "standard": Scale("1/4", "1/4", "1/10"),
    "full": Scale("1", "1", "1"),
}


def scale_named(name: str) -> Scale:
    """The scale of a suite (`quick`, `standard`, `full`) or three factors `"1/16,1/16,0"`.

    Raises `UnknownNameError` for another name, `UsageError` for bad factors.
    """
    if name in SCALES:
        return SCALES[name]
    parts = name.strip("() ").split(",")
    if len(parts) == 3:
        return Scale(*(part.strip() for part in parts))
    raise UnknownNameError(
        "scale", name, SCALES, "or give three factors: context,output,tool time, as in 1/16,1/16,0"
    )


def scaled_tokens(tokens: int, factor: Fraction) -> int:
    """`tokens` times `factor`, rounded half up in integers, at least 1."""
    return max(1, (2 * tokens * factor.numerator + factor.denominator) // (2 * factor.denominator))
