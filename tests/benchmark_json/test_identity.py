"""What stays the same from run to run: names and parameters without addresses, keys of CPUs."""

from __future__ import annotations

import functools
import json
import re
import weakref
from pathlib import Path
from typing import Any

import pytest

from chipmark.benchmark_json.identity import ambiguous, cpu_identity, without_addresses
from chipmark.benchmark_json.read import read_benchmark_json
from chipmark.benchmark_json.stats import stats_of


class Thing:
    """Its repr is `object`'s."""

    def method(self) -> None:
        return None


def function() -> None:
    return None


def objects() -> list[Any]:
    thing = Thing()
    return [
        thing, thing.method, function, lambda: None, functools.partial(function, 1),
        weakref.ref(thing), (i for i in ()), [thing, {"a": thing}], map(str, ()),
    ]  # fmt: skip


def test_an_address_is_taken_out_of_every_repr() -> None:
    held = objects(), objects()  # all alive at once, so that no address is used again
    for one, other in zip(*held, strict=True):
        first, second = (f"UNSERIALIZABLE[{thing!r}]" for thing in (one, other))
        assert without_addresses(first) == without_addresses(second)
        assert re.search("0x[0-9a-f]{6}", first)
        assert not re.search("0x[0-9a-f]{6}", without_addresses(first))


@pytest.mark.parametrize(
    "value", ["0x7f3a5c0d1e50", "jump at 0x7f3a5c0d1e50", "<x at 0x10>", 3, None, 1.5, True]
)
def test_what_is_no_address_stays(value: object) -> None:
    assert without_addresses(value) == value


def test_keys_and_lists_are_looked_into() -> None:
    found = without_addresses({"<f at 0x7f3a5c0d1e50>": ["<g at 0x7f3a5c0d1e50>", {"n": 1}]})
    assert found == {"<f at 0x>": ["<g at 0x>", {"n": 1}]}


def run(tmp_path: Path, *entries: tuple[str, dict[str, Any] | None]) -> Any:
    benchmarks = [
        {"fullname": name, "name": name, "params": params, "stats": stats_of([1.0, 2.0])}
        for name, params in entries
    ]
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"version": "5.2.3", "benchmarks": benchmarks}), encoding="utf-8")
    return read_benchmark_json(path)


def test_parameters_that_an_address_alone_tells_apart_are_named(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        ("t[cfg0]", {"cfg": "UNSERIALIZABLE[<C object at 0x7f3a5c0d1e50>]"}),
        ("t[cfg1]", {"cfg": "UNSERIALIZABLE[<C object at 0x7f3a5c0d1e60>]"}),
        ("u[<C object at 0x7f3a5c0d1e50>]", {"n": 1}),
        ("u[<C object at 0x7f3a5c0d1e60>]", {"n": 1}),
        ("plain", None),
    )
    unclear = ambiguous(found.benchmarks)
    assert sorted(unclear) == [0, 1, 2, 3]
    assert "t[cfg1]" in unclear[0]


def test_parameters_with_ids_of_their_own_are_told_apart(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        ("t[small]", {"cfg": "UNSERIALIZABLE[<C object at 0x7f3a5c0d1e50>]"}),
        ("t[large]", {"cfg": "UNSERIALIZABLE[<C object at 0x7f3a5c0d1e60>]"}),
        ("u[f-1]", {"f": "UNSERIALIZABLE[<function f at 0x7f3a5c0d1e50>]", "n": 1}),
        ("u[f-2]", {"f": "UNSERIALIZABLE[<function f at 0x7f3a5c0d1e50>]", "n": 2}),
        ("v[1]", {"n": 1}),
        ("v[2]", {"n": 1}),
    )
    assert ambiguous(found.benchmarks) == {}


@pytest.mark.parametrize(
    ("cpu", "brand"),
    [
        ({"brand_raw": "new", "brand": "old"}, "new"),
        ({"brand": "old"}, "old"),
        ({"hardware": "BCM2835"}, "BCM2835"),
        ({}, None),
    ],
)
def test_a_cpu_is_known_by_old_keys_too(cpu: dict[str, Any], brand: str | None) -> None:
    found = cpu_identity({**cpu, "arch": "X86_64", "count": 8})
    assert found == {"brand_raw": brand, "count": 8, "arch": "X86_64"}
