"""Where KV lies and where logits are sampled: the cheapest way that a provider was seen to take."""

from __future__ import annotations

from dataclasses import dataclass

from chipmark.backends.ort import binding
from chipmark.backends.ort.binding import Allocate, Way, allocate_host
from chipmark.backends.ort.device_cache import DeviceCache, kv_names
from chipmark.backends.ort.device_memory import DeviceMemory, device_memory
from chipmark.backends.ort.device_probe import is_live_on_device
from chipmark.backends.ort.graph_plan import first_capacity
from chipmark.backends.ort.kv_cache import KvCache
from chipmark.backends.ort.opener import Opener
from chipmark.backends.ort.row_mover import RowMover
from chipmark.backends.ort.runtime_errors import onnxruntime_errors
from chipmark.backends.ort.sampling import HostSampler, Sampler, device_sampler
from chipmark.backends.ort.session import own_words
from chipmark.backends.ort.slot_cache import SlotCache
from chipmark.backends.ort.traffic import Traffic
from chipmark.codes import NoteCode
from chipmark_models.config import ModelConfig
from chipmark_models.onnx_graphs.emitter import IN_PLACE


@dataclass(frozen=True, slots=True)
class KvPlace:
    """What was chosen, and what to tell of it as (code, text)."""

    cache: KvCache
    sampler: Sampler
    way: Way
    notes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Way:
    way: Way
    allocate: Allocate
    memory: DeviceMemory | None = None
    why: str = ""


def place_kv(opener: Opener, config: ModelConfig, *, host_device: bool) -> KvPlace:
    """Try the ways, allocate KV and say where logits are sampled.

    host_device: the provider's device is the host's CPU. Memory of its own that cannot be used is
    reported: KV, or the logits, then cross the bus in every step, and are counted.
    """
    plan, chosen = opener.plan, _choose(opener)
    in_place = plan.level in IN_PLACE
    if chosen.memory is None:
        off_host = chosen.way == "rebind" or not host_device
        cache = SlotCache(
            config,
            plan.n_slots,
            first_capacity(plan),
            plan.dtype,
            chosen.allocate,
            way=chosen.way,
            in_place=in_place,
            off_host=off_host,
        )
        sampler = HostSampler(config.vocab_size, cache.traffic, off_host)
        return KvPlace(cache, sampler, chosen.way, _notes(NoteCode.KV_OVER_BUS, chosen.why))
    return _on_device(opener, config, chosen.memory, in_place)


def _on_device(
    opener: Opener, config: ModelConfig, memory: DeviceMemory, in_place: bool
) -> KvPlace:
    plan, static = opener.plan, bool(opener.plan.static)
    names, traffic = kv_names(config.n_layers), Traffic()
    mover = RowMover(
        names, config.n_kv_heads, config.head_dim, plan.dtype, opener.whole, static, traffic
    )
    cache = DeviceCache(
        config,
        plan.n_slots,
        plan.n_seqs,
        first_capacity(plan),
        plan.dtype,
        memory,
        mover,
        in_place,
    )
    made, why = device_sampler(
        config.vocab_size, traffic, memory, opener.whole, static, onnxruntime_errors()
    )
    sampler = made or HostSampler(config.vocab_size, traffic, off_host=True)
    return KvPlace(cache, sampler, "device", _notes(NoteCode.LOGITS_OVER_BUS, why))


def _notes(code: NoteCode, why: str) -> tuple[tuple[str, str], ...]:
    return ((code, why),) if why else ()


def _choose(opener: Opener) -> _Way:
    session = opener.probe()
    if session is None:  # it ran elsewhere, and says nothing of this provider
        return _Way("rebind", allocate_host, why="the provider does not take a product whole")
    choice = binding.choose_binding(session, opener.located.ep_device)
    if choice.way != "rebind":
        return _Way(choice.way, choice.allocate)
    try:
        memory = device_memory(opener.located)
        if memory is None:
            why = "the provider names no memory of its device (io_device of its data)"
        elif is_live_on_device(memory, opener.whole, bool(opener.plan.static)):
            return _Way("device", allocate_host, memory)
        else:
            why = f"rows written in memory of {memory.device} are not seen by sessions bound to it"
    except onnxruntime_errors() as error:
        why = own_words(error)
    return _Way("rebind", allocate_host, why=f"KV cannot be kept on the device: {why}")
