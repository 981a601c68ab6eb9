"""`recompute:cpu`: a whole backend that keeps tokens instead of KV and computes all of them anew.

Slow, and right: every member of the contract is here. Yours keeps KV on its device instead.
"""

import time

import numpy as np

from chipmark.engine.computed import ComputedPrecision
from chipmark.engine.contract import BackendDefaults, Candidate, Caps, Done, Launch, Loaded
from chipmark.errors import ContractError, UnknownNameError, UsageError
from chipmark_models.costs import weight_bytes_stored
from chipmark_models.oracle import Oracle
from chipmark_models.weights.prepared import WeightSpec, open_any


class Recompute(BackendDefaults):
    """See `chipmark/engine/contract.py`, `Backend` and `BackendFactory`."""

    def __init__(self, device):
        if device != "cpu":
            raise UnknownNameError("device of recompute", device, ["cpu"])
        self.oracle, self.done = None, None

    @staticmethod
    def precisions(device):
        return ("fp32",)

    @staticmethod
    def candidates(machine):  # what a suite without -b tries; return () to be named only
        return () if not machine.has_module("torch") else (Candidate("cpu"),)

    def load(self, spec):
        if spec.options:
            raise UnknownNameError("option of recompute", next(iter(spec.options)), [])
        if spec.precision != "fp32":
            raise UsageError(f"recompute does not compute {spec.precision}", "it computes fp32")
        begin = time.perf_counter()
        weights = open_any(WeightSpec.from_dict(spec.model))
        self.oracle = Oracle(weights.config, weights.float32)
        slots = spec.n_seqs + spec.reserved_slots
        self.tokens = np.zeros((slots, spec.max_context), np.int32)
        caps = Caps("slots", "copy", spec.max_context, spec.n_seqs, spec.max_chunk, n_slots=slots)
        return Loaded(
            caps=caps,
            load_s=time.perf_counter() - begin,
            compile_s=0.0,
            weight_bytes=int(weight_bytes_stored(weights.config, "fp32")),
            kv_bytes=self.tokens.nbytes,
            precision=ComputedPrecision.plain("fp32"),
            graph="none",
            ep_coverage=1.0,  # the device is the host
            device="the host's CPU",
        )

    def submit(self, step):
        if self.oracle is None or self.done is not None:
            raise ContractError("no model is loaded" if self.oracle is None else "a step waits")
        for op in step.ops:
            if op.kind == "copy":
                self.tokens[op.dst, : op.length] = self.tokens[op.src, : op.length]
        ids, best, wanted, launches = [], [], {}, []
        for number, plan in enumerate(step.launches):
            start = time.perf_counter()
            rows, first, computed = plan.rows, 0, 0
            for i in range(rows.seq.size):
                slot, begin, length = rows.slot[i], rows.start[i], rows.length[i]
                self.tokens[slot, begin : begin + length] = rows.tokens[first : first + length]
                first, computed = first + length, computed + int(begin + length)
                if rows.sample[i]:
                    sequence = self.tokens[slot, : begin + length]
                    (row,) = self.oracle.logits([sequence], [np.array([begin + length - 1])])
                    ids.append(row[0].argmax())
                    best.append(np.sort(row[0])[:-3:-1])
                    if rows.seq[i] in step.logits_of:
                        wanted[int(rows.seq[i])] = row[0]
            # Positions that were computed, the cached ones again: they show as padding.
            times = (start, time.perf_counter(), 0.0)
            launches.append(Launch(plan.phase, number, *times, positions=computed))
        self.done = Done(
            step=step.id,
            sampled=np.array(ids, np.int32),
            top2=np.array(best, np.float32).reshape(-1, 2),
            launches=tuple(launches),
            logits=wanted if step.logits_of else None,
        )

    def wait(self):
        if self.done is None:
            raise ContractError("no step was submitted")
        done, self.done = self.done, None
        return done

    def synchronize(self):
        """Calls block: nothing is left to do."""

    def probe_read(self, n_bytes):
        return None  # the harness probes a host CPU by itself

    def probe_matmul(self, precision):
        return None

    def describe(self):
        return {"backend": "recompute:cpu", "hardware": {}}

    def close(self):
        self.oracle = None
