"""What is listed is whole in any width: no sign of a cut, every name and number of the JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chipmark.benchmark_json.stats import stats_of
from chipmark.table.cells import number_text

DATA = Path(__file__).parents[1] / "benchmark_json" / "data"
STORED = Path(__file__).parents[2] / "results" / "amd-epyc-zen4"
LONG = "tests/bench/test_decode.py::test_of_a_very_long_name[" + "x" * 70 + "]"
WIDTHS = (40, 60, 80)
ENTRY = [sys.executable, "-c", "from chipmark.cli.main import entry; entry()"]

Needed = Callable[[Any], list[str]]


@pytest.fixture
def at(chipmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run a command line in a terminal so many columns wide, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))

    def run(width: int, *arguments: object):
        monkeypatch.setenv("COLUMNS", str(width))
        return chipmark(*arguments)

    return run


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a simulated device."""
    out = tmp_path_factory.mktemp("simulated")
    done = subprocess.run(
        [*ENTRY, "run", "quick", "-b", "sim:golden", "-o", str(out)],
        capture_output=True, check=False, timeout=300,
        env={**os.environ, "CHIPMARK_CACHE": str(out / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return out


def runs_of(folder: Path, factors: dict[str, float], name: str = LONG) -> list[Path]:
    """Files of pytest-benchmark with one long name, a day and a time each."""
    document = json.loads((DATA / "v5.json").read_text(encoding="utf-8"))
    document["benchmarks"] = document["benchmarks"][:1]
    paths = []
    for day, (stem, factor) in enumerate(factors.items(), 1):
        document["datetime"] = f"2026-11-{day:02d}T07:00:00"
        document["commit_info"]["id"] = f"{day:040x}"
        for entry in document["benchmarks"]:
            entry["name"] = entry["fullname"] = name
            times = [0.01 * factor * (1 + 0.0001 * i) for i in range(12)]
            entry["stats"] = stats_of(times)
        folder.mkdir(exist_ok=True)
        path = folder / f"{stem}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        paths.append(path)
    return paths


def whole(text: str, needed: list[str]) -> None:
    assert "…" not in text
    assert not [word for word in needed if word not in text]


def of_chips(found: Any) -> list[str]:
    """Names of all, and the numbers that a chip has."""
    numbers = [
        f"{chip[field]['value']:g}"
        for chip in found
        for field in ("memory", "bandwidth", "rate_16bit", "tdp")
        if field in chip and chip[field]["value"] is not None
    ]
    return [chip["name"] for chip in found] + [n for n in numbers if "e" not in n]


LISTINGS: dict[tuple[str, ...], Needed] = {
    ("chips", "list"): of_chips,
    ("chips", "show", "nvidia-h20"): lambda e: [e["name"], *e["tdp"]["source"].split()],
    ("chips", "show", "ascend-910b4-1"): lambda e: [e["name"], *e["memory"]["source"].split()],
    ("models", "list"): lambda rows: [
        *(row["name"] for row in rows),
        *(row["source"] for row in rows),
        *(f"{row['max_context']:,}" for row in rows),
    ],
    ("workload", "list"): lambda rows: [
        word for row in rows for word in (row["name"], *row["title"].split())
    ],
    ("workload", "show", "agent-code-32k"): lambda found: [
        found["hash"],
        *(row["parameter"] for row in found["quantiles"]),
        *(f"{row['realised_p50']:,.4g}" for row in found["quantiles"]),
    ],
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", LISTINGS, ids=" ".join)
def test_a_listing_is_whole(at, command: tuple[str, ...], width: int) -> None:
    found = at(200, *command, "--format", "json").json
    answer = at(width, *command)
    assert answer.code == 0
    whole(answer.out, LISTINGS[command](found))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_doctors_inventory_is_whole(at, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from chipmark.cell import inventory

    made = inventory.inventory()
    monkeypatch.setattr(inventory, "inventory", lambda: made)
    answer = at(width, "doctor")
    assert answer.code == 0
    needed = [w for i in made for w in (i.name, *i.text.split(), *i.remedy.split())]
    assert not [word for word in needed if word not in answer.out]
    # A remedy may hold this sign itself, as a wheel's name in part.
    assert answer.out.count("…") == sum(word.count("…") for word in needed)


def of_cost(found: Any) -> list[str]:
    numbers = [row[name] for row in found for name in ("cost_per_session", "cost_per_mtok")]
    names = [row[name] for row in found for name in ("backend", "chip", "scenario")]
    return names + [number_text(value) for value in numbers if value is not None]


def of_table(found: Any) -> list[str]:
    names = ("total_tok_s", "decode_tok_s", "ttft_p50_s", "tok_per_joule", "cost_per_session")
    return [row["backend"] for row in found] + [
        number_text(row[name]) for row in found for name in names if row[name] is not None
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["stored", "simulated"])
def test_tables_of_records_are_whole(
    at, request: pytest.FixtureRequest, which: str, width: int, tmp_path: Path
) -> None:
    folder = STORED if which == "stored" else request.getfixturevalue("simulated")
    for command, needed in (("cost", of_cost), ("table", of_table)):
        found = at(200, command, folder, "--format", "json").json
        whole(at(width, command, folder).out, needed(found))
    whole(at(width, "table", folder, "--all").out, of_table(found))
    whole(
        at(width, "recompute", folder, "-o", tmp_path / "anew").out,
        [row["details"]["record"] for row in found],
    )
    assert "…" not in at(width, "validate", folder).out
    ids = [row["details"]["record"] for row in found]
    whole(at(width, "audit", folder).out, ids)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_gate_is_whole(at, tmp_path: Path, width: int) -> None:
    files = runs_of(tmp_path / "runs", {"base": 1.0, "new": 1.5, "again": 1.51})
    answer = at(width, "gate", *files)
    assert answer.code == 1
    whole(answer.out, [LONG, "time_s", "10.01 ms", "15.06 ms", "regressed"])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_history_is_whole(at, tmp_path: Path, width: int) -> None:
    noise = [1 + 0.001 * (day * 7 % 5) for day in range(14)]
    runs_of(tmp_path / "runs", {f"{d:02d}": n * (1.2 if d > 6 else 1) for d, n in enumerate(noise)})
    answer = at(width, "history", "runs")
    assert answer.code == 1
    whole(answer.out, [LONG, "time_s", "2026-11-07T07:00", "2026-11-08T07:00"])


def test_help_of_each_command_is_whole_at_80_columns(at) -> None:
    from chipmark.cli.main import COMMANDS

    for command in COMMANDS:
        assert "…" not in at(80, command, "--help").out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",), ("chips", "list"), ("chips", "show", "nvidia-h20"), ("models", "list"),
        ("workload", "list"), ("cost", str(STORED)), ("table", str(STORED)),
        ("table", str(STORED), "--format", "csv"), ("table", str(STORED), "--format", "html"),
        ("validate", str(STORED)), ("chips", "show", "café"),
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk"])
def test_a_terminal_that_is_not_utf_8_gets_no_traceback(
    arguments: tuple[str, ...], encoding: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [*ENTRY, *arguments], capture_output=True, check=False, timeout=120, cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": encoding, "COLUMNS": "80"},
    )  # fmt: skip
    text = done.stdout.decode(encoding)
    assert "Traceback" not in text + done.stderr.decode(encoding)
    assert done.returncode == (2 if "café" in arguments else 0)
    assert text or "café" in arguments


def test_signs_are_spelled_and_letters_numbered() -> None:
    from chipmark.terminal.streams import ERRORS

    assert "≥ 2 ─ ±1 中".encode("ascii", ERRORS) == b">= 2 - +-1 \\u4e2d"
    assert "≥ é".encode("latin-1", ERRORS) == ">= é".encode("latin-1")
