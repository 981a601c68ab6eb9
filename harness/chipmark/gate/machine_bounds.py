"""What A/A runs of a machine support, stored a file per fingerprint, and the default margin."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from chipmark.foreign_model import parse_model
from chipmark.gate.outputs.write import write_whole
from chipmark_models.cache import cache_path
from chipmark_models.foreign_file import SETTINGS_BYTES, read_text

ACROSS_SESSIONS = 0.13
"""Margin, ln, between sessions of a machine that has no A/A of its own. `python -m
chipmark.gate.simulation` shows the false reds that it leaves at the noise of
`gate.simulation.noise`, where a session shifts numbers by 3 %: at most 0.1 % a benchmark with a
confirming second run."""


class Bound(BaseModel):
    """A file of the cache's folder `aa`. within: bound of A/A effects inside a session, ln.
    across: the same between sessions, null where only one session was measured. pairs: A/A pairs
    behind `within`, 0 where only sessions were compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    schema_: str = Field("chipmark.aa/1", alias="schema", pattern=r"^chipmark\.aa/1$")
    fingerprint: str = Field(pattern=r"^[0-9a-f]{16}$")
    within: float = Field(ge=0, le=10, allow_inf_nan=False)
    across: float | None = Field(default=None, ge=0, le=10, allow_inf_nan=False)
    pairs: int = Field(ge=0)
    created: str


@dataclass(frozen=True, slots=True)
class SessionMargin:
    """The margin that a comparison across sessions costs, ln, and where it is from, in words.
    within: the bound of A/A effects inside a session, for runs that were interleaved."""

    value: float
    source: str
    within: float = 0.0


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Sixteen hex digits of what identifies a machine: a stored run's `identity`."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def bound_path(of: str, folder: Path | None = None) -> Path:
    """The place of a fingerprint's bound: in `folder`, else in the cache of chipmark."""
    return folder / f"{of}.json" if folder else cache_path("aa", f"{of}.json")


def store_bound(bound: Bound, folder: Path | None = None) -> Path:
    """Write a bound, whole or not at all; returns its path."""
    path = bound_path(bound.fingerprint, folder)
    write_whole(path, bound.model_dump_json(by_alias=True, indent=1) + "\n")
    return path


def load_bound(of: str, folder: Path | None = None) -> Bound | None:
    """The bound of a fingerprint; None where there is none. BadInputError for a broken file."""
    path = bound_path(of, folder)
    if not os.path.lexists(path):
        return None
    hint = "delete it, and the default margin holds"
    return parse_model(Bound, read_text(path, SETTINGS_BYTES, hint=hint), path, hint=hint)


def session_margin(of: str, folder: Path | None = None) -> SessionMargin:
    """The margin across sessions of a machine: by its A/A, else ACROSS_SESSIONS."""
    bound = load_bound(of, folder)
    within = bound.within if bound is not None else 0.0
    if bound is not None and bound.across is not None:
        source = f"A/A across sessions of this machine, {bound.created}"
        return SessionMargin(bound.across, source, within)
    percent = 100 * math.expm1(ACROSS_SESSIONS)
    return SessionMargin(
        ACROSS_SESSIONS,
        f"the default of {percent:.0f} %: this machine has no A/A across sessions "
        "(`chipmark aa --across` measures it)",
        within,
    )
