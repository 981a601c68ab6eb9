"""Thresholds of a project: `[tool.chipmark.gate]` of pyproject.toml, or a TOML file of its own.

    [tool.chipmark.gate]
    delta_red = 0.03                # ln: a regression is beyond it
    delta_eq = 0.02                 # half-width of "equivalent"

    [[tool.chipmark.gate.rule]]     # the last rule that fits wins, key by key
    benchmark = "*decode*"          # shell pattern of the benchmark's full name
    metric = "time_s"
    delta_red = 0.05
    absolute_floor = 1e-4           # in the metric's unit: both floors must be passed

    [[tool.chipmark.gate.ignore]]
    benchmark = "*first_call*"
    reason = "compiles; judged by the nightly run"

A file of its own has the same keys at its top.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chipmark.errors import BadInputError, nearest_names
from chipmark.gate.verdict import DELTA_EQ, DELTA_RED, Margins
from chipmark_models.foreign_file import read_toml

Ln = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Floor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _TablePart(BaseModel):
    """Frozen and strict; an unknown key is an error, so that a misspelt one is not lost."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Rule(_TablePart):
    """Margins of benchmarks and metrics that fit both shell patterns; None keeps the default."""

    benchmark: str = Field("*", min_length=1)
    metric: str = Field("*", min_length=1)
    delta_red: Ln | None = None
    delta_eq: Ln | None = None
    absolute_floor: Floor | None = None

    def fits(self, benchmark: str, metric: str) -> bool:
        """Whether the rule is about this benchmark and metric."""
        return fnmatchcase(benchmark, self.benchmark) and fnmatchcase(metric, self.metric)


class Ignore(_TablePart):
    """Benchmarks that are shown and not gated, and why."""

    benchmark: str = Field(min_length=1)
    metric: str = Field("*", min_length=1)
    reason: str = Field(min_length=1)


class Thresholds(_TablePart):
    """All of them. metrics: what is judged where the command names none (() is the default of the
    kind of result)."""

    delta_red: Ln = DELTA_RED
    delta_eq: Ln = DELTA_EQ
    absolute_floor: Floor = 0.0
    metrics: list[str] = Field(default_factory=list)
    rule: list[Rule] = Field(default_factory=list)
    ignore: list[Ignore] = Field(default_factory=list)

    def margins(self, benchmark: str, metric: str) -> Margins:
        """The margins of a benchmark's metric."""
        names = ("delta_red", "delta_eq", "absolute_floor")
        found = {name: getattr(self, name) for name in names}
        for rule in self.rule:
            if rule.fits(benchmark, metric):
                found |= {n: v for n in names if (v := getattr(rule, n)) is not None}
        return Margins(**found)

    def not_gated(self, benchmark: str, metric: str) -> str:
        """The stated reason why it is not gated; "" where it is."""
        for entry in self.ignore:
            if fnmatchcase(benchmark, entry.benchmark) and fnmatchcase(metric, entry.metric):
                return entry.reason
        return ""


def load_thresholds(path: Path | None, folder: Path) -> Thresholds:
    """Thresholds of a TOML file; of a pyproject.toml its `[tool.chipmark.gate]`, or the defaults.

    Without a path those of the nearest pyproject.toml at or above `folder`, else the defaults.
    Raises BadInputError, which names file and key, with the nearest name for an unknown one.
    """
    if path is None:
        above = (parent / "pyproject.toml" for parent in (folder, *folder.parents))
        path = next((p for p in above if p.is_file()), None)
        if path is None:
            return Thresholds()
    document = read_toml(path)
    prefix: tuple[str, ...] = ()
    if path.name == "pyproject.toml":
        prefix = ("tool", "chipmark", "gate")
        for key in prefix:
            document = document.get(key, {})
            if not isinstance(document, dict):
                raise BadInputError(path, "must be a table", field=key)
    try:
        return Thresholds.model_validate(document)
    except ValidationError as error:
        raise _bad_key(path, prefix, error) from error


def _bad_key(path: Path, prefix: tuple[str, ...], error: ValidationError) -> BadInputError:
    first: Any = error.errors()[0]
    field = ".".join(str(part) for part in (*prefix, *first["loc"]))
    hint = ""
    if first["type"] == "extra_forbidden":
        at = str(first["loc"][0]) if len(first["loc"]) > 1 else ""
        models: dict[str, type[_TablePart]] = {"rule": Rule, "ignore": Ignore}
        model = models.get(at, Thresholds)
        known = list(model.model_fields)
        near = nearest_names(str(first["loc"][-1]), known)
        hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(known)}"
        return BadInputError(path, "unknown key", field=field, hint=hint)
    return BadInputError(path, str(first["msg"]), field=field, hint=hint)
