"""Replicas: the whole engine on each device of one unit, so that meter and price cover what ran.

N sessions at once are the unit's, as everywhere; each replica runs the whole trace with its share
of them. So a row of a two-die card can be compared with that of any other unit that serves N
sessions, and a die of it does just what a one-die card does at its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chipmark.cell.protocol import LoadAnswer
from chipmark.cell.suite import CellPlan
from chipmark.chips.contract import ChipIdentity
from chipmark.codes import NoteCode
from chipmark.errors import CellFailedError, UsageError
from chipmark.registry import split_backend
from chipmark.results.manifest import Note, ParityResult

_ALIKE = ("caps", "precision", "graph", "device", "weight_bytes", "kv_bytes")
_WORST = ("fail", "unchecked", "pass")


@dataclass(frozen=True, slots=True)
class Replicas:
    """Backends of the replicas, one of each device, that of the plan first. why_fewer: what keeps
    devices of the unit idle, "" where the plan asks for fewer or all of them run."""

    backends: tuple[str, ...]
    why_fewer: str = ""


def check_replicas(plan: CellPlan, chip: ChipIdentity) -> None:
    """UsageError where the replicas that a plan names cannot be; `chip` as it is known before the
    backend has loaded, which is not asked where only that tells its name."""
    if plan.replicas < 2:
        return
    if why := _why_not(plan, plan.replicas):
        raise UsageError(f"{plan.title}: {plan.replicas} replicas: {why}", "or --replicas 1")
    if has_name(chip):
        replicas_of(plan, chip)


def has_name(chip: ChipIdentity) -> bool:
    """Whether it is known what the chip is, and so how many devices its unit has: of some vendors'
    only the loaded process tells."""
    return chip.verified or bool(chip.devices)


def replicas_of(plan: CellPlan, chip: ChipIdentity) -> Replicas:
    """The replicas of a cell on a chip. UsageError where the plan names more than the chip's unit
    has devices."""
    alone = Replicas((plan.backend,))
    if plan.replicas == 1:
        return alone
    if plan.replicas > max(1, len(chip.devices)):
        have = ", ".join(chip.devices) or "one device"
        text = f"{plan.backend}: {plan.replicas} replicas on a {chip.unit} that has {have}"
        raise UsageError(text, "--replicas unit takes what there is")
    count = plan.replicas or max(1, len(chip.devices))
    if count == 1:
        return alone
    if why := _why_not(plan, count):
        return replace(alone, why_fewer=f"no replica on each of {count} devices: {why}")
    kind, device = split_backend(plan.backend)
    own = device if ":" in device else f"{device}:0"
    others = [name for name in chip.devices if name != own]
    return Replicas((plan.backend, *(f"{kind}:{name}" for name in others[: count - 1])))


def _why_not(plan: CellPlan, count: int) -> str:
    if plan.concurrency % count:
        return f"N={plan.concurrency} sessions cannot be divided by {count}"
    return ""


def alike(answers: Sequence[LoadAnswer]) -> LoadAnswer:
    """What all replicas answered to `load`, as one answer: times of the slowest, the smallest
    coverage, every note. CellFailedError where they are not the same engine."""
    first = answers[0]
    for index, answer in enumerate(answers[1:], 1):
        for name in _ALIKE:
            if getattr(answer, name) != getattr(first, name):
                text = f"replica {index} loads another {name} than replica 0"
                raise CellFailedError(f"{text}: {getattr(answer, name)}, {getattr(first, name)}")
    if len(answers) == 1:
        return first
    shares = [answer.ep_coverage for answer in answers]
    known = [share for share in shares if share is not None]
    return replace(
        first,
        **{n: max(getattr(a, n) for a in answers) for n in ("load_s", "compile_s", "wall_s")},
        ep_coverage=min(known) if len(known) == len(shares) else None,
        notes=tuple(dict.fromkeys(note for answer in answers for note in answer.notes)),
    )


def worst_parity(found: Sequence[ParityResult]) -> ParityResult:
    """The parity of a unit: that of the replica which stands worst."""
    if len(found) == 1:
        return found[0]
    index = min(
        range(len(found)),
        key=lambda i: (_WORST.index(found[i].verdict), -(found[i].rms_rel or 0.0)),
    )
    worst = found[index]
    reason = f"replica {index}: {worst.reason}" if worst.reason else ""
    return worst.model_copy(update={"reason": reason})


def replica_notes(backends: Sequence[str], concurrency: int, chip: ChipIdentity) -> list[Note]:
    """What a row of several replicas says of them."""
    if len(backends) == 1:
        return []
    text = f"{len(backends)} replicas, on {' and '.join(backends)}, each with the whole trace and"
    text += f" {concurrency // len(backends)} of {concurrency} sessions"
    if not chip.verified:
        text += "; dies of one card by their numbers: unverified on hardware"
    return [Note(code=NoteCode.REPLICAS, text=text)]
