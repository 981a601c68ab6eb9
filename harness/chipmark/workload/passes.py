"""A trace run over and over: passes over the same sessions, each with token ids of its own.

The capacity scenario needs more sessions than a trace has. Pass 0 is the trace itself; in pass
k > 0 every token id is shifted by `salt(k)` modulo the vocabulary:

    id of pass k = (id of the trace + salt(k)) mod vocab_size

The shift depends on the pass alone and is a bijection, so sessions of one pass share exactly the
prefixes that the trace says, turn by turn the same work is to be done, and no two passes agree in
a single id: a prefix cache that kept pass k - 1 finds nothing of it in pass k.

Events name a session of pass k by its *run id*, `session id + k x stride`, where the stride is one
more than the trace's largest session id. So run ids of pass 0 are the trace's own ids, sessions
of two passes can be alive together, and `run_session(trace, run_id)` gives back the very contexts
that were computed, for whoever checks them.

Standard library and NumPy only: this module runs in a vendor's container.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chipmark.errors import UsageError
from chipmark.workload.session import Session
from chipmark.workload.trace import Trace


def salt(pass_number: int, vocab_size: int) -> int:
    """The shift of a pass in 0..vocab_size-1: 0 for pass 0, different for the `vocab_size` first
    passes (multiples of a number near the golden section that has no factor in common)."""
    step = max(1, vocab_size * 618 // 1000)
    while gcd(step, vocab_size) > 1:
        step += 1
    return pass_number * step % vocab_size


def salted(session: Session, pass_number: int, vocab_size: int) -> Session:
    """The session of the trace as pass `pass_number` runs it: the same turns and counts, its ids
    shifted by `salt`. Session id and group stay the trace's."""
    shift = salt(pass_number, vocab_size)
    if not shift:
        return session
    # int64 between, as the sum of two ids of a large vocabulary may leave int32.
    shifted = (session.tokens.astype(np.int64) + shift) % vocab_size
    tokens = shifted.astype(np.int32)
    tokens.flags.writeable = False
    return replace(session, tokens=tokens)


def stride(trace: Trace) -> int:
    """How far the run ids of two passes are apart."""
    return 1 + max((session.id for session in trace.sessions), default=0)


def run_id(trace: Trace, session_id: int, pass_number: int) -> int:
    """The id by which events name a session of a pass."""
    return session_id + pass_number * stride(trace)


def trace_ids(trace: Trace, run_ids: NDArray[Any]) -> NDArray[np.int64]:
    """The trace's session ids of run ids (any integer array), whatever their pass."""
    return np.asarray(run_ids, dtype=np.int64) % stride(trace)


def pass_numbers(trace: Trace, run_ids: NDArray[Any]) -> NDArray[np.int64]:
    """The passes that run ids belong to."""
    return np.asarray(run_ids, dtype=np.int64) // stride(trace)


def pass_session(trace: Trace, session: Session, pass_number: int) -> Session:
    """A session of the trace as a run of pass `pass_number` holds it: salted, with its run id,
    and in a group of that pass, because passes share no prefix."""
    groups = 1 + max((other.group for other in trace.sessions), default=0)
    return replace(
        salted(session, pass_number, trace.vocab_size),
        id=run_id(trace, session.id, pass_number),
        group=session.group + pass_number * groups,
    )


def run_session(trace: Trace, run_id: int) -> Session:
    """The session that events name `run_id`, with the contexts that it was run with.

    Raises UsageError where the trace has no such session.
    """
    number, session_id = divmod(run_id, stride(trace))
    for session in trace.sessions:
        if session.id == session_id and number >= 0:
            return pass_session(trace, session, number)
    raise UsageError(f"trace {trace.name!r} has no session {session_id} (run id {run_id})")
