"""What an audit looked at, as `audit.npz` keeps it, and the verdict that follows from it.

The verdict is a pure function of these arrays, so that `chipmark validate` can come to it again;
and the ids that were seen are those of the raw events, so that edited events are found.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chipmark.engine.events import Table
from chipmark.errors import BrokenRecordError
from chipmark.results.manifest import AuditResult
from chipmark_models.files import whole_file
from chipmark_models.foreign_arrays import parse_npz
from chipmark_models.foreign_file import MIB, read_bytes

AUDIT_FILE = "audit.npz"

MIN_PLACES = 64
MIN_CLEAR = 16
"""Places that an audit should look at, and those whose margin should be clear, at least."""

CLEAR = 4.0
"""A margin, or a difference of one logit, is clear beyond so many times the tolerance: that bounds
the rms over a row, and single logits of an honest backend lie up to four times as far."""

NOT_COMPARED = -1
"""Id of a place where the host saw none."""

_PER_TURN, _PER_POSITION = 1 << 36, 1 << 22  # places as one integer: 2^27 sessions, 2^14 turns


@dataclass(frozen=True, slots=True)
class AuditData:
    """Arrays of an audit; n places, k times that one was seen, m rows of the captured turn.

    A repeat is one run: of a cell of several replicas, one of `metrics.rawcell.RawCell.runs`.

    seed: what the places were drawn by. keys (n, 3): session, turn, position. oracle_id (n),
    oracle_top2 (n, 2), scale (n): the oracle's first id, its two largest logits, and the rms of
    its centred logits. seen_repeat, seen_place (k): which repeat saw which place; seen_id (k): the
    id sampled there, NOT_COMPARED where the host saw none; seen_top2 (k, 2): the two largest
    logits that the backend gave, NaN where it did not.

    captured_keys (m, 3): the rows of the longest turn; captured_id, captured_margin (m): first id
    and margin of its captured logits, over the rms of them centred; captured_repeat (1): in which
    repeat. compared (c): rows of captured_keys compared with the oracle, and compared_rms_rel (c)
    how far they are; captured_logits (c, vocabulary): kept while that comparison is pending.
    longest_seen_repeat, longest_seen_row, longest_seen_id: ids sampled in every repeat at the rows
    of captured_keys.
    """

    seed: bytes
    keys: NDArray[np.int32]
    oracle_id: NDArray[np.int32]
    oracle_top2: NDArray[np.float32]
    scale: NDArray[np.float32]
    seen_repeat: NDArray[np.int32]
    seen_place: NDArray[np.int32]
    seen_id: NDArray[np.int32]
    seen_top2: NDArray[np.float32]
    captured_keys: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    captured_id: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    captured_margin: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    captured_repeat: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    compared: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    compared_rms_rel: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    captured_logits: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 0), np.float32)
    )
    longest_seen_repeat: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    longest_seen_row: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    longest_seen_id: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))


AUDIT_BYTES = 1024 * MIB
"""Most bytes of an `audit.npz`: captured logits of a thousand positions."""

_TYPES: Mapping[str, tuple[str, int]] = {
    "keys": ("i4", 2),
    "oracle_id": ("i4", 1),
    "oracle_top2": ("f4", 2),
    "scale": ("f4", 1),
    "seen_repeat": ("i4", 1),
    "seen_place": ("i4", 1),
    "seen_id": ("i4", 1),
    "seen_top2": ("f4", 2),
    "captured_keys": ("i4", 2),
    "captured_id": ("i4", 1),
    "captured_margin": ("f4", 1),
    "captured_repeat": ("i4", 1),
    "compared": ("i4", 1),
    "compared_rms_rel": ("f4", 1),
    "captured_logits": ("f4", 2),
    "longest_seen_repeat": ("i4", 1),
    "longest_seen_row": ("i4", 1),
    "longest_seen_id": ("i4", 1),
}
"""Type and number of dimensions of each array."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Times that places were seen in the events: repeat, place (an index), id, two logits."""

    repeat: NDArray[np.int32]
    place: NDArray[np.int32]
    id: NDArray[np.int32]
    top2: NDArray[np.float32]


def seen_at(repeats: Sequence[Mapping[str, Table]], keys: NDArray[np.int32]) -> Seen:
    """Every row of the events that samples at one of the places; `keys` has no row twice.

    A row samples at its last position; the last chunk of a prompt and every decode row do, other
    chunks end where no place is.
    """
    wanted = _codes(keys[:, 0], keys[:, 1], keys[:, 2])
    order = np.argsort(wanted)
    found: list[tuple[NDArray[Any], ...]] = []
    for index, tables in enumerate(repeats):
        rows = tables["rows"]
        codes = _codes(rows["session"], rows["turn"], rows["start"] + rows["n_tokens"] - 1)
        at = np.searchsorted(wanted, codes, sorter=order).clip(0, max(len(wanted) - 1, 0))
        place = order[at] if len(order) else np.zeros(len(codes), np.int64)
        hit = np.flatnonzero(wanted[place] == codes) if len(order) else np.zeros(0, np.int64)
        top2 = np.stack([rows["best_logit"][hit], rows["second_logit"][hit]], 1)
        found.append((np.full(len(hit), index), place[hit], rows["sampled"][hit], top2))
    columns = [np.concatenate(parts) for parts in zip(*found, strict=True)] if found else []
    if not columns:
        none = np.zeros(0, np.int32)
        return Seen(none, none, none, np.zeros((0, 2), np.float32))
    return Seen(
        columns[0].astype(np.int32),
        columns[1].astype(np.int32),
        columns[2].astype(np.int32),
        columns[3].astype(np.float32).reshape(-1, 2),
    )


def judge(data: AuditData, tolerance: float, *, top2_required: bool) -> AuditResult:
    """The verdict on an audit that was done: `pass`, or `fail` with every reason.

    tolerance: rms-relative, of the cell. top2_required: a backend that gives ids without the two
    largest logits fails. Fewer places than MIN_PLACES or clear ones than MIN_CLEAR are stated in
    `reason`, and bar nothing: a short trace has too few, and the logits are compared all the same.
    """
    failed: list[str] = []
    margin = (data.oracle_top2[:, 0] - data.oracle_top2[:, 1]) / data.scale
    clear = margin > CLEAR * tolerance
    visible = data.seen_id != NOT_COMPARED
    places, ids = data.seen_place[visible], data.seen_id[visible]
    checked = np.unique(places)
    wrong = np.unique(places[clear[places] & (ids != data.oracle_id[places])])
    if len(wrong):
        where = data.keys[wrong[0]].tolist()
        failed.append(f"{len(wrong)} sampled ids are not the oracle's, first at {where}")
    hidden = _without_id(data, visible)
    if hidden or not len(checked):
        failed.append(f"{hidden} of the places computed have no sampled id")
    given = np.isfinite(data.seen_top2).all(1)
    if top2_required and (visible & ~given).any():
        failed.append(
            f"{int((visible & ~given).sum())} sampled rows are without their two largest logits"
        )
    worst = None
    compared = visible & given
    if compared.any():
        at = data.seen_place[compared]
        difference = np.abs(data.seen_top2[compared] - data.oracle_top2[at])
        worst = float((difference / data.scale[at][:, None]).max())
        if worst > CLEAR * tolerance:
            failed.append(
                f"a largest logit is {worst:.2g} x rms from the oracle's, over "
                f"{CLEAR * tolerance:.2g}"
            )
    longest, equal = _captured(data, tolerance, failed)
    few = []
    if len(checked) < MIN_PLACES:
        few.append(f"{len(checked)} places of {MIN_PLACES}: the trace has too few")
    if int(clear[checked].sum()) < MIN_CLEAR:
        few.append(f"{int(clear[checked].sum())} of {len(checked)} places are clear")
    keys = data.captured_keys
    return AuditResult(
        verdict="fail" if failed else "pass",
        reason="; ".join(failed or few),
        ids_checked=len(checked),
        ids_clear=int(clear[checked].sum()),
        ids_wrong=len(wrong),
        logits_worst_rel=worst,
        longest_turn=(int(keys[0, 0]), int(keys[0, 1])) if len(keys) else None,
        longest_rms_rel=longest,
        longest_positions=len(data.compared),
        captured_ids_equal=equal,
        tolerance_rms_rel=tolerance,
    )


def _without_id(data: AuditData, visible: NDArray[np.bool_]) -> int:
    """Places that a repeat computed without an id that the host saw: every done turn samples at
    all of its places, so an id that is withheld is counted."""
    pairs = data.seen_repeat.astype(np.int64) * max(1, len(data.keys)) + data.seen_place
    return len(np.setdiff1d(pairs, pairs[visible]))


def _captured(
    data: AuditData, tolerance: float, failed: list[str]
) -> tuple[float | None, bool | None]:
    """rms distance of the captured rows, and whether their ids are those of repeats without
    capture; what is wrong is added to `failed`."""
    if not len(data.captured_keys):
        return None, None
    longest = float(data.compared_rms_rel.max()) if len(data.compared) else None
    name = f"the longest turn {tuple(data.captured_keys[0, :2].tolist())}"
    if longest is None or not np.isfinite(longest) or longest > tolerance:
        text = "is not finite" if longest is None or not np.isfinite(longest) else f"{longest:.2g}"
        failed.append(f"captured logits of {name}: rms {text}, up to {tolerance:.2g} passes")
    clear = (data.captured_margin > CLEAR * tolerance)[data.longest_seen_row]
    visible = data.longest_seen_id != NOT_COMPARED
    equal = data.longest_seen_id == data.captured_id[data.longest_seen_row]
    elsewhere = data.longest_seen_repeat != data.captured_repeat[0]
    if (visible & clear & ~equal & ~elsewhere).any():
        failed.append(f"sampled ids of {name} are not those of its captured logits")
    if not (visible & elsewhere).any():
        return longest, None
    same = bool(equal[visible & clear & elsewhere].all())
    if not same:
        failed.append(f"ids of {name} differ between the captured and other repeats")
    return (longest if longest is None or np.isfinite(longest) else None), same


def save_audit(path: Path, data: AuditData) -> None:
    """Write all arrays to one `.npz`, whole or not at all."""
    arrays: dict[str, Any] = {name: getattr(data, name) for name in _TYPES}
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, seed=np.frombuffer(data.seed, np.uint8), **arrays)


def load_audit(path: str | os.PathLike[str]) -> AuditData:
    """Read what `save_audit` wrote; BrokenRecordError where it is not whole or its arrays
    contradict each other."""
    return parse_audit(path, read_bytes(path, AUDIT_BYTES, error=BrokenRecordError))


def parse_audit(path: str | os.PathLike[str], content: bytes) -> AuditData:
    """The arrays out of the bytes of an `audit.npz`; `path` names it in errors."""
    types = {name: dtype for name, (dtype, _) in _TYPES.items()}
    arrays = parse_npz(content, path, {"seed": np.uint8, **types}, error=BrokenRecordError)
    seed = arrays.pop("seed").tobytes()
    for name, (_, dimensions) in _TYPES.items():
        if arrays[name].ndim != dimensions:
            raise BrokenRecordError(path, f"has {arrays[name].ndim} dimensions", field=name)
    data = AuditData(seed=seed, **arrays)
    problem = _contradiction(data)
    if problem:
        raise BrokenRecordError(path, problem)
    return data


def audit_text(data: AuditData) -> str:
    """The arrays as base64 of an `audit.npz`, for a JSON document; `audit_of_text` reads it."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: getattr(data, name) for name in _TYPES}
    np.savez_compressed(buffer, seed=np.frombuffer(data.seed, np.uint8), **arrays)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def audit_of_text(path: str | os.PathLike[str], text: str) -> AuditData:
    """Inverse of `audit_text`; BrokenRecordError names `path`."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise BrokenRecordError(path, f"is not base64 ({error})", field="data") from error
    return parse_audit(path, content)


def _contradiction(data: AuditData) -> str:
    n, k, m = len(data.keys), len(data.seen_id), len(data.captured_keys)
    sizes = {
        "keys": (data.keys.shape, (n, 3)),
        "oracle_id": (data.oracle_id.shape, (n,)),
        "oracle_top2": (data.oracle_top2.shape, (n, 2)),
        "scale": (data.scale.shape, (n,)),
        "seen_repeat": (data.seen_repeat.shape, (k,)),
        "seen_place": (data.seen_place.shape, (k,)),
        "seen_top2": (data.seen_top2.shape, (k, 2)),
        "captured_keys": (data.captured_keys.shape, (m, 3)),
        "captured_id": (data.captured_id.shape, (m,)),
        "captured_margin": (data.captured_margin.shape, (m,)),
        "captured_repeat": (data.captured_repeat.shape, (min(m, 1),)),
        "longest_seen_row": (data.longest_seen_row.shape, data.longest_seen_id.shape),
        "longest_seen_repeat": (data.longest_seen_repeat.shape, data.longest_seen_id.shape),
    }
    for name, (have, want) in sizes.items():
        if have != want:
            return f"{name} has shape {have}, not {want}"
    for name, index, limit in (
        ("seen_place", data.seen_place, n),
        ("compared", data.compared, m),
        ("longest_seen_row", data.longest_seen_row, m),
    ):
        if len(index) and (index.min() < 0 or index.max() >= limit):
            return f"{name} points outside its {limit} rows"
    if n and not (data.scale > 0).all():
        return "scale is not above 0"
    return ""


def _codes(session: NDArray[Any], turn: NDArray[Any], position: NDArray[Any]) -> NDArray[np.int64]:
    wide = [np.asarray(column, np.int64) for column in (session, turn, position)]
    codes: NDArray[np.int64] = wide[0] * _PER_TURN + wide[1] * _PER_POSITION + wide[2]
    return codes


assert {f.name for f in fields(AuditData)} == {"seed", *_TYPES}
