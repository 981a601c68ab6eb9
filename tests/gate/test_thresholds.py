"""Thresholds from TOML: what fits, what wins, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from chipmark.errors import BadInputError
from chipmark.gate.thresholds import Thresholds, load_thresholds

PROJECT = """
[tool.chipmark.gate]
delta_red = 0.04
metrics = ["decode_tok_s"]

[[tool.chipmark.gate.rule]]
benchmark = "*decode*"
metric = "time_s"
delta_red = 0.05
absolute_floor = 1e-4

[[tool.chipmark.gate.rule]]
benchmark = "*decode_long*"
delta_eq = 0.01

[[tool.chipmark.gate.ignore]]
benchmark = "*first_call*"
reason = "compiles"
"""


def written(folder: Path, text: str, name: str = "pyproject.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_last_rule_that_fits_wins_key_by_key(tmp_path):
    found = load_thresholds(written(tmp_path, PROJECT), tmp_path)
    assert found.metrics == ["decode_tok_s"]
    plain = found.margins("t.py::test_prefill", "time_s")
    assert (plain.delta_red, plain.delta_eq, plain.absolute_floor) == (0.04, 0.02, 0.0)
    long = found.margins("t.py::test_decode_long", "time_s")
    assert (long.delta_red, long.delta_eq, long.absolute_floor) == (0.05, 0.01, 1e-4)
    assert found.margins("t.py::test_decode", "total_tok_s").delta_red == 0.04


def test_what_is_not_gated_has_a_reason(tmp_path):
    found = load_thresholds(written(tmp_path, PROJECT), tmp_path)
    assert found.not_gated("t.py::test_first_call", "time_s") == "compiles"
    assert found.not_gated("t.py::test_decode", "time_s") == ""
    with pytest.raises(BadInputError, match=r"ignore\.0\.reason"):
        load_thresholds(written(tmp_path, '[[ignore]]\nbenchmark = "x"\n', "own.toml"), tmp_path)


def test_the_nearest_pyproject_is_taken_and_none_is_the_default(tmp_path):
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    written(tmp_path, PROJECT)
    assert load_thresholds(None, below).delta_red == 0.04
    written(below, "[project]\nname = 'x'\n")
    assert load_thresholds(None, below) == Thresholds()


def test_a_file_of_its_own_has_the_keys_at_its_top(tmp_path):
    own = written(tmp_path, "delta_eq = 0.01\n", "gate.toml")
    assert load_thresholds(own, tmp_path).margins("x", "time_s").delta_eq == 0.01


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("delta_rde = 0.1", "field 'delta_rde': unknown key\ndid you mean delta_red"),
        (
            "[[rule]]\nabsolute_flor = 1.0",
            r"field 'rule\.0\.absolute_flor': unknown key\ndid you mean abs",
        ),
        ("delta_red = '3 %'", "field 'delta_red': "),
        ("delta_red = -0.1", "field 'delta_red': "),
        ("delta_red = nan", "field 'delta_red': "),
        ("delta_red = ", "invalid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, named):
    with pytest.raises(BadInputError, match=named) as caught:
        load_thresholds(written(tmp_path, text, "gate.toml"), tmp_path)
    assert "gate.toml" in str(caught.value)


def test_a_missing_file_and_a_table_that_is_none_are_named(tmp_path):
    with pytest.raises(BadInputError, match="no such file"):
        load_thresholds(tmp_path / "none.toml", tmp_path)
    with pytest.raises(BadInputError, match="field 'gate': must be a table"):
        load_thresholds(written(tmp_path, "[tool.chipmark]\ngate = 1\n"), tmp_path)
