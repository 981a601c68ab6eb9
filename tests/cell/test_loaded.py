"""What a child may answer to `load`."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from chipmark.cell.checked_json import FieldError, from_mapping
from chipmark.cell.child import Child
from chipmark.cell.loaded import check_loaded, check_ran
from chipmark.cell.protocol import LoadAnswer, RunAnswer
from chipmark.errors import CellFailedError

SOFTMAX = {"name": "Softmax", "count": 30, "flops_share": 0.001, "bytes_share": 0.6}


@pytest.fixture
def answer(sim_spec) -> dict[str, Any]:
    child = Child(sim_spec, lambda _: None)
    found: dict[str, Any] = json.loads(json.dumps(child.answer("load", "{}"), default=str))
    return found


def test_what_a_backend_of_here_answers_is_whole(answer) -> None:
    check_loaded(from_mapping(LoadAnswer, answer))
    more = {"ep_coverage": None, "notes": [{"code": "backend", "text": "x"}]}
    more |= {"host_operators": [SOFTMAX], "emulated": "HTP on x86-64"}
    check_loaded(from_mapping(LoadAnswer, answer | more))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ep_coverage": float("nan")}, "ep_coverage"),
        ({"ep_coverage": 1.5}, "ep_coverage"),
        ({"kv_bytes": -1}, "kv_bytes"),
        ({"load_s": float("inf")}, "load_s"),
        ({"host_operators": [SOFTMAX | {"name": ""}]}, "host_operators.0.name"),
        ({"host_operators": [SOFTMAX | {"name": "a\nb"}]}, "host_operators.0.name"),
        ({"host_operators": [SOFTMAX, SOFTMAX | {"count": 0}]}, "host_operators.1.count"),
        ({"host_operators": [SOFTMAX | {"bytes_share": 1.1}]}, "host_operators.0.bytes_share"),
        ({"host_operators": [SOFTMAX | {"flops_share": -0.1}]}, "host_operators.0.flops_share"),
        ({"host_operators": [SOFTMAX, SOFTMAX]}, "host_operators: bytes_share adds up to 1.2"),
        ({"emulated": "two\nlines"}, "emulated"),
    ],
)
def test_what_is_out_of_range_fails_the_cell_and_names_the_field(answer, change, field) -> None:
    with pytest.raises(CellFailedError, match=f"load: the backend reports {re.escape(field)}"):
        check_loaded(from_mapping(LoadAnswer, answer | change))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ep_coverage": "1"}, "ep_coverage"),
        ({"weight_bytes": None}, "weight_bytes"),
        ({"precision": {"weights": "fp32"}}, "precision.activation"),
        ({"caps": {}}, "caps.kv"),
        ({"caps": 3}, "caps"),
        ({"notes": [{"code": "backend", "text": 3}]}, "notes.0.text"),
        ({"packages": {"torch": 2}}, "packages"),
        ({"tokens": 1}, "tokens"),
    ],
)
def test_what_does_not_fit_names_the_field(answer, change, field) -> None:
    with pytest.raises(FieldError) as caught:
        from_mapping(LoadAnswer, answer | change)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["weights", "kv"])
def test_a_precision_that_nobody_knows_fails_the_cell(answer, name) -> None:
    words = answer["precision"] | {name: "fp5"}
    with pytest.raises(CellFailedError, match=r"the backend reports precision: unknown .*'fp5'"):
        check_loaded(from_mapping(LoadAnswer, answer | {"precision": words}))


def test_memory_of_a_device_that_is_below_nothing_fails_the_cell() -> None:
    check_ran(RunAnswer(1, 1, True, 0, 0))
    check_ran(RunAnswer(1, 1, True, 0))
    with pytest.raises(CellFailedError, match="run: the backend reports peak_device_bytes: -1"):
        check_ran(RunAnswer(1, 1, True, 0, -1))


def test_a_count_of_launches_that_cannot_be_fails_the_cell() -> None:
    check_ran(RunAnswer(1, 1, True, 0, launches={"decode:graph": 3}))
    with pytest.raises(CellFailedError, match="run: the backend reports launches: 'decode:graph'"):
        check_ran(RunAnswer(1, 1, True, 0, launches={"decode:graph": -1}))


def test_facts_of_the_record_stay_among_the_capabilities(answer) -> None:
    names = ["sampling", "clock", "execution", "bind_is_snapshot"]
    assert list(answer["caps"])[-4:] == names
    assert [answer["caps"][name] for name in names] == ["device", "device", "compiled", False]
    assert answer["precision"] == dict.fromkeys(
        ("weights", "activation", "kv", "accumulate"), "fp32"
    )
