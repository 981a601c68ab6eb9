"""Lines of progress where stderr is not a terminal, by a clock that the test moves."""

from __future__ import annotations

import io
from threading import Event

import pytest
from rich.console import Console

from chipmark.terminal import console as consoles
from chipmark.terminal import progress
from chipmark.terminal.progress import Heartbeat, duration


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def heartbeat(clock: Clock, lines: list[str]) -> Heartbeat:
    return Heartbeat(lines.append, clock)


def test_short_work_has_no_line(heartbeat: Heartbeat, clock: Clock, lines: list[str]) -> None:
    for _ in range(29):
        clock.now += 1.0
        heartbeat.stage("cell: repeat 1 of 3")
        heartbeat.step()
        heartbeat.beat()
    assert lines == []


def test_a_line_says_stage_step_and_time(
    heartbeat: Heartbeat, clock: Clock, lines: list[str]
) -> None:
    heartbeat.steps(20)
    heartbeat.step()
    heartbeat.step()
    heartbeat.stage("torch:cpu on qwen3-8b: repeat 1 of 3")
    clock.now += 90.0
    heartbeat.beat()
    assert lines == ["progress: torch:cpu on qwen3-8b: repeat 1 of 3; step 3 of 20; 1 min 30 s"]


def test_there_is_one_line_in_thirty_seconds_however_much_happens(
    heartbeat: Heartbeat, clock: Clock, lines: list[str]
) -> None:
    for second in range(1, 121):
        clock.now += 1.0
        heartbeat.stage(f"stage {second}")
        heartbeat.step()
        heartbeat.beat()
    assert [line.split(";")[0] for line in lines] == [
        f"progress: stage {second}" for second in (30, 60, 90, 120)
    ]


def test_the_next_line_is_due_half_a_minute_after_the_last(
    heartbeat: Heartbeat, clock: Clock
) -> None:
    assert heartbeat.due_in() == 30.0
    clock.now += 12.0
    assert heartbeat.due_in() == 18.0
    clock.now += 50.0
    assert heartbeat.due_in() == 0.0
    heartbeat.beat()
    assert heartbeat.due_in() == 30.0


def test_a_silent_stage_has_lines_too(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, lines: list[str]
) -> None:
    wrote = Event()
    monkeypatch.setattr(progress, "INTERVAL_S", 0.0)

    def write(text: str) -> None:
        lines.append(text)
        wrote.set()

    heartbeat = Heartbeat(write, clock)
    with heartbeat.beating():
        assert wrote.wait(30)
    ended = len(lines)
    assert lines[0] == "progress: starting; 0 s"
    assert len(lines) == ended


@pytest.mark.parametrize("terminal", [False, True])
def test_only_a_stream_that_is_not_a_terminal_has_lines(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, soft_wrap=True, highlight=False)
    monkeypatch.setattr(consoles, "stderr", lambda: console)
    entered = []
    beating = Heartbeat.beating
    monkeypatch.setattr(Heartbeat, "beating", lambda self: (entered.append(self), beating(self))[1])
    with consoles.reporting() as reporter:
        reporter.say("left out [cell]")
        reporter.stage("working")
    assert bool(entered) is not terminal
    assert "left out [cell]" in shown.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (125, "2 min 5 s"), (3725, "1 h 2 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
