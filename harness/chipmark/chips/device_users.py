"""Which of the processes on a device are not of this run's own family."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_HOST_NAMESPACE = "pid:[4026531836]"
"""What /proc/self/ns/pid names where process ids are the machine's own (PROC_PID_INIT_INO of the
kernel). In a container a driver lists ids of the host, or none."""


WORKER = "chipmark.cell.child"
"""The module that is run as the process of a cell."""

_SUPERVISOR = "supervise.py"  # its command line holds that of its program


@dataclass(frozen=True, slots=True)
class Others:
    """count: None where nothing can tell. pids: those that are known."""

    count: int | None = None
    pids: tuple[int, ...] = ()


class DeviceUsers:
    """Tells this run's processes from others. One a device, since it remembers its own."""

    def __init__(self, leader: int | None = None, container: bool | None = None) -> None:
        """leader: the process that started the run, None for this one. container: whether
        the ids that a driver lists may be of another namespace; None to look."""
        self._leader = os.getpid() if leader is None else leader
        self._apart = _in_container() if container is None else container
        self._workers = 0

    def look_at_own(self) -> None:
        """Count this run's workers, for a device that lists processes without usable ids."""
        self._workers = workers_of(self._leader)

    def others(self, pids: Sequence[int] | None) -> Others:
        """Of the process ids that a device lists, those that are not this run's.

        None of them ours, in a container: the ids are the host's, or ours are hidden. Then more
        processes than this run has workers show that there are others, and fewer show nothing.
        """
        if pids is None:
            return Others()
        own = [pid for pid in pids if self._is_own(pid)]
        rest = tuple(sorted(set(pids) - set(own)))
        if not self._apart:
            # A driver lists a process for some time after it has ended.
            rest = tuple(pid for pid in rest if psutil.pid_exists(pid))
        if own or not self._apart:
            return Others(len(rest), rest)
        return self.beyond_own(len(pids))

    def beyond_own(self, count: int | None) -> Others:
        """Of a mere number of processes: what exceeds this run's workers, of which not all need
        to be on the device. None where it does not, and where not even ours is listed."""
        if count is None:
            return Others()
        if count > self._workers:
            return Others(count - self._workers)
        return Others(0 if count == self._workers <= 1 else None)

    def _is_own(self, pid: int) -> bool:
        """Whether the leader is the process itself or one that it descends from."""
        try:
            return pid == self._leader or self._leader in (
                parent.pid for parent in psutil.Process(pid).parents()
            )
        except psutil.Error:
            return False


def workers_of(leader: int) -> int:
    """Processes in which backends of a run compute, whatever their device: what it keeps besides
    (the oracle, supervisors, tools) does not use the device."""
    try:
        family = psutil.Process(leader).children(recursive=True)
    except psutil.Error:
        return 0
    return sum(_is_worker(process) for process in family)


def _is_worker(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return WORKER in words and not any(word.endswith(_SUPERVISOR) for word in words)


def _in_container() -> bool:
    try:
        return os.readlink(Path("/proc/self/ns/pid")) != _HOST_NAMESPACE
    except OSError:
        return True
