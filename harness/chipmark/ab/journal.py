"""What an A/B run has measured, kept process by process, so that an interrupted run resumes.

start.json   the plan; the machine, the benchmarks and the code of both arms by the first warm-up
slots.jsonl  a line a process in the order run, with its raw samples, on the disk when it ends
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any

from chipmark.ab.arms import Arm
from chipmark.ab.machine import MachineState
from chipmark.ab.modules import Module
from chipmark.ab.readings import Lost, Reading
from chipmark.ab.schedule import ARMS, ArmName, Slot
from chipmark.ab.session import Measured, ProcessRunner
from chipmark.cell.checked_json import FieldError, from_mapping
from chipmark.errors import BrokenRecordError, UsageError
from chipmark.gate.outputs.write import write_whole
from chipmark_models.foreign_file import DATA_BYTES, parse_json, read_json, read_text

SCHEMA = "chipmark.ab-rounds/2"
START_FILE = "start.json"
SLOTS_FILE = "slots.jsonl"
RUN_FILE = "ab.json"
"""The last file that a run writes: where it is, the run has ended."""

_Place = tuple[int, int, ArmName]


@dataclass(frozen=True, slots=True)
class _Canary:
    """The line that ends a session."""

    session: int
    last_canary_s: float


@dataclass(frozen=True, slots=True)
class _Line:
    """The line of a process, see `slot_document`."""

    session: int
    round: int
    slot: int
    arm: ArmName
    attempt: int
    canary_s: float
    wall_s: float
    before: MachineState
    after: MachineState
    readings: tuple[Reading, ...]
    lost: tuple[Lost, ...]


@dataclass(frozen=True, slots=True)
class _Names:
    A: tuple[str, ...]
    B: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Modules:
    A: tuple[Module, ...]
    B: tuple[Module, ...]


@dataclass(frozen=True, slots=True)
class _Start:
    """What `_shown` writes."""

    identity: Mapping[str, Any]
    names: _Names
    first_files: Mapping[str, Any]
    modules: _Modules


_SHOWN = tuple(f.name for f in fields(_Start))


@dataclass
class Journal:
    """The folder of a run that resumes. plan: what must be equal to resume. attempt: 0, and one
    more each time that the run was taken up again. start: of an earlier attempt, else None."""

    folder: Path
    plan: Mapping[str, Any]
    attempt: int = 0
    start: _Start | None = None
    slots: dict[_Place, Measured] = field(default_factory=dict)
    canaries: dict[int, float] = field(default_factory=dict)
    _file: IO[str] | None = None
    _begun: bool = False

    @property
    def rounds(self) -> int:
        """Whole rounds that are kept."""
        return len(self.slots) // len(ARMS)

    def begin(self, runner: ProcessRunner) -> None:
        """Make the folder with what the warm-up has shown; a second call changes nothing."""
        if self._file is not None:
            return
        if (self.folder / START_FILE).exists():
            raise _busy(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._begun = True
            document = {"schema": SCHEMA, "plan": self.plan} | _shown(runner)
            text = json.dumps(document, indent=1, allow_nan=False, default=str) + "\n"
            write_whole(self.folder / START_FILE, text)
            self._file = (self.folder / SLOTS_FILE).open("a", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be written ({error.strerror})") from error
        _lock(self._file, self.folder)

    def add(self, measured: Measured) -> None:
        """Keep a process's readings."""
        slot = measured.slot
        self.slots[slot.session, slot.round, slot.arm] = measured
        self._write(slot_document(measured, raw=True))

    def add_canary(self, session: int, seconds: float) -> None:
        """Keep the reading that ends a session."""
        self.canaries[session] = seconds
        self._write({"session": session, "last_canary_s": seconds})

    def close(self) -> None:
        """Let go of the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove what this attempt has begun: a run that failed leaves nothing."""
        self.close()
        if not self._begun:
            return
        for name in (START_FILE, SLOTS_FILE):
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _write(self, document: Mapping[str, Any]) -> None:
        assert self._file is not None
        try:
            self._file.write(json.dumps(document, allow_nan=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be written ({error.strerror})") from error


class JournalledRunner:
    """A `Runner` that answers from the journal where it can, and writes down what it runs.

    Warm-up is put off until a process is really run: caches and worktrees are new in each attempt.
    """

    def __init__(self, runner: ProcessRunner, journal: Journal) -> None:
        self._runner, self._journal = runner, journal
        self._session, self._warm = 0, False
        if journal.start is not None:
            _restore(runner, journal.start)

    def warm(self, session: int) -> None:
        """As `Runner`."""
        self._session, self._warm = session, False
        if not any(place[0] == session for place in self._journal.slots):
            self._warmed()

    def run(self, slot: Slot, decided: Sequence[str]) -> Measured:
        """As `Runner`."""
        kept = self._journal.slots.get((slot.session, slot.round, slot.arm))
        if kept is not None:
            return kept
        self._warmed()
        measured = replace(self._runner.run(slot, decided), attempt=self._journal.attempt)
        self._journal.add(measured)
        return measured

    def canary(self) -> float:
        """As `Runner`."""
        kept = self._journal.canaries.get(self._session)
        if kept is None:
            kept = self._runner.canary()
            self._journal.add_canary(self._session, kept)
        return kept

    def _warmed(self) -> None:
        if not self._warm:
            self._runner.warm(self._session)
            self._warm = True
        self._journal.begin(self._runner)


@contextmanager
def journal(folder: Path, plan: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of a run in `folder`: a new one, or that of the same plan, which resumes.

    Raises UsageError for another plan (what differs is named) or a run that is going on now,
    BrokenRecordError for one that cannot be read. A failure removes what was begun, an interrupt
    keeps it.
    """
    plan = json.loads(json.dumps(plan, default=str))
    found = _load(folder, plan) if is_resumable(folder) else Journal(folder, plan)
    try:
        yield found
    except Exception:
        found.remove()
        raise
    finally:
        found.close()


def is_resumable(folder: Path) -> bool:
    """Whether a folder holds a run that was begun and has not ended."""
    return (folder / START_FILE).is_file() and not (folder / RUN_FILE).exists()


def arm_document(arm: Arm, project: Path) -> dict[str, Any]:
    """What of an arm must be equal to resume. A worktree's folder is another in each attempt, and
    the state of the checkout is held by the contents of the modules."""
    own = arm.tree != project
    return {
        "commit": arm.revision if own else "the checkout",
        "command": list(arm.argv),
        "env": dict(arm.env),
        "folder": str(arm.cwd.relative_to(arm.tree)) if own else str(arm.cwd),
        "interpreter": str(arm.python),
    }


def slot_document(m: Measured, *, raw: bool) -> dict[str, Any]:
    """A process's readings as JSON; `raw`: with every sample."""
    readings = []
    for reading in m.readings:
        entry = asdict(reading)
        if not raw:
            del entry["raw"]
        readings.append(entry)
    return {
        "session": m.slot.session,
        "round": m.slot.round,
        "slot": m.slot.slot,
        "arm": m.slot.arm,
        "attempt": m.attempt,
        "canary_s": m.canary_s,
        "wall_s": m.wall_s,
        "before": m.before.to_dict(),
        "after": m.after.to_dict(),
        "readings": readings,
        "lost": [asdict(lost) for lost in m.lost],
    }


def _load(folder: Path, plan: Mapping[str, Any]) -> Journal:
    path = folder / START_FILE
    try:
        start = read_json(path, DATA_BYTES, error=BrokenRecordError)
        if start["schema"] != SCHEMA:
            raise ValueError(f"the schema is not {SCHEMA}")
        shown = from_mapping(_Start, {name: start[name] for name in _SHOWN})
        differ = list(_differences(start["plan"], plan))
    except (ValueError, KeyError, TypeError, FieldError) as error:
        raise BrokenRecordError(path, f"not an interrupted A/B run: {error}") from error
    if differ:
        raise UsageError(
            f"{folder} holds another A/B run, begun with {'; '.join(differ)}",
            "to resume, give what it was begun with, or choose a new -o",
        )
    found = Journal(folder, plan, start=shown)
    file = (folder / SLOTS_FILE).open("a+", encoding="utf-8")
    _lock(file, folder)
    try:
        _read(found, file)
    except BaseException:
        file.close()
        raise
    found._file = file
    return found


def _read(found: Journal, file: IO[str]) -> None:
    """Take in what the file holds, and cut a half line off it. `file`: locked, open for writing."""
    path = found.folder / SLOTS_FILE
    text = read_text(path, DATA_BYTES, error=BrokenRecordError)
    whole = text[: text.rfind("\n") + 1]
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            _take(found, parse_json(line, path, error=BrokenRecordError))
        except (FieldError, TypeError) as error:
            raise BrokenRecordError(path, f"invalid reading: {error!r}", line=number) from error
    if whole != text:
        # The last line was cut by what ended the run: its process is run again.
        file.truncate(len(whole.encode()))
    _drop_halves(found)


def _take(found: Journal, line: Mapping[str, Any]) -> None:
    if "last_canary_s" in line:
        canary = from_mapping(_Canary, line)
        found.canaries[canary.session] = canary.last_canary_s
        return
    read = from_mapping(_Line, {"lost": (), **line})
    measured = Measured(
        Slot(read.session, read.round, read.slot, read.arm),
        read.readings,
        read.canary_s,
        read.before,
        read.after,
        read.wall_s,
        read.attempt,
        read.lost,
    )
    slot = measured.slot
    found.slots[slot.session, slot.round, slot.arm] = measured
    found.attempt = max(found.attempt, measured.attempt)


def _drop_halves(found: Journal) -> None:
    """A round counts only if both arms ran in one attempt: a pair is of neighbours in time."""
    for session, number in {place[:2] for place in found.slots}:
        pair = [found.slots.get((session, number, arm)) for arm in ARMS]
        if None in pair or len({m.attempt for m in pair if m is not None}) > 1:
            for arm in ARMS:
                found.slots.pop((session, number, arm), None)
    found.attempt += 1


def _shown(runner: ProcessRunner) -> dict[str, Any]:
    return {
        "identity": runner.identity,
        "names": runner.names,
        "first_files": runner.first_files,
        "modules": {arm: [asdict(m) for m in runner.modules[arm].values()] for arm in ARMS},
    }


def _restore(runner: ProcessRunner, start: _Start) -> None:
    runner.identity = dict(start.identity)
    for arm in ARMS:
        runner.names[arm] = getattr(start.names, arm)
        if arm in start.first_files:
            runner.first_files[arm] = start.first_files[arm]
        modules: tuple[Module, ...] = getattr(start.modules, arm)
        runner.modules[arm] = {f"{m.name} {m.path}": m for m in modules}


def _differences(there: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        for key in sorted(there.keys() | now.keys()):
            below = f"{name}.{key}" if name else key
            yield from _differences(there.get(key), now.get(key), below)
    elif there != now:
        yield f"{name} {_shortly(there)}, not {_shortly(now)}"


def _shortly(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return repr(" ".join(value))
    return repr(value)


def _lock(file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise _busy(folder) from None


def _busy(folder: Path) -> UsageError:
    return UsageError(
        f"{folder}: another chipmark is measuring into it now", "wait for it, or choose a new -o"
    )
