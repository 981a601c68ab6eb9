"""What a child may answer to `load`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chipmark.cell.child import Child
from chipmark.cell.loaded import check_loaded
from chipmark.errors import CellFailedError


@pytest.fixture
def answer(sim_spec) -> dict[str, Any]:
    child = Child(sim_spec, lambda _: None)
    found: dict[str, Any] = json.loads(json.dumps(child.answer("load", "{}"), default=str))
    return found


def test_what_a_backend_of_here_answers_is_whole(answer) -> None:
    check_loaded(answer)
    check_loaded(answer | {"ep_coverage": None, "notes": [{"code": "backend", "text": "x"}]})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ep_coverage": float("nan")}, "ep_coverage"),
        ({"ep_coverage": 1.5}, "ep_coverage"),
        ({"ep_coverage": "1"}, "ep_coverage"),
        ({"weight_bytes": None}, "weight_bytes"),
        ({"kv_bytes": -1}, "kv_bytes"),
        ({"load_s": float("inf")}, "load_s"),
        ({"precision": {"weights": "fp32"}}, "precision.activation"),
        ({"caps": {}}, "caps.kv"),
        ({"notes": [{"code": "backend", "text": 3}]}, "notes.0.text"),
    ],
)
def test_what_does_not_fit_fails_the_cell_and_names_the_field(answer, change, field) -> None:
    with pytest.raises(CellFailedError, match=f"load: the backend reports {field}: "):
        check_loaded(answer | change)


@pytest.mark.parametrize("name", ["weights", "kv"])
def test_a_precision_that_nobody_knows_fails_the_cell(answer, name) -> None:
    words = answer["precision"] | {name: "fp5"}
    with pytest.raises(CellFailedError, match=r"the backend reports precision: unknown .*'fp5'"):
        check_loaded(answer | {"precision": words})


def test_facts_of_the_record_stay_among_the_capabilities(answer) -> None:
    names = ["sampling", "clock", "execution", "bind_is_snapshot"]
    assert list(answer["caps"])[-4:] == names
    assert [answer["caps"][name] for name in names] == ["device", "device", "compiled", False]
    assert answer["precision"] == dict.fromkeys(
        ("weights", "activation", "kv", "accumulate"), "fp32"
    )
