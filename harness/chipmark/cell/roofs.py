"""The probes of the machine's roofs that bracket each repeat.

The read roof of the host's memory is probed by the harness itself, in a process of its own, while
the backend's child is parked; another device's by the backend on it. The matrix roof is always the
backend's, since it alone knows the types that are multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from chipmark.cell.host_probe import host_read_roof
from chipmark.cell.parent import ChildProcess
from chipmark.cell.protocol import LoadAnswer, Probe, ProbeAnswer
from chipmark.chips.contract import ChipIdentity
from chipmark.codes import NoteCode
from chipmark.engine.computed import linear_input_of
from chipmark.results.manifest import Note, Probes
from chipmark.workload.trace import Trace
from chipmark_models.precision import product_type


@dataclass(frozen=True, slots=True)
class RoofPlan:
    """How the roofs of a cell are probed.

    wanted_bytes: working set of a decode launch. by: who reads. threads: of the harness's own
    probe, 0 for all cores. llc_bytes: last-level cache of the device itself, None if unknown.
    """

    wanted_bytes: int
    precision: str
    by: Literal["backend", "harness"]
    threads: int
    llc_bytes: int | None


def roof_plan(
    chip: ChipIdentity,
    loaded: LoadAnswer,
    trace: Trace,
    concurrency: int,
    threads: int,
) -> RoofPlan:
    """The plan of a loaded cell; `loaded` is the child's answer."""
    turns = [turn for _, turn in trace.walk()]
    mean = sum(turn.prompt_tokens for turn in turns) // max(1, len(turns))
    caps = loaded.caps
    slots = caps.n_slots * caps.max_context
    wanted = working_set_bytes(
        loaded.weight_bytes,
        loaded.kv_bytes,
        slots if caps.kv == "slots" else caps.n_pages * caps.page_tokens,
        mean * concurrency,
    )
    return RoofPlan(
        wanted_bytes=wanted,
        precision=product_type(linear_input_of(loaded.precision.activation)),
        by="harness" if chip.on_host else "backend",
        threads=threads,
        llc_bytes=device_cache(chip, loaded.describe),
    )


def working_set_bytes(weight_bytes: int, kv_bytes: int, kv_tokens: int, live_tokens: int) -> int:
    """Bytes that a decode launch reads: the weights, and KV of the tokens that are live."""
    if kv_tokens <= 0:
        return weight_bytes
    return weight_bytes + kv_bytes * min(live_tokens, kv_tokens) // kv_tokens


def device_cache(chip: ChipIdentity, described: Mapping[str, Any]) -> int | None:
    """Last-level cache of the device itself: of a CPU over the clusters in the affinity mask, of
    another device as the loaded process says; None where neither tells."""
    if chip.on_host:
        found = chip.context.get("llc_bytes")
    else:
        hardware = described.get("hardware")
        found = hardware.get("l2_cache_bytes") if isinstance(hardware, Mapping) else None
    return found if isinstance(found, int) and found > 0 else None


def probe(child: ChildProcess, plan: RoofPlan, limit_s: float) -> ProbeAnswer:
    """The roofs now; None for one that could not be measured. limit_s: of the backend's."""
    asked = plan.wanted_bytes if plan.by == "backend" else 0
    answer = child.request(Probe(asked, plan.precision), limit_s)
    if plan.by == "harness":
        # Its threads may still wait awake; parked, they leave the memory to the probe.
        child.park()
        read, size = host_read_roof(plan.wanted_bytes, plan.llc_bytes, plan.threads)
        return replace(answer, read=read, read_bytes=size)
    return answer


def probe_each(
    children: Sequence[ChildProcess], plan: RoofPlan, limit_s: float
) -> list[ProbeAnswer]:
    """The roofs of every replica's device, all at once, as they run."""
    if len(children) == 1:
        return [probe(children[0], plan, limit_s)]
    request = Probe(plan.wanted_bytes, plan.precision)
    for child in children:
        child.send_request(request)
    return [child.answer_to(request, limit_s) for child in children]


def bracket(plan: RoofPlan, before: ProbeAnswer, after: ProbeAnswer) -> Probes:
    """The two probes around a repeat. `read_bytes` is the smaller of the two."""
    sizes = [answer.read_bytes or plan.wanted_bytes for answer in (before, after)]
    return Probes(
        read_bytes=min(sizes),
        read_before=before.read,
        read_after=after.read,
        matmul_before=before.matmul,
        matmul_after=after.matmul,
        llc_bytes=plan.llc_bytes,
        start_s=before.start_s,
        end_s=after.end_s,
        wanted_bytes=plan.wanted_bytes,
        by=plan.by,
    )


def size_notes(probes: Probes) -> list[Note]:
    """The note of a roof that was probed at less than the launches' working set."""
    wanted = probes.wanted_bytes
    if wanted is None or probes.read_bytes >= wanted or probes.read_before is None:
        return []
    text = f"probed at {probes.read_bytes / 1e9:.3g} GB, the most that was safely free; "
    text += f"launches read {wanted / 1e9:.3g} GB"
    return [Note(code=NoteCode.PROBE_SIZE, text=text)]
