"""Profiles: the shapes of agent workloads, as data with sources, read and checked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Literal

from chipmark.errors import BadInputError, UnknownNameError
from chipmark.workload.distribution import Distribution
from chipmark.workload.profile_fields import Fields, read_document
from chipmark.workload.session import Loop

BUILT_IN = Path(__file__).with_name("profiles.toml")
MICROSECONDS = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

PARAMETERS = ("first_prompt", "turns", "append", "output", "tool_time_s")
"""What a session is drawn from, in the order of `describe`."""


@dataclass(frozen=True)
class Group:
    """Sessions that start with the same `shared_tokens`; `task` is their private part, or None
    where the length of the whole first prompt is drawn instead."""

    weight: int
    shared_tokens: int
    task: Distribution | None = None


@dataclass(frozen=True)
class Sharing:
    """Which sessions share a prefix.

    `blocks`: every `sessions_per_group` sessions in a row are a new group of `groups[0]`'s length,
    so that the hit does not depend on the number of sessions. `draw`: each session draws its
    group by weight.
    """

    kind: Literal["blocks", "draw"]
    sessions_per_group: int
    groups: tuple[Group, ...]
    source: str


@dataclass(frozen=True)
class Arrivals:
    """Gaps between the arrivals of sessions in an open loop: `poisson`, or `gamma_cv4` (gamma with
    coefficient of variation 4)."""

    kind: Literal["poisson", "gamma_cv4"]
    mean_gap_us: int
    source: str


@dataclass(frozen=True)
class TargetHit:
    """The prefix hit of the corpus behind a profile; `scope` says whether hits between sessions
    count (`trace`) or only those within one (`session`)."""

    value: Fraction
    scope: Literal["session", "trace"]
    source: str


@dataclass(frozen=True)
class Target:
    """Quantiles to be met that do not follow from one distribution, in base units."""

    p10: int | None
    p50: int | None
    p90: int | None
    source: str


@dataclass(frozen=True)
class Profile:
    """The shape of an agent workload at scale 1; lengths in tokens, times in microseconds.

    `append` and `tool_time_s` are None exactly where every session has one turn.
    `reset_per_mille` is the chance of a turn, after the first, to start from the first prompt
    again. `min_task` is the least private part of a first prompt.
    """

    name: str
    title: str
    loop: Loop
    source: str
    context_cap: int
    min_task: int
    reset_per_mille: int
    sharing: Sharing
    arrivals: Arrivals | None
    first_prompt: Distribution
    turns: Distribution
    append: Distribution | None
    output: Distribution
    tool_time_s: Distribution | None
    target_hit: TargetHit
    targets: tuple[tuple[str, Target], ...]


def load_profiles(*files: str | os.PathLike[str]) -> dict[str, Profile]:
    """The profiles that come with the package and those of the user's TOML `files`, by name.

    Raises `BadInputError` naming the file and the field for TOML that cannot be read, unknown or
    missing fields, values out of range, and names that are already taken.
    """
    profiles = dict(_built_in())
    for file in files:
        for name, loaded in _read_profiles(Path(file)).items():
            if name in profiles:
                raise BadInputError(
                    file, "is already the name of another profile", field=name, hint="rename it"
                )
            profiles[name] = loaded
    return profiles


def profile(name: str, *files: str | os.PathLike[str]) -> Profile:
    """One profile by name; raises `UnknownNameError` with the nearest names."""
    profiles = load_profiles(*files)
    if name not in profiles:
        raise UnknownNameError("workload", name, profiles)
    return profiles[name]


@cache
def _built_in() -> dict[str, Profile]:
    return _read_profiles(BUILT_IN)


def _read_profiles(path: Path) -> dict[str, Profile]:
    document = read_document(path)
    for name in document.names():
        if not _NAME.fullmatch(name):
            raise document.wrong(name, "a profile's name is letters, digits and . _ -, up to 64")
    return {name: _profile(name, document.table(name)) for name in document.names()}


def _profile(name: str, fields: Fields) -> Profile:
    loop: Loop = "open" if fields.choice("loop", ("closed", "open")) == "open" else "closed"
    turns = fields.distribution("turns")
    several = turns.maximum is None or turns.maximum > 1
    result = Profile(
        name=name,
        title=fields.text("title"),
        loop=loop,
        source=fields.text("source"),
        context_cap=fields.integer("context_cap", least=2),
        min_task=fields.integer("min_task", least=1),
        reset_per_mille=fields.integer("reset_per_mille", least=0, most=1000, default=0),
        sharing=_sharing(fields.table("sharing")),
        arrivals=_arrivals(fields.table("arrivals")) if loop == "open" else None,
        first_prompt=fields.distribution("first_prompt"),
        turns=turns,
        append=fields.distribution("append") if several else None,
        output=fields.distribution("output"),
        tool_time_s=(
            fields.distribution("tool_time_s", unit=MICROSECONDS, least=0) if several else None
        ),
        target_hit=_target_hit(fields.table("target_hit")),
        targets=_targets(fields.table("targets", required=False)),
    )
    fields.refuse_others()
    longest = result.first_prompt.maximum
    if longest is None or longest >= result.context_cap:
        raise fields.wrong(
            "first_prompt", f"needs a maximum below context_cap, {result.context_cap}"
        )
    for group in result.sharing.groups:
        if group.shared_tokens + result.min_task >= result.context_cap:
            raise fields.wrong("sharing", "shared_tokens and min_task do not fit context_cap")
    return result


def _sharing(fields: Fields) -> Sharing:
    source = fields.text("source")
    if fields.choice("kind", ("blocks", "draw")) == "blocks":
        sharing = Sharing(
            kind="blocks",
            sessions_per_group=fields.integer("sessions_per_group", least=1),
            groups=(Group(1, fields.integer("shared_tokens", least=0)),),
            source=source,
        )
    else:
        groups = []
        for entry in fields.tables("groups"):
            task = entry.distribution("task") if entry.has("task") else None
            weight = entry.integer("weight", least=1)
            groups.append(Group(weight, entry.integer("shared_tokens", least=0), task))
            entry.refuse_others()
        sharing = Sharing("draw", 1, tuple(groups), source)
    fields.refuse_others()
    return sharing


def _arrivals(fields: Fields) -> Arrivals:
    gap = fields.number("mean_gap_s", least=Fraction(1, MICROSECONDS))
    gamma = fields.choice("kind", ("poisson", "gamma_cv4")) == "gamma_cv4"
    arrivals = Arrivals(
        kind="gamma_cv4" if gamma else "poisson",
        mean_gap_us=round(gap * MICROSECONDS),
        source=fields.text("source"),
    )
    fields.refuse_others()
    return arrivals


def _target_hit(fields: Fields) -> TargetHit:
    session = fields.choice("scope", ("session", "trace")) == "session"
    hit = TargetHit(
        value=fields.number("value", least=Fraction(0), most=Fraction(1)),
        scope="session" if session else "trace",
        source=fields.text("source"),
    )
    fields.refuse_others()
    return hit


def _targets(fields: Fields) -> tuple[tuple[str, Target], ...]:
    targets = []
    for name in PARAMETERS:
        if not fields.has(name):
            continue
        entry = fields.table(name)
        unit = MICROSECONDS if name == "tool_time_s" else 1
        p10, p50, p90 = (
            round(entry.number(p, least=Fraction(0)) * unit) if entry.has(p) else None
            for p in ("p10", "p50", "p90")
        )
        targets.append((name, Target(p10, p50, p90, entry.text("source"))))
        entry.refuse_others()
    fields.refuse_others()
    return tuple(targets)
