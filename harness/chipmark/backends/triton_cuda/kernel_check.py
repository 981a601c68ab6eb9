"""Every kernel against its reference on the device itself, before anything is timed.

Inputs are made once in the type computed; the oracle is the plain reference in float64 from those
very inputs (`chipmark_kernels.parity` has the limits). A kernel that fails, or that this device's
compiler refuses, is taken out of use there and the reason is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from chipmark.backends.torch_device.devices import answers, synchronize
from chipmark.backends.triton_cuda.product_calls import (
    norm_of,
    products_of,
    rows_and_options,
    seeded,
)
from chipmark.errors import CellFailedError
from chipmark_kernels.parity import compare, compare_fp8_rows
from chipmark_kernels.reference.rmsnorm import rmsnorm_reference
from chipmark_kernels.reference.rope_decode_attention import rope_decode_attention_reference
from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.ops import (
    PRODUCTS,
    TABLE,
    Fp8Rows,
    takes_fp8_rows,
)
from chipmark_models.decoder.paged.reference_ops import OPS
from chipmark_models.decoder.paged.weights import Product
from chipmark_models.plain_text import one_line

VOCABULARY_ROWS = 16_384
"""Rows of table and head that are checked: a vocabulary in float64 would be gigabytes."""

_LENGTHS = (1, 17, 300, 4_099)
_NEW = (1, 17, 64, 129)
"""Keys of a sequence, and how many of them are new to a prefill launch: a prefix of several pages
before most, and decode attention split as it is in use."""

_COLD = (17, 300, 1_024)
"""Tokens of prompts that attend to nothing but themselves."""

_REASON = 200
"""Characters of a compiler's message that a row keeps."""


@dataclass(frozen=True, slots=True)
class Case:
    """One call of one operation; `args` are as the decoder gives them."""

    operation: str
    name: str
    args: tuple[Any, ...]
    keywords: Mapping[str, Any]
    reference: Implementation


def failures(
    decoder: PagedDecoder,
    chosen: Mapping[str, Implementation],
    decode_rows: Sequence[int],
    chunk: int,
) -> dict[str, str]:
    """Operations of `chosen` that do not compute what they should here, with the reason.

    decode_rows: rows of decode launches to try. chunk: tokens of a prefill launch.
    """
    found: dict[str, str] = {}
    with torch.inference_mode():
        for case in cases(decoder, decode_rows, chunk):
            if case.operation not in chosen or case.operation in found:
                continue
            if reason := _problem(case, chosen[case.operation], decoder.device):
                found[case.operation] = f"{case.name}: {reason}"
    return found


def _problem(case: Case, implementation: Implementation, device: torch.device) -> str:
    """What is wrong with one case, "" where nothing is. CellFailedError: the device is lost."""
    try:
        got = called(implementation, case, device)
        # A fault of the device shows in the next call that waits, which must not be another's.
        synchronize(device)
    except Exception as error:  # a compiler may raise anything; the kernel is out, and said to be
        first, _, _ = str(error).strip().partition("\n")
        reason = one_line(f"{type(error).__name__}: {first}", _REASON)
        if not answers(device):
            raise CellFailedError(
                f"the kernel of {case.operation} ({case.name}) lost the device: {reason}",
                f"load again without it: --option triton:ops.{case.operation}="
                f'"{TABLE.fallback(case.operation)}"',
            ) from error
        return reason
    if isinstance(got[0], Fp8Rows):
        rows = got[0]
        return "; ".join(compare_fp8_rows(rows.values, rows.scales, _normed(case)).problems)
    torchs = called(_plain_torch(case), case, device)
    oracle = called(case.reference, case, device, _wide)
    for mine, plain, exact in zip(got, torchs, oracle, strict=True):
        parity = compare(mine, plain, exact)
        if not parity.ok:
            return "; ".join(parity.problems)
    return ""


def _plain_torch(case: Case) -> Implementation:
    """What takes the place of a kernel that fails: one that is as near as this is kept."""
    has_torch = "torch" in TABLE.implementations(case.operation)
    return TABLE.find(case.operation, "torch") if has_torch else case.reference


def called(
    implementation: Implementation,
    case: Case,
    device: torch.device,
    change: Callable[[Any], Any] = lambda value: value,
) -> list[Any]:
    """The results, caches that were written among them; the inputs stay as they are."""
    args = [change(_cloned(value)) for value in case.args]
    keywords = {name: change(_own(value)) for name, value in case.keywords.items()}
    # A launch that begins early reads lengths that in use were there long before: no copy of them
    # may be under way.
    synchronize(device)
    result = implementation(*args, **keywords)
    # Quantised rows are a tuple of their own kind.
    several = isinstance(result, tuple) and not isinstance(result, Fp8Rows)
    results = list(result) if several else [result]
    if case.operation in ("rope_kv", "rope_decode_attention"):
        results += [args[5], args[6]]
    return results


def _normed(case: Case) -> torch.Tensor:
    """The rows of a quantiser in float64, with the norm that comes with it."""
    x, norm, eps = case.args
    exact: torch.Tensor = x.double()
    return exact if norm is None else rmsnorm_reference(exact, norm.double(), eps)[0]


def _cloned(value: Any) -> Any:
    # A weight is only read, and may be gigabytes.
    small = torch.is_tensor(value) and value.numel() < 1 << 24
    return _copied(value) if small else value


def _copied(value: torch.Tensor) -> torch.Tensor:
    """The same values as far apart, in memory of its own: a part of a row stays one."""
    made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
    return made.copy_(value)


def _own(value: Any) -> Any:
    """A keyword's value that may be written over: a residual is, however large."""
    return _copied(value) if torch.is_tensor(value) else value


def _wide(value: Any) -> Any:
    if isinstance(value, Fp8Rows):
        return _unrounded(value)
    floating = torch.is_tensor(value) and value.is_floating_point()
    return value.double() if floating and value.element_size() > 1 else value


def _unrounded(rows: Fp8Rows) -> Fp8Rows:
    """The same rows, of which a product is not rounded."""
    return rows._replace(dtype=torch.float64)


def cases(decoder: PagedDecoder, decode_rows: Sequence[int], chunk: int) -> Iterator[Case]:
    """What is checked: every operation at each of these rows, products and attention of a chunk."""
    random = _Random(decoder.device, decoder.activation)
    for rows in dict.fromkeys((*decode_rows, chunk)):
        yield from _row_cases(decoder, random, rows)
        yield from _product_cases(decoder, random, rows)
    yield from _attention_cases(decoder, random, chunk)


def _row_cases(decoder: PagedDecoder, random: _Random, rows: int) -> Iterator[Case]:
    c, weights = decoder.config, decoder.weights
    ids = random.integers(min(c.vocab_size, VOCABULARY_ROWS), rows)
    name = f"{rows} rows"
    table = weights.embedding[:VOCABULARY_ROWS]
    args: tuple[Any, ...] = (ids, table, weights.layers[0].input_norm, c.rms_eps)
    yield Case("embed_norm", name, args, {}, OPS["embed_norm"])
    logits = random.normal(min(rows, 16), c.vocab_size, scale=3.0)
    yield Case("greedy", name, (logits,), {}, OPS["greedy"])
    layer, page = weights.layers[0], decoder.kv.page_tokens
    qkv = random.normal(rows, c.q_size + 2 * c.kv_size)
    positions = random.integers(decoder.max_context, rows)
    n_pages = -(-rows // page) + 1
    slots = torch.randperm(n_pages * page, generator=random.generator, device=decoder.device)
    slots = slots[:rows].contiguous()
    slots[-1] = -1 if rows > 1 else slots[-1]
    caches = [random.normal(n_pages, page, c.n_kv_heads, c.head_dim) for _ in range(2)]
    args = (
        qkv, decoder.cos, decoder.sin, positions, slots, *caches, c.n_heads,
    )  # fmt: skip
    norms = {"q_norm": layer.q_norm, "k_norm": layer.k_norm, "eps": c.rms_eps}
    yield Case("rope_kv", name, args, norms, OPS["rope_kv"])


def _product_cases(decoder: PagedDecoder, random: _Random, rows: int) -> Iterator[Case]:
    eps = decoder.config.rms_eps
    for operation in PRODUCTS:
        product = products_of(decoder, operation)[0]
        if operation == "head":
            product = Product(product.matrix[:VOCABULARY_ROWS], None)  # type: ignore[index]
        n, k = product.matrix.shape
        name = f"{rows} rows of {n} x {k}"
        if takes_fp8_rows(product.matrix, rows):
            args: tuple[Any, ...] = (random.normal(rows, k), norm_of(decoder, operation), eps)
            yield Case("quantise_rows", name, args, {}, OPS["quantise_rows"])
        x, more = rows_and_options(
            decoder, operation, product, rows, random.normal, OPS["quantise_rows"]
        )
        args = (x, product.matrix, product.bias)
        yield Case(operation, name, args, more, OPS[operation])


def _attention_cases(decoder: PagedDecoder, random: _Random, chunk: int) -> Iterator[Case]:
    c, page = decoder.config, decoder.kv.page_tokens
    longest = sorted({min(n, decoder.max_context) for n in _LENGTHS})
    # The width of the decoder's own page table decides into how many parts decode is split.
    width = -(-decoder.max_context // page)
    own = -(-max(longest) // page)
    n_pages = len(longest) * own
    k, v = (random.normal(n_pages, page, c.n_kv_heads, c.head_dim) for _ in range(2))
    table = torch.randperm(n_pages, generator=random.generator, device=decoder.device)
    table = table.view(len(longest), own).to(torch.int32)
    table = torch.nn.functional.pad(table, (0, width - own))
    lens = torch.tensor(longest, dtype=torch.int32, device=decoder.device)
    scale = c.head_dim**-0.5
    q = random.normal(len(longest), c.n_heads, c.head_dim)
    args: tuple[Any, ...] = (q, k, v, table, lens, scale)
    yield Case("decode_attention", f"lengths {longest}", args, {}, OPS["decode_attention"])
    yield from _joined_cases(decoder, random, longest, (k, v, table, lens))
    new = [min(n, length, max(1, chunk)) for n, length in zip(_NEW, longest, strict=False)]
    ends = torch.tensor([0, *new], dtype=torch.int32, device=decoder.device).cumsum(0)
    q = random.normal(sum(new), c.n_heads, c.head_dim)
    args = (q, k, v, table, ends.to(torch.int32), lens, scale)
    yield Case("prefill_attention", f"chunks {new}", args, {}, OPS["prefill_attention"])
    for tokens in sorted({min(n, chunk, decoder.max_context) for n in _COLD}):
        qkv = random.normal(tokens, c.n_heads + 2 * c.n_kv_heads, c.head_dim)
        q, k = (random.normal(tokens, n, c.head_dim) for n in (c.n_heads, c.n_kv_heads))
        args = (q, k, qkv[:, -c.n_kv_heads :], scale)  # values lie in rows of all heads
        yield Case("cold_attention", f"a prompt of {tokens}", args, {}, _cold_reference)


def _cold_reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> torch.Tensor:
    """A prompt whose keys and values are one page."""
    tokens = torch.tensor([0, q.shape[0]], dtype=torch.int32, device=q.device)
    page = torch.zeros((1, 1), dtype=torch.int32, device=q.device)
    attend = OPS["prefill_attention"]
    attended: torch.Tensor = attend(q, k[None], v[None], page, tokens, tokens[1:], scale)
    return attended


def _joined_cases(
    decoder: PagedDecoder,
    random: _Random,
    longest: Sequence[int],
    pages: tuple[torch.Tensor, ...],
) -> Iterator[Case]:
    """One token a row behind cached ones and a padded row, and again in another order: the second
    launch finds what the first one left."""
    c, layer = decoder.config, decoder.weights.layers[0]
    k, v, table, lens = pages
    lens = torch.nn.functional.pad(lens, (0, 1))
    table = torch.nn.functional.pad(table, (0, 0, 0, 1))
    positions = lens - 1
    held = table.long().gather(1, (positions.clamp(min=0) // k.shape[1]).long()[:, None])[:, 0]
    slots = torch.where(lens > 0, held * k.shape[1] + positions % k.shape[1], -1)
    qkv = random.normal(lens.numel(), c.q_size + 2 * c.kv_size)
    more = {
        "q_norm": layer.q_norm,
        "k_norm": layer.k_norm,
        "eps": c.rms_eps,
        "ahead": (layer.out.matrix, layer.gate_up.matrix),
    }
    for step in (1, -1):
        rows = torch.arange(lens.numel(), device=lens.device)
        rows = rows if step == 1 else rows.flip(0)
        at, where, table_of, lens_of = (t[rows] for t in (positions, slots, table, lens))
        args = (
            qkv, decoder.cos, decoder.sin, at, where, k, v, table_of, lens_of,
            c.n_heads, c.head_dim**-0.5,
        )  # fmt: skip
        name = f"lengths {[*longest, 0][::step]}"
        yield Case("rope_decode_attention", name, args, more, _joined_reference)


def _joined_reference(*args: Any, ahead: Any, **norms: Any) -> torch.Tensor:
    return rope_decode_attention_reference(*args, **norms)


class _Random:
    """Seeded tensors of one type on one device."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.generator = seeded(device, 20_261)
        self._device, self._dtype = device, dtype

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        made = torch.randn(shape, generator=self.generator, device=self._device) * scale
        return made.to(self._dtype)

    def integers(self, below: int, n: int) -> torch.Tensor:
        made = torch.randint(below, (n,), generator=self.generator, device=self._device)
        return made.to(torch.int32)
