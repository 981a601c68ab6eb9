from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from chipmark.cell.checked_json import parse
from chipmark.cell.protocol import ChildSpec, Run
from chipmark.errors import BadInputError


def test_spec_round_trip(sim_spec: ChildSpec) -> None:
    assert ChildSpec.from_json(sim_spec.to_json()) == sim_spec


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"load": {"threds": 1}}, "did you mean threads"),
        ({"load": {"threads": "2"}}, r"field 'load\.threads': '2' is not int"),
        ({"load": {"threads": True}}, r"field 'load\.threads': True is not int"),
        ({"feedback": "maybe"}, "field 'feedback': 'maybe' is not 'forced' or 'sampled'"),
        ({"load": {"model": []}}, r"field 'load\.model': .* is not Mapping"),
    ],
)
def test_wrong_field_is_named(sim_spec: ChildSpec, change: dict[str, Any], problem: str) -> None:
    data = dataclasses.asdict(sim_spec)
    load = data["load"] | change.get("load", {})
    data |= change | {"load": load}
    with pytest.raises(BadInputError, match=problem):
        ChildSpec.from_json(json.dumps(data))


def test_lacking_field_is_named(sim_spec: ChildSpec) -> None:
    data = dataclasses.asdict(sim_spec)
    del data["load"]["precision"]
    with pytest.raises(BadInputError, match=r"field 'load\.precision': is missing"):
        ChildSpec.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_no_json_object_is_an_error(text: str) -> None:
    with pytest.raises(BadInputError, match=r"invalid JSON|must be"):
        parse(Run, text, "run request")
