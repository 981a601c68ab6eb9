"""What each simulated system is, as constants: metrics can be checked against them by hand.

A launch takes `overhead_s + tokens * a(phase) + context * b` seconds. `tokens` are the positions
computed (those of the buckets where there are any, else the useful ones). `context` is the sum,
over every useful token, of the tokens it attends to, itself included; it is the same however a
prompt is cut into chunks. So with `overhead_s = 0` and no buckets the total time of a trace does
not depend on chunks, batches or concurrency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from chipmark.engine.contract import Caps, LaunchPlan, LoadSpec, Phase
from chipmark.errors import DoesNotFitError, UnknownNameError, UsageError


def check_options(options: Mapping[str, Any]) -> None:
    """Raise UnknownNameError for an option that does not exist."""
    for name in options:
        if name != "caps":
            raise UnknownNameError("option of sim", name, ("caps",))


@dataclass(frozen=True, slots=True)
class SimSpec:
    """Constants of one simulated system. Seconds, watts, bytes; `verify` turns the checks of
    content on, which cost real time but no simulated time."""

    name: str
    kv: Literal["paged", "slots"] = "paged"
    prefix: Literal["share", "copy", "none"] = "share"
    page_tokens: int = 16
    max_batch: int = 64
    prefill_rows: int = 1
    in_flight: int = 1
    mixed: bool = False
    chunk_buckets: tuple[int, ...] = ()
    batch_buckets: tuple[int, ...] = ()
    context_step: int = 0
    """Context buckets are multiples of this; 0 is none."""
    overhead_s: float = 0.0
    host_s: float = 0.0
    prefill_s: float = 1e-5
    decode_s: float = 1e-3
    context_s: float = 1e-8
    copy_s: float = 1e-7
    prefill_w: float = 300.0
    decode_w: float = 200.0
    mixed_w: float = 250.0
    kv_w: float = 150.0
    idle_w: float = 80.0
    pulse_s: float = 0.0
    """Period in which the power of a launch goes up and down; 0 is steady power."""
    pulse_depth: float = 0.0
    """Power is (1 + depth) times the phase's in the first half of a period, (1 - depth) times in
    the second, on the device's clock."""
    poll_s: float = 0.0
    """The meter is read once in every such period, at a moment drawn evenly within it; 0 is an
    exact counter."""
    sensor_s: float = 0.0
    """A meter that is polled shows the mean watts of the last whole period of this length; 0: the
    watts of the moment of reading."""
    load_s: float = 2.0
    compile_s: float = 0.5
    weight_bytes: int = 500_000_000
    kv_bytes_per_token: int = 50_000
    memory_bytes: int = 64_000_000_000
    read_bytes_s: float = 1e12
    matmul_flop_s: float = 1e14
    vocab_size: int = 512
    verify: bool = True
    dies: int = 1
    """Devices of the card, each as these constants say."""
    card_w: float = 0.0
    """Watts of the card without its dies, whatever they do; read with its first die."""
    nominal_mhz: float = 1000.0
    clock_mhz: float = 1000.0
    """What the device says of its clock; its times are in the constants above."""
    temperature_c: float = 60.0
    throttle: tuple[str, ...] | None = ()
    """Reasons that it gives for a low clock; None where it gives none and hides whether it has."""

    def __post_init__(self) -> None:
        if self.pulse_s and not self.poll_s:
            raise ValueError("power in pulses is for a meter that is polled")

    def token_s(self, phase: Phase) -> float:
        """a(phase): seconds a position."""
        return self.decode_s if phase == "decode" else self.prefill_s

    def power_w(self, phase: Phase) -> float:
        """Watts while a launch of this phase runs."""
        if phase == "kv":
            return self.kv_w
        if phase == "mixed":
            return self.mixed_w
        return self.decode_w if phase == "decode" else self.prefill_w

    @property
    def most_w(self) -> float:
        """Watts that the card never exceeds, whatever its dies do."""
        phases = (self.prefill_w, self.decode_w, self.mixed_w, self.kv_w)
        return self.dies * max(self.idle_w, max(phases) * (1 + self.pulse_depth)) + self.card_w

    def launch_s(self, plan: LaunchPlan) -> float:
        """Seconds of one launch, by the formula at the top."""
        rows = plan.rows
        length = rows.length.astype("int64")
        positions = int(length.sum())
        if self.batch_buckets or self.chunk_buckets:
            positions = plan.batch_bucket * plan.chunk_bucket
        context = int((length * rows.start + length * (length + 1) // 2).sum())
        return self.overhead_s + positions * self.token_s(plan.phase) + context * self.context_s

    def caps(self, load: LoadSpec) -> Caps:
        """Capabilities for what is asked to be held; `options["caps"]` replaces fields.

        Raises DoesNotFitError where weights and KV exceed the simulated memory, UnknownNameError
        for an option or a capability that does not exist.
        """
        check_options(load.options)
        slots = load.n_seqs + (load.reserved_slots if self.prefix == "copy" else 0)
        tokens = load.kv_tokens if self.kv == "paged" else slots * load.max_context
        room = self.memory_bytes - self.weight_bytes
        if tokens * self.kv_bytes_per_token > room:
            fits = max(0, room // self.kv_bytes_per_token)
            raise DoesNotFitError(
                f"sim:{self.name}: {tokens} tokens of KV do not fit next to the weights",
                f"{fits} tokens would fit: {fits // load.max_context} sequences of "
                f"{load.max_context} tokens",
                sequences=max(0, fits // load.max_context - (slots - load.n_seqs)),
            )
        step = self.context_step
        longest = -(-load.max_context // step) * step if step else load.max_context
        caps = Caps(
            kv=self.kv,
            prefix=self.prefix,
            max_context=longest,
            max_batch=self.max_batch,
            max_chunk=load.max_chunk,
            page_tokens=self.page_tokens,
            n_pages=-(-load.kv_tokens // self.page_tokens) if self.kv == "paged" else 0,
            n_slots=slots if self.kv == "slots" else 0,
            mixed=self.mixed,
            in_flight=self.in_flight,
            chunk_buckets=self.chunk_buckets,
            batch_buckets=self.batch_buckets,
            context_buckets=tuple(range(step, longest + 1, step)) if step else (),
            prefill_rows=self.prefill_rows,
        )
        changes: Mapping[str, Any] = load.options.get("caps", {})
        if not isinstance(changes, Mapping):
            raise UsageError(f"sim: the option caps is {changes!r}", "as caps.prefill_rows=2")
        known = [field.name for field in fields(Caps)]
        for name in changes:
            if name not in known:
                raise UnknownNameError("capability", name, known)
        return replace(caps, **changes)


SPECS: Mapping[str, SimSpec] = {
    spec.name: spec
    for spec in (
        SimSpec("golden"),
        SimSpec("golden-paged", overhead_s=2e-4, prefill_rows=4, in_flight=2),
        SimSpec("golden-slots", kv="slots", prefix="copy", overhead_s=2e-4),
        SimSpec("golden-slots-none", kv="slots", prefix="none"),
        SimSpec(
            "golden-buckets",
            kv="slots",
            prefix="copy",
            overhead_s=2e-4,
            prefill_rows=2,
            in_flight=2,
            chunk_buckets=(16, 64, 256),
            batch_buckets=(1, 2, 4, 8),
            context_step=128,
        ),
        SimSpec("golden-mixed", overhead_s=2e-4, prefill_rows=4, in_flight=2, mixed=True),
        SimSpec(
            "slow",
            prefill_s=4e-5,
            decode_s=4e-3,
            context_s=4e-8,
            prefill_w=120.0,
            decode_w=90.0,
            idle_w=30.0,
            read_bytes_s=2.5e11,
            matmul_flop_s=2.5e13,
        ),
        SimSpec("twin", dies=2, card_w=40.0),
        SimSpec(
            "hot",
            prefill_s=1.25e-5,
            decode_s=1.25e-3,
            context_s=1.25e-8,
            copy_s=1.25e-7,
            clock_mhz=800.0,
            temperature_c=95.0,
            throttle=None,
        ),
        SimSpec("pulsed", pulse_s=0.05, pulse_depth=0.6, poll_s=0.002, sensor_s=0.008),
        SimSpec("null", prefill_s=0.0, decode_s=1e-6, context_s=0.0, verify=False),
        SimSpec(
            "null-slots",
            kv="slots",
            prefix="copy",
            prefill_s=0.0,
            decode_s=1e-6,
            context_s=0.0,
            verify=False,
        ),
    )
}
"""`golden`: overhead 0, so that a trace's totals are known in closed form at any concurrency. The
other golden ones cover what capabilities can be. `slow`: a quarter of golden's speed at less than
half of its power. `twin`: a card of two dies, each as golden; `sim:twin:1` is the
second. `hot`: golden at 0.8 of its clock from the first launch on, which it does not explain.
`pulsed`: golden with power in pulses, whose sensor shows the mean of each 8 ms, so that no
pulse is lost between readings; its joules are right within the error that the meter states.
`null`: costs next to nothing; what a run over it takes is the engine's own time."""


def spec_of(device: str) -> tuple[SimSpec, int]:
    """A system by its name, and which of its dies: `twin:1` is the second. UnknownNameError for
    another name, and for a die that the card does not have."""
    name, _, die = device.partition(":")
    if name not in SPECS:
        raise UnknownNameError("simulated system", name, SPECS)
    spec = SPECS[name]
    if not die:
        return spec, 0
    dies = [str(number) for number in range(spec.dies)]
    if die not in dies:
        raise UnknownNameError(f"die of sim:{name}", die, dies)
    return spec, int(die)
