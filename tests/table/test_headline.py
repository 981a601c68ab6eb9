"""The sentence above a table: a winner only where ranks allow one, and the reasons otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chipmark.prices.book import EXAMPLE, load_book
from chipmark.results.record import Record
from chipmark.table.headline import headline
from chipmark.table.judged import judged_by_kind
from chipmark.table.render import rendered
from chipmark.table.rows import build_rows, sheets_of


def render(rows: Any, format: str, *args: Any, **options: Any) -> str:
    return "".join(rendered(rows, format, *args, **options))


Make = Callable[..., Record]

PRICED: dict[str, Any] = {
    "chip__name": "nvidia-a100-80g-sxm",
    "scenario": "capacity",
    "workload__scale": ["1", "1", "1"],
}


def of(*records: Record, **options: Any) -> str:
    return headline(judged_by_kind(sheets_of(records, load_book(EXAMPLE)), **options))


def part(sentence: str, word: str) -> str:
    """What the sentence says behind `fastest:` and its like."""
    found = [p for p in sentence.rstrip(".").split("; ") if p.lower().startswith(word)]
    assert len(found) == 1, sentence
    return found[0].partition(": ")[2]


def test_without_rows_there_is_no_sentence() -> None:
    assert of() == ""


def test_one_row_is_nobodys_winner(make_record: Make) -> None:
    said = of(make_record())
    assert part(said, "fastest") == "not known (only torch:cpu is ranked)"
    assert "not ranked" not in said


def test_the_fastest_is_named_with_its_number_and_its_rivals(make_record: Make) -> None:
    said = of(make_record(1.5), make_record(backend="ort:cpu"))
    best = part(said, "fastest")
    assert best.startswith("ort:cpu of 2 comparable rows by total_tok_s, ")
    assert "torch:cpu" not in best
    assert said.count(".\n") == 0
    assert said.endswith(".")


def test_overlapping_intervals_share_the_first_place(make_record: Make) -> None:
    said = of(make_record(), make_record(1.0001, backend="ort:cpu"), make_record(9, backend="x:y"))
    best = part(said, "fastest")
    assert best.startswith("torch:cpu and ort:cpu share the first place of 3")
    assert "x:y" not in best


def test_of_very_many_that_share_a_place_the_rest_are_counted(make_record: Make) -> None:
    best = part(of(*(make_record(backend=f"x:{i}") for i in range(9))), "fastest")
    assert best.startswith("x:0, x:1, x:2, x:3, x:4, x:5 and 3 more share the first place of 9")


def test_what_failed_is_counted_and_never_wins(make_record: Make) -> None:
    said = of(
        make_record(3.0),
        make_record(2.0, backend="ort:cpu"),
        make_record(1.0, backend="fast:wrong", parity={"verdict": "fail", "reason": "logits"}),
        make_record(1.0, backend="fast:few", repeats=2),
        make_record(status="failed", load=None, failure={"code": "crash", "text": "signal 11"}),
    )
    assert part(said, "fastest").startswith("ort:cpu of 2 ")
    assert "fast:" not in said
    out = part(said, "3 rows are not ranked in speed")
    for reason in ("parity failed (1)", "fewer than 3 repeats (1)", "the cell failed (1)"):
        assert reason in out


def test_nothing_comparable_gives_the_reasons_alone(make_record: Make) -> None:
    bad = {"verdict": "fail", "reason": "logits"}
    said = of(make_record(parity=bad), make_record(backend="ort:cpu", parity=bad))
    assert part(said, "fastest") == "not known (parity failed (2))"
    assert "share" not in said


def test_rows_with_one_backend_are_named_by_their_numbers(make_record: Make) -> None:
    said = of(make_record(1.5), make_record(1.0))
    assert part(said, "fastest").startswith("torch:cpu (row 2) of 2 ")


def test_measured_energy_has_a_winner_and_assumed_energy_none(make_record: Make) -> None:
    known = {"meter__error_rel": 0.01}
    lean = make_record(watts=10.0, backend="ort:cpu", **known)
    measured = of(make_record(watts=40.0, **known), lean)
    assert part(measured, "most tokens per joule").startswith(
        "ort:cpu of 2 comparable rows by tok_per_joule"
    )
    assumed = {"meter__source": "assumed"}
    guessed = of(
        make_record(watts=40.0, **assumed), make_record(watts=10.0, backend="ort:cpu", **assumed)
    )
    assert (
        part(guessed, "most tokens per joule") == "not known (energy is assumed, not measured (2))"
    )


def test_cost_is_ranked_in_the_capacity_scenario_only(make_record: Make) -> None:
    both = [make_record(1.0), make_record(1.5, backend="ort:cpu")]
    why = "not known (cost is ranked in the capacity scenario only (2))"
    assert part(of(*both), "cheapest") == why
    both = [make_record(2.0, **PRICED), make_record(1.0, backend="ort:cuda", **PRICED)]
    assert part(of(*both), "cheapest").startswith("ort:cuda of 2 comparable rows by cost_per_sess")


def test_eager_rows_have_a_group_of_their_own(make_record: Make) -> None:
    eager = make_record(backend="ort:cpu", load__execution="eager")
    other = make_record(1.1, load__execution="graph")
    assert "ranked apart" in part(of(other, eager), "fastest")


def test_the_metric_asked_for_counts_in_its_own_kind(make_record: Make) -> None:
    both = [make_record(1.5), make_record(backend="ort:cpu")]
    said = of(*both, rank_by="ttft_p50_s")
    assert "by ttft_p50_s" in part(said, "fastest")
    assert part(of(*both, rank_by="cost_per_mtok"), "fastest").endswith("1/s")


def test_people_see_the_sentence_and_programs_do_not(make_record: Make) -> None:
    rows = build_rows([make_record()], None)
    for form in ("rich", "md", "html"):
        assert "Fastest: this one." in render(rows, form, summary="Fastest: this one.")
    for form in ("json", "csv"):
        assert render(rows, form, summary="Fastest: this one.") == render(rows, form)
