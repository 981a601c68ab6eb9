"""Backend options, objectives and idle times as they are given: on a command line, in a suite."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chipmark.errors import UnknownNameError, UsageError
from chipmark.results.manifest import Slo

CUSTOM_SLO = "custom"
"""The name of an objective whose limits were given without a name."""

LEAST_IDLE_S = 30.0
"""The least of which idle power is defined; 0 leaves it out."""

_OPTION = re.compile(r"(?:(?P<kind>[a-z_][a-z0-9_]*):)?(?P<key>[A-Za-z0-9_.-]+)=(?P<value>.*)")
UNIT = "unit"
"""Replicas on all devices of the unit that the price covers."""

MOST_REPLICAS = 64
"""A slip of the finger must not start a process for each."""

_LIMITS = ("ttft_append_s", "ttft_cold_s", "tpot_s", "share")


@dataclass(frozen=True, slots=True)
class GivenOption:
    """Options as given for the backends of a run."""

    values: Mapping[str, Any]
    kind: str | None = None
    """The backend kind that they are for; None is every kind."""
    text: str = ""
    """As it was given, for messages."""


def read_option(text: str) -> GivenOption:
    """An option out of `[KIND:]KEY=VALUE`.

    A value is a TOML value (`4`, `true`, `[1, 2]`), and text where it is none; a dot in the key is
    a table within. Raises UsageError.
    """
    parts = _OPTION.fullmatch(text)
    if parts is None:
        raise UsageError(
            f"--option {text!r} is not KEY=VALUE", "as --option graph=plain or ort:graph=plain"
        )
    return GivenOption(_read(text, parts["key"], parts["value"]), parts["kind"], text)


def options_for(kind: str, given: Iterable[GivenOption]) -> dict[str, Any]:
    """Options of a backend kind; those of other kinds are left out, the last of a name holds."""
    found: dict[str, Any] = {}
    for option in given:
        if option.kind in (None, kind):
            found = merged(found, option.values)
    return found


def check_kinds(given: Iterable[GivenOption], kinds: Collection[str]) -> None:
    """UnknownNameError for an option of a kind that no backend of the run has."""
    for option in given:
        if option.kind is not None and option.kind not in kinds:
            raise UnknownNameError(f"kind of --option {option.text!r}", option.kind, kinds)


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both, `second` over `first`, tables within likewise."""
    found = dict(first)
    for key, value in second.items():
        inner = found.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            found[key] = merged(inner, value)
        else:
            found[key] = value
    return found


def replicas_given(given: object) -> int:
    """Replicas out of a count, or `unit` for one on each device of the unit, which is 0. Raises
    UsageError."""
    text = str(given)
    if text == UNIT:
        return 0
    if isinstance(given, bool) or not text.isdigit() or not 0 < int(text) <= MOST_REPLICAS:
        hint = f"{UNIT} is one on each device of the unit, 1 leaves its other devices idle"
        raise UsageError(f"replicas {given!r} is not a count, and not {UNIT}", hint)
    return int(text)


def read_slo(text: str) -> Slo:
    """An objective out of `FIELD=VALUE,...`: ttft_append_s, ttft_cold_s, tpot_s (seconds), share,
    name. What is not given is the default's. Raises UsageError, UnknownNameError."""
    given: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals:
            raise UsageError(f"--slo {part.strip()!r} is not FIELD=VALUE", "as --slo tpot_s=0.03")
        if name.strip() in given:
            raise UsageError(f"--slo names {name.strip()} twice", "give it once")
        given[name.strip()] = value.strip()
    for name in _LIMITS:
        if name in given:
            try:
                given[name] = float(given[name])
            except ValueError as error:
                text = f"--slo {name}={given[name]}: not a number"
                raise UsageError(text, f"as --slo {name}=0.5") from error
    return slo_of(given)


def slo_of(given: Mapping[str, Any]) -> Slo:
    """An objective out of its fields. Raises UsageError, UnknownNameError."""
    for name, value in given.items():
        if name == "name":
            if not isinstance(value, str) or not value.strip():
                raise UsageError("the objective's name is empty")
            continue
        if name not in _LIMITS:
            raise UnknownNameError("field of the objective", name, ("name", *_LIMITS))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf or (name == "share" and value > 1):
            what = "a share of turns, over 0 and at most 1" if name == "share" else "seconds over 0"
            example = "share=0.9" if name == "share" else f"{name}=0.5"
            raise UsageError(
                f"the objective's {name} is {value!r}: it must be {what}", f"as --slo {example}"
            )
    named = dict(given)
    if any(name in given for name in _LIMITS):
        named.setdefault("name", CUSTOM_SLO)
    return Slo.model_validate(named)


def check_idle_s(seconds: float) -> float:
    """Seconds of idle; UsageError for less than idle power needs, and for an endless one."""
    if isinstance(seconds, bool) or not (seconds == 0 or LEAST_IDLE_S <= seconds < math.inf):
        raise UsageError(
            f"--idle-s is {seconds:g}",
            f"give at least {LEAST_IDLE_S:g} seconds, which idle power needs, or 0 for none",
        )
    return float(seconds)


def _read(text: str, key: str, value: str) -> dict[str, Any]:
    for shown in (value, json.dumps(value)):
        try:
            return tomllib.loads(f"{key} = {shown}")
        except tomllib.TOMLDecodeError:
            continue
    raise UsageError(f"--option {text!r}: {key!r} is not a key", "letters, digits, _ and -; a dot")
