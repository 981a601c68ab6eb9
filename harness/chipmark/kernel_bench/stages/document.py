"""`stage-N.json`: what every step of a stage found, part by part, always a whole file.

{"format": 1, "stage": 1, "identity": {device, capability, torch, triton},
 "steps": {KEY: {"state", "parameters", "code", "card", "begun", "seconds",
                 "parts": {NAME: figures or {"error"}}, "broke": [NAME], "cut": {part, seconds}}},
 "earlier": [the same with "key": of other code or parameters]}
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from chipmark.errors import BadInputError
from chipmark.kernel_bench.stages.contract import MAIN, Stage, StageStep
from chipmark_models.files import whole_file
from chipmark_models.foreign_file import MIB, read_json

FORMAT = 1
DOCUMENT_BYTES = 64 * MIB
KIND = ("device", "capability", "torch", "triton")
"""Of the identity what figures of one file must have in common."""

_LEAST_SHARE = 0.2
_MORE = 1.5


class State(StrEnum):
    """Where a step stands."""

    OPEN = "open"
    """Never begun, or its code or parameters are others now."""

    CUT = "cut"
    """Begun and not ended: the time was over, or it was interrupted. Its parts stand."""

    FAILED = "failed"
    """Ended, with a part that failed or was late."""

    DONE = "done"
    """Ended, all parts made."""


@dataclass(slots=True)
class Entry:
    """What a file has of one step."""

    parameters: Mapping[str, Any]
    code: str
    state: State = State.OPEN
    card: str = ""
    """Its uuid."""
    begun: str = ""
    """UTC, of the first time."""
    seconds: float = 0.0
    """Spent on it in all calls."""
    parts: dict[str, Any] = field(default_factory=dict)
    broke: list[str] = field(default_factory=list)
    cut: dict[str, Any] | None = None
    """The part that was under way when it was last cut, and the seconds that it had had."""

    @property
    def failures(self) -> dict[str, str]:
        """Why a part failed, by part."""
        return {name: str(part["error"]) for name, part in self.parts.items() if "error" in part}

    @property
    def main_figure(self) -> str:
        """For people: what failed, else the last part's own words, else how many parts."""
        if self.failures:
            name, why = next(iter(self.failures.items()))
            more = f" (+{len(self.failures) - 1})" if len(self.failures) > 1 else ""
            return f"{name}: {why}{more}"
        texts = [part[MAIN] for part in self.parts.values() if part.get(MAIN)]
        return str(texts[-1]) if texts else f"{len(self.parts)} parts"

    def needed_s(self, step: StageStep) -> float:
        """Seconds that must be left for it to be gone on with.

        A part that was cut gets half as much again as it had, or it would be cut in every call.
        """
        if self.state is State.OPEN:
            return step.estimate_s
        rest = max(step.estimate_s - self.seconds, _LEAST_SHARE * step.estimate_s)
        had = self.cut["seconds"] if self.cut else 0.0
        return max(rest, min(_MORE * had, step.limit_s))

    def forget_failures(self) -> None:
        """Drop the parts that failed, so that they are made again."""
        for name in self.failures:
            del self.parts[name]
        self.broke = []


def fresh(step: StageStep, code: str) -> Entry:
    """Of a step that was never begun."""
    return Entry(as_json(step.parameters), code)


@dataclass(slots=True)
class StageFile:
    """One file, by step; `identity` is empty where nothing was measured yet."""

    path: Path
    stage: Stage
    identity: Mapping[str, Any] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    earlier: list[Any] = field(default_factory=list)

    def entry(self, step: StageStep, code: str) -> Entry:
        """What stands of the step as it is now; a fresh one where its parameters or its code are
        others than those that the file's were made with."""
        found = self.entries.get(step.key)
        if found and (found.parameters, found.code) == (as_json(step.parameters), code):
            return found
        return fresh(step, code)

    def begin(self, step: StageStep, entry: Entry) -> None:
        """File the entry; what other code left of the step is kept among the earlier ones."""
        before = self.entries.get(step.key)
        if before is not None and before is not entry and before.parts:
            self.earlier.append({"key": step.key, **_row(before)})
        self.entries[step.key] = entry

    def save(self) -> None:
        """Write it whole or not at all. Raises CannotWriteError."""
        text = json.dumps(
            {
                "format": FORMAT, "stage": int(self.stage), "identity": dict(self.identity),
                "steps": {key: _row(entry) for key, entry in self.entries.items()},
                "earlier": self.earlier,
            },
            indent=1, allow_nan=False,
        )  # fmt: skip
        with whole_file(self.path) as partial:
            partial.write_text(text + "\n", encoding="utf-8")


def path_of(folder: Path, stage: Stage) -> Path:
    """Where a stage's file is."""
    return folder / f"stage-{int(stage)}.json"


def read(folder: Path, stage: Stage) -> StageFile:
    """A stage's file, empty where there is none. Raises BadInputError for what is not one."""
    path = path_of(folder, stage)
    if not path.exists():
        return StageFile(path, stage)
    document = read_json(path, DOCUMENT_BYTES)
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT
        or document.get("stage") != int(stage)
    ):
        raise BadInputError(path, f"not stage {int(stage)} of `scripts/gpu` in format {FORMAT}")
    try:
        entries = {str(key): _entry(row) for key, row in document["steps"].items()}
        return StageFile(
            path, stage, dict(document["identity"]), entries, list(document["earlier"])
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(path, f"a step is not as `scripts/gpu` writes it: {error!r}") from error


def opened(folder: Path, stage: Stage, identity: Mapping[str, Any]) -> StageFile:
    """The stage's file for a card of this kind and these versions; what another kind left is kept
    under a name of its own, with a message."""
    kind = {name: identity.get(name, "") for name in KIND}
    found = read(folder, stage)
    if found.identity and dict(found.identity) != kind:
        aside = _free_name(found.path)
        found.path.rename(aside)
        was = ", ".join(str(v) for v in found.identity.values())
        print(f"gpu: {found.path} is of {was}: kept as {aside}", file=sys.stderr)
        found = StageFile(found.path, stage)
    found.identity = kind
    return found


def as_json(value: Any) -> Any:
    """The value as JSON holds it: not a finite number, no number. Raises TypeError for what it
    cannot hold."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if callable(item := getattr(value, "item", None)):  # a scalar of numpy or torch
        return as_json(item())
    raise TypeError(f"{type(value).__name__} is not JSON")


def _free_name(path: Path) -> Path:
    for i in range(1, 1000):
        aside = path.with_suffix(f".other-{i}.json")
        if not aside.exists():
            return aside
    raise BadInputError(path, "a thousand files of other cards are kept next to it")


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "state": str(entry.state), "parameters": dict(entry.parameters), "code": entry.code,
        "card": entry.card, "begun": entry.begun, "seconds": entry.seconds,
        "parts": entry.parts, "broke": entry.broke, "cut": entry.cut,
    }  # fmt: skip


def _entry(row: Mapping[str, Any]) -> Entry:
    parts = {str(name): dict(part) for name, part in row["parts"].items()}
    cut = None
    if row["cut"] is not None:
        cut = {"part": str(row["cut"]["part"]), "seconds": float(row["cut"]["seconds"])}
    return Entry(
        dict(row["parameters"]), str(row["code"]), State(row["state"]), str(row["card"]),
        str(row["begun"]), float(row["seconds"]), parts, [str(n) for n in row["broke"]], cut,
    )  # fmt: skip
