from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from chipmark.cell.spec import ChildSpec, RunCommand
from chipmark.errors import BadInputError


def test_spec_round_trip(sim_spec: ChildSpec) -> None:
    assert ChildSpec.from_json(sim_spec.to_json()) == sim_spec


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"threds": 1}, "did you mean threads"),
        ({"threads": "2"}, "field 'threads': '2' is not int"),
        ({"threads": True}, "field 'threads': True is not int"),
        ({"feedback": "maybe"}, "field 'feedback': 'maybe' is not 'forced' or 'sampled'"),
        ({"model": []}, "field 'model': .* is not dict"),
    ],
)
def test_wrong_field_is_named(sim_spec: ChildSpec, change: dict[str, Any], problem: str) -> None:
    data = dataclasses.asdict(sim_spec) | change
    with pytest.raises(BadInputError, match=problem):
        ChildSpec.from_json(json.dumps(data))


def test_lacking_field_is_named(sim_spec: ChildSpec) -> None:
    data = dataclasses.asdict(sim_spec)
    del data["precision"]
    with pytest.raises(BadInputError, match="field 'precision'"):
        ChildSpec.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_no_json_object_is_an_error(text: str) -> None:
    with pytest.raises(BadInputError, match="is not"):
        RunCommand.from_json(text)
