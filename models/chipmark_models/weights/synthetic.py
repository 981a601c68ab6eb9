"""Seeded weights that are the same bits on every machine.

Rule `synthetic-1`. A tensor's stream is the raw 64-bit output of numpy's counter-based generator
Philox 4x64-10 with key = blake2b-128 of "seed:name". Each weight takes four bytes of it, lowest
first; their sum less 510 (mean 0, variance 21845, near normal), rounded to bf16, times a power of
two, is the weight. Only integer and exact operations: no library distribution, no logarithm.

Scales: a matrix gets about 1/sqrt(columns), so that activations keep their size. Norm weights are
near 1. The power of two fixes the head's scale to a factor of two only, so the final norm's centre
takes up the rest: logits deviate by about LOGIT_DEVIATION.
"""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from chipmark_models.config import ModelConfig
from chipmark_models.errors import UnknownNameError
from chipmark_models.tensors import EMBEDDING, FINAL_NORM, HEAD, expected_shapes
from chipmark_models.weights.plain import FloatArray, round_to, thread_count, widen

RULE = "synthetic-1"
LOGIT_DEVIATION = 2.5

_CENTRE = 510
_VARIANCE = 21_845  # of the sum of four uniform bytes: 4 * (256**2 - 1) / 12
_CHUNK = 1 << 18  # weights a step: temporaries stay in the second-level cache; a multiple of 8
_PARALLEL_FROM = 1 << 22
_NORM_SHIFT = -12  # norm weights deviate by 147.8 / 4096 = 0.036
_BIAS_SHIFT = -11


def power_of_two(columns: int, gain_squared: int = 1) -> int:
    """Exponent k so that 2**k * sqrt(21845) is nearest to sqrt(gain_squared / columns) in ratio.

    Integers only: k is the least exponent with 4**k * 21845 * columns * 2 > gain_squared.
    """
    product, k = _VARIANCE * columns, 0
    while (gain_squared << (2 * -k)) >= 2 * product:  # too small by more than sqrt 2
        k += 1
        product *= 4
    while 2 * product > 4 * (gain_squared << (2 * -k)):  # too large
        k -= 1
    return k


class SyntheticWeights:
    """A WeightSource made of the rule above; nothing is stored, every read computes."""

    kind = "synthetic"

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self._shapes = expected_shapes(config)
        shape = {k: v for k, v in config.to_dict().items() if k != "name"}
        rule = json.dumps({"rule": RULE, "config": shape, "seed": seed}, sort_keys=True)
        self.hash = hashlib.sha256(rule.encode()).hexdigest()

    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of computation."""
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        if name not in self._shapes:
            raise UnknownNameError("tensor", name, self._shapes)
        return self._shapes[name]

    def read(self, name: str) -> FloatArray:
        """The tensor in float32; every value is exact in bf16. Large ones use several threads."""
        shape = self.shape(name)
        flat = np.empty(int(np.prod(shape)), np.float32)
        spans = [(start, min(start + _CHUNK, flat.size)) for start in range(0, flat.size, _CHUNK)]
        # A pool inside a pool's thread would only oversubscribe the CPUs.
        nested = threading.current_thread() is not threading.main_thread()
        if flat.size < _PARALLEL_FROM or nested:
            for start, stop in spans:
                self._fill(name, flat, start, stop)
        else:
            with ThreadPoolExecutor(thread_count()) as pool:
                list(pool.map(lambda span: self._fill(name, flat, *span), spans))
        return flat.reshape(shape)

    def _fill(self, name: str, flat: FloatArray, start: int, stop: int) -> None:
        sums = _byte_sums(self.key(name), start, stop - start)
        # A sum has 1,021 values only, so the arithmetic is done on these and looked up.
        np.take(self.values(name), sums, out=flat[start:stop], mode="clip")

    def key(self, name: str) -> int:
        """The 128-bit key of the generator that a tensor is made of."""
        digest = hashlib.blake2b(f"{self.seed}:{name}".encode(), digest_size=16).digest()
        return int.from_bytes(digest, "little")

    def values(self, name: str) -> FloatArray:
        """The weight that each sum of four bytes stands for, float32 (1021,)."""
        centre, exponent = self._scale(name)
        sums = np.arange(2 * _CENTRE + 1, dtype=np.float32) - _CENTRE
        values = np.ldexp(widen(round_to(sums, "bf16"), "bf16"), exponent)
        return widen(round_to(values + np.float32(centre), "bf16"), "bf16")

    def _scale(self, name: str) -> tuple[float, int]:
        """(centre, exponent) of a tensor's values: centre + 2**exponent * n, n near +-148."""
        shape = self._shapes[name]
        head = EMBEDDING if self.config.tied_embeddings else HEAD
        if name == FINAL_NORM:
            return _final_norm_centre(self.config), _NORM_SHIFT
        if len(shape) == 1:
            return (0.0, _BIAS_SHIFT) if name.endswith(".bias") else (1.0, _NORM_SHIFT)
        if name == head:
            return 0.0, _head_exponent(self.config)
        return 0.0, power_of_two(shape[1])


def _head_exponent(config: ModelConfig) -> int:
    # Largest scale whose logits, at a final norm of 1, stay at or below LOGIT_DEVIATION:
    # 4**k * 21845 * hidden <= 25/4.
    k = 0
    while 4 * _VARIANCE * config.hidden_size > (25 << (2 * -k)):
        k -= 1
    return k


def _final_norm_centre(config: ModelConfig) -> float:
    """Centre in [1, 2) in steps of 1/32, so that centre * 2**k * sqrt(21845 * hidden) is 2.5."""
    k = _head_exponent(config)
    steps = 32
    while (steps + 1) ** 2 * 4 * _VARIANCE * config.hidden_size <= (25 << (2 * -k)) * 1024:
        steps += 1
    return steps / 32


def _byte_sums(key: int, start: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """Sums of four bytes for weights start..start+count; `start` is a multiple of 8.

    One step of the counter yields four 64-bit words, that is eight weights.
    """
    generator = np.random.Philox(key=key, counter=start // 8)
    raw = generator.random_raw((count + 1) // 2)
    words = raw.astype("<u8", copy=False).view("<u4")
    mask = np.uint32(0x00FF00FF)
    pairs = (words & mask) + ((words >> np.uint32(8)) & mask)
    sums = (pairs & np.uint32(0xFFFF)) + (pairs >> np.uint32(16))
    return sums[:count]
