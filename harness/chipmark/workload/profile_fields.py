"""Fields of a profile file, taken one by one; every mistake names the file and the field."""

from __future__ import annotations

from collections.abc import Collection
from fractions import Fraction
from pathlib import Path

from chipmark.errors import BadInputError, nearest_names
from chipmark.workload.distribution import Distribution, LognormalPart
from chipmark_models.foreign_file import exact, read_toml
from chipmark_models.plain_text import one_line


def read_document(path: Path) -> Fields:
    """The top table of a TOML file, decimals read exactly as fractions.

    Raises `BadInputError` for a file that cannot be read or is invalid TOML.
    """
    return Fields(path, "", read_toml(path, parse_float=exact))


MOST = Fraction(1 << 31)
"""Largest number of a profile: tokens, or seconds."""

MOST_SIGMA = Fraction(10)
"""Widest lognormal: e**10 is already the factor of a standard deviation."""


class Fields:
    """One table of a file, remembering which of its fields were asked for."""

    def __init__(self, path: Path, where: str, values: dict[str, object]) -> None:
        self._path, self._where, self._values = path, where, values
        self._known: list[str] = []

    def names(self) -> list[str]:
        """Names of all fields, in the file's order."""
        return list(self._values)

    def has(self, name: str) -> bool:
        """Whether an optional field is there; makes it known either way."""
        self._known.append(name)
        return name in self._values

    def wrong(self, name: str, problem: str, hint: str = "") -> BadInputError:
        """The error of a field, to be raised."""
        return BadInputError(self._path, problem, field=self._full(name), hint=hint)

    def text(self, name: str) -> str:
        """A string that is not empty."""
        value = self._get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, f"must be a string that is not empty, not {_shown(value)}")
        return value

    def choice(self, name: str, valid: Collection[str]) -> str:
        """One of a few words."""
        value = self._get(name)
        if not isinstance(value, str) or value not in valid:
            raise self.wrong(name, f"must be {' or '.join(valid)}, not {_shown(value)}")
        return value

    def integer(
        self, name: str, *, least: int, most: int = 1 << 31, default: int | None = None
    ) -> int:
        """A whole number in `least..most`."""
        value = default if default is not None and not self.has(name) else self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            limits = f"at least {least}" if most == 1 << 31 else f"in {least}..{most}"
            raise self.wrong(name, f"must be a whole number {limits}, not {_shown(value)}")
        return value

    def number(self, name: str, *, least: Fraction, most: Fraction = MOST) -> Fraction:
        """A number in `least..most`, exact."""
        value = self._get(name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | Fraction)
            or not least <= value <= most
        ):
            limits = f"at least {float(least):g}"
            limits += f", at most {float(most):g}" if most < MOST else ""
            raise self.wrong(name, f"must be a number {limits}, not {_shown(value)}")
        return Fraction(value)

    def table(self, name: str, *, required: bool = True) -> Fields:
        """A table within; an empty one where it is not required and not there."""
        value: object = {} if not required and not self.has(name) else self._get(name)
        if not isinstance(value, dict):
            raise self.wrong(name, f"must be a table, not {_shown(value)}")
        return Fields(self._path, self._full(name), value)

    def tables(self, name: str) -> list[Fields]:
        """A list of tables, at least one."""
        value = self._get(name)
        if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
            raise self.wrong(name, f"must be a list of tables, not {_shown(value)}")
        return [
            Fields(self._path, f"{self._full(name)}[{i}]", entry) for i, entry in enumerate(value)
        ]

    def distribution(self, name: str, *, unit: int = 1, least: int = 1) -> Distribution:
        """A lognormal or a mixture of them, clipped; times `unit` to whole base units."""
        fields = self.table(name)
        entries = fields.tables("parts") if fields.has("parts") else [fields]
        parts = []
        for entry in entries:
            weight = entry.integer("weight", least=1) if entry is not fields else 1
            median = round(entry.number("median", least=Fraction(1, unit)) * unit)
            parts.append(
                LognormalPart(
                    weight, median, entry.number("sigma_ln", least=Fraction(0), most=MOST_SIGMA)
                )
            )
            if entry is not fields:
                entry.refuse_others()
        minimum = (
            round(fields.number("minimum", least=Fraction(least)) * unit)
            if fields.has("minimum")
            else least
        )
        maximum = (
            round(fields.number("maximum", least=Fraction(minimum, unit)) * unit)
            if fields.has("maximum")
            else None
        )
        source = fields.text("source")
        fields.refuse_others()
        return Distribution(tuple(parts), minimum, maximum, source)

    def refuse_others(self) -> None:
        """Raise for an unknown field, with the nearest that exist."""
        for name in self._values:
            if name not in self._known:
                near = nearest_names(name, sorted(set(self._known)))
                valid = sorted(set(self._known))
                says = f"did you mean {' or '.join(near)}?" if near else f"valid: {valid}"
                raise self.wrong(name, f"is not a field here; {says}")

    def _full(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def _get(self, name: str) -> object:
        self._known.append(name)
        if name not in self._values:
            # The misspelt field is the better message, so it is looked for first.
            near = [n for n in nearest_names(name, self._values) if n not in self._known]
            hint = f"is {near[0]!r} meant as {name!r}?" if near else ""
            raise self.wrong(name, "is missing", hint)
        return self._values[name]


def _shown(value: object) -> str:
    if isinstance(value, Fraction):
        return f"{float(value):g}" if abs(value) < MOST else f"a number of over {int(MOST):,}"
    return one_line(repr(value), 60)
