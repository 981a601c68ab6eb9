from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chipmark.errors import BadInputError, UsageError
from chipmark.workload.scale import Scale
from chipmark.workload.trace import Session, Trace, Turn, load_trace, save_trace

TURNS = (
    Turn(0, 10, 10, 0, 2, 0, 10, tool_time_s=0.25),
    Turn(1, 15, 3, 12, 2, 12, 15, tool_time_s=1.5),
    Turn(2, 9, 4, 5, 1, 17, 21, reset=True),
    Turn(3, 13, 3, 10, 5, 22, 25),
)


def make_trace(turns: tuple[Turn, ...] = TURNS, **changes: object) -> Trace:
    session = Session(7, 0, 5, None, np.arange(30, dtype=np.int32), turns)
    fields = {
        "sessions": (session,),
        "vocab_size": 100,
        "name": "hand",
        "scale": Scale("1/16", "0.25", "0"),
        "seed": 3,
        "loop": "closed",
    }
    return Trace(**(fields | changes))  # type: ignore[arg-type]


def test_a_prompt_is_the_kept_context_and_the_turns_own_input() -> None:
    (session,) = make_trace().sessions
    prompts = [session.prompt(turn).tolist() for turn in session.turns]
    assert prompts[0] == list(range(10))
    assert prompts[1] == list(range(15))
    assert prompts[2] == [0, 1, 2, 3, 4, 17, 18, 19, 20]
    assert prompts[3] == [0, 1, 2, 3, 4, *range(17, 25)]
    assert [session.output(t).tolist() for t in session.turns[:2]] == [[10, 11], [15, 16]]


def test_a_context_cut_inside_an_earlier_output_keeps_the_ids_before_the_cut() -> None:
    turns = (
        Turn(0, 4, 4, 0, 4, 0, 4),
        Turn(1, 8, 2, 6, 2, 8, 10, reset=True),
        Turn(2, 8, 1, 7, 1, 12, 13, reset=True),
    )
    session = Session(0, 0, 0, None, np.arange(14, dtype=np.int32), turns)
    trace = make_trace(sessions=(session,))
    assert trace.sessions[0].prompt(turns[1]).tolist() == [0, 1, 2, 3, 4, 5, 8, 9]
    assert trace.sessions[0].prompt(turns[2]).tolist() == [0, 1, 2, 3, 4, 5, 8, 12]


def test_totals_and_the_ideal_hit_are_sums_over_turns() -> None:
    trace = make_trace()
    totals = trace.totals
    assert (totals.n_new, totals.n_cached, totals.n_out) == (20, 27, 10)
    assert (totals.prompt_tokens, totals.turns, totals.sessions) == (47, 4, 1)
    assert trace.prefix_hit_ideal == pytest.approx(27 / 47)
    assert trace.max_context_tokens == 18
    assert make_trace(sessions=()).prefix_hit_ideal is None


def test_a_trace_survives_its_file(tmp_path) -> None:
    trace = make_trace()
    save_trace(trace, tmp_path / "trace.npz")
    loaded = load_trace(tmp_path / "trace.npz")
    assert loaded.hash == trace.hash
    assert loaded.sessions[0].turns == TURNS
    assert loaded.scale == Scale("1/16", "1/4", "0")
    assert [p.name for p in tmp_path.iterdir()] == ["trace.npz"]


def test_open_arrivals_survive_the_file(tmp_path) -> None:
    session = replace(make_trace().sessions[0], arrival_s=0.1)
    save_trace(make_trace(sessions=(session,), loop="open"), tmp_path / "t.npz")
    assert load_trace(tmp_path / "t.npz").sessions[0].arrival_s == 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"seed": 4},
        {"vocab_size": 101},
        {"scale": Scale("1/16", "1/4", "1")},
        {"turns": (*TURNS[:3], replace(TURNS[3], tool_time_s=1.0))},
    ],
)
def test_everything_that_defines_a_trace_is_in_its_hash(changes: dict[str, object]) -> None:
    assert make_trace(**changes).hash != make_trace().hash  # type: ignore[arg-type]


def test_equal_scales_written_differently_have_one_hash() -> None:
    assert make_trace(scale=Scale("0.0625", "2/8", "0")).hash == make_trace().hash


@pytest.mark.parametrize(
    ("index", "turn", "says"),
    [
        (1, replace(TURNS[1], n_new=4), "are not new plus cached"),
        (0, replace(TURNS[0], n_out=0), "n_out 0"),
        (2, replace(TURNS[2], reset=False), "reset is False"),
        (3, replace(TURNS[3], tokens_start=23), "input ids at 23:25"),
        (3, replace(TURNS[3], n_out=4), "the turns use 29"),
        (1, replace(TURNS[1], tool_time_s=float("nan")), "tool_time_s is nan"),
        (1, replace(TURNS[1], index=5), "has index 5"),
    ],
)
def test_a_trace_that_contradicts_itself_is_refused(index: int, turn: Turn, says: str) -> None:
    turns = (*TURNS[:index], turn, *TURNS[index + 1 :])
    with pytest.raises(UsageError, match=says):
        make_trace(turns)


def test_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(UsageError, match=r"outside 0\.\.28"):
        make_trace(vocab_size=29)


def test_a_closed_trace_has_no_arrivals_and_an_open_one_has() -> None:
    with pytest.raises(UsageError, match="arrival_s is None in a trace with a open loop"):
        make_trace(loop="open")


def test_a_changed_file_is_refused_by_its_hash(tmp_path) -> None:
    path = tmp_path / "trace.npz"
    save_trace(make_trace(), path)
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["tokens"] = arrays["tokens"][::-1].copy()
    np.savez(path, **arrays)
    with pytest.raises(BadInputError, match=r"field 'hash': the content has sha256"):
        load_trace(path)


@pytest.mark.parametrize("name", ["head", "tokens", "turns", "arrival_s"])
def test_a_file_without_an_array_names_it(tmp_path, name: str) -> None:
    path = tmp_path / "trace.npz"
    save_trace(make_trace(), path)
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files if key != name}
    np.savez(path, **arrays)
    with pytest.raises(BadInputError, match=f"field '{name}': is missing"):
        load_trace(path)


def test_counts_that_do_not_add_up_are_refused(tmp_path) -> None:
    path = tmp_path / "trace.npz"
    save_trace(make_trace(), path)
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["sessions"][0, 3] += 1
    np.savez(path, **arrays)
    with pytest.raises(BadInputError, match="do not add up"):
        load_trace(path)


def test_a_cut_or_foreign_file_is_refused(tmp_path) -> None:
    path = tmp_path / "trace.npz"
    save_trace(make_trace(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a trace"):
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=r"is not a whole npz|not a number"):
            load_trace(path)
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(BadInputError, match=r"is not a whole npz|not a number"):
        load_trace(tmp_path / "single.npy")
    with pytest.raises(BadInputError, match="no such file"):
        load_trace(tmp_path / "absent.npz")


def test_pickled_content_is_never_loaded(tmp_path) -> None:
    path = tmp_path / "trace.npz"
    np.savez(path, head=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadInputError, match=r"is not a whole npz|not a number"):
        load_trace(path)


def test_tokens_of_a_trace_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        make_trace().sessions[0].tokens[0] = 1
