from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from chipmark.chips.device_users import WORKER, DeviceUsers, Others, workers_of

NEVER = 1 << 24
"""Above any process id of Linux."""


@pytest.fixture
def child() -> Iterator[int]:
    """A process that waits for its end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def test_own_family_is_no_other(child: int) -> None:
    users = DeviceUsers(container=False)
    assert users.others([os.getpid(), child]) == Others(0)
    assert users.others([child, 1]) == Others(1, (1,))
    # One that has ended, and that the driver still lists.
    assert users.others([child, NEVER]) == Others(0)
    assert users.others([1]) == Others(1, (1,))
    assert users.others([]) == Others(0)
    assert users.others(None) == Others(None)


def test_ids_of_another_namespace_are_only_counted(child: int) -> None:
    users = DeviceUsers(container=True)
    users.look_at_own()
    # One of them is ours by its id, so the ids can be used.
    assert users.others([child, 1]) == Others(1, (1,))
    users._workers = 1
    assert users.others([NEVER, NEVER + 1]) == Others(1)
    assert users.others([NEVER]) == Others(0)
    # A list without even ours says nothing.
    assert users.others([]) == Others(None)
    users._workers = 2
    assert [users.beyond_own(n).count for n in (None, 1, 2, 3)] == [None, None, None, 1]
    users._workers = 0
    assert [users.beyond_own(n).count for n in (0, 1)] == [0, 1]


def test_workers_are_told_from_their_supervisors_and_from_the_rest() -> None:
    program = "print(1, flush=True); input()"
    code = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}, {WORKER!r}])"
    )
    before = workers_of(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", code, "supervise.py", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"1\n"
        assert workers_of(os.getpid()) - before == 1
        supervisor.communicate(b"\n")
    assert workers_of(os.getpid()) - before == 0
    assert workers_of(NEVER) == 0
