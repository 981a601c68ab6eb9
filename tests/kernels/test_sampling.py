from __future__ import annotations

import math

import pytest
import torch

from chipmark_kernels.reference.sampling import (
    nucleus_cutoff_reference,
    philox_first_word,
    sample_reference,
)
from chipmark_kernels.sampling import sample
from chipmark_kernels.tiles import Tile
from chipmark_kernels.top_p import nucleus_cutoff

TILE = Tile(n=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1, 64, 65, 1000])
def test_greedy_takes_the_first_of_the_greatest(dtype, vocab, rng) -> None:
    # bf16 has few values, so that ties abound, inside a block and across blocks.
    logits = torch.randn(3, vocab, generator=rng).to(dtype)
    logits[1] = logits[1].round()
    got = sample(logits, tile=TILE)
    assert torch.equal(got, sample_reference(logits))


def test_a_tie_across_blocks_goes_to_the_lowest_id() -> None:
    logits = torch.zeros(2, 300)
    logits[0, [70, 250]] = 5.0
    logits[1, [299, 63, 64]] = 5.0
    assert sample(logits, tile=TILE).tolist() == [70, 63]


def test_a_row_of_minus_infinity_gives_an_id_inside_the_vocabulary() -> None:
    logits = torch.full((1, 130), float("-inf"))
    assert sample(logits, tile=TILE).tolist() == [0]


def test_philox_agrees_with_the_published_known_answer() -> None:
    # Random123's kat_vectors, philox4x32 with 10 rounds, counter and key all zero.
    assert philox_first_word(0, 0) == 0x6627E8D5


def test_draws_agree_with_the_reference_noise_and_mix_greedy_rows(rng) -> None:
    logits = torch.randn(4, 150, generator=rng)
    temperatures = torch.tensor([0.0, 1.0, 0.7, 3.0])
    seeds = torch.tensor([1, 2**40 + 5, 2**63 - 1, 7])
    got = sample(logits, temperatures=temperatures, seeds=seeds, tile=TILE)
    assert torch.equal(got, sample_reference(logits, temperatures=temperatures, seeds=seeds))
    assert got[0] == logits[0].argmax()


def test_the_noise_that_the_kernel_shares_follows_the_softmax() -> None:
    n_rows = 3000
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = probabilities.log().repeat(n_rows, 1)
    draws = sample_reference(logits, temperatures=torch.ones(n_rows), seeds=torch.arange(n_rows))
    counts = torch.bincount(draws.long(), minlength=4).double()
    expected = probabilities.double() * n_rows
    chi_squared = ((counts - expected).square() / expected).sum().item()
    assert chi_squared < 16.3  # 0.1 % point of chi squared with 3 degrees of freedom


def test_nothing_below_the_cutoff_is_drawn(rng) -> None:
    logits = torch.randn(8, 40, generator=rng)
    cutoffs = logits.sort(-1).values[:, -3].contiguous()
    hot = torch.full((8,), 50.0)
    draws = sample(logits, temperatures=hot, seeds=torch.arange(8), cutoffs=cutoffs, tile=TILE)
    drawn = logits.gather(1, draws[:, None].long())[:, 0]
    assert (drawn >= cutoffs).all()
    assert len(set((drawn - cutoffs > 0).tolist())) == 2


def test_temperatures_without_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="give both or none"):
        sample(torch.zeros(1, 4), temperatures=torch.ones(1))


def test_a_small_workspace_is_refused() -> None:
    workspace = (torch.empty(1, 2), torch.empty(1, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match="workspace has 2 elements, 3 are needed"):
        sample(torch.zeros(1, 130), workspace=workspace, tile=TILE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1, 123, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_cutoff_is_the_smallest_set_that_reaches_top_p(dtype, vocab, rng) -> None:
    logits = (3 * torch.randn(3, vocab, generator=rng)).to(dtype)
    temperatures = torch.tensor([1.0, 0.5, 2.0])
    top_ps = torch.tensor([0.1, 0.5, 0.93])
    got = nucleus_cutoff(logits, temperatures, top_ps, tile=Tile(n=128))
    assert torch.equal(got, nucleus_cutoff_reference(logits, temperatures, top_ps))
    mass = (logits.double() / temperatures[:, None].double()).softmax(-1)
    kept = logits.float() >= got[:, None]
    above = logits.float() > got[:, None]
    assert ((mass * kept).sum(-1) >= top_ps - 1e-6).all()
    assert ((mass * above).sum(-1) < top_ps + 1e-6).all()


def test_top_p_of_one_keeps_every_token_with_a_probability_above_rounding(rng) -> None:
    logits = torch.randn(1, 50, generator=rng)
    cutoff = nucleus_cutoff(logits, torch.ones(1), torch.ones(1), tile=Tile(n=64))
    assert cutoff.item() <= logits.sort().values[0, 1].item()


def test_negative_zero_and_minus_infinity_keep_their_order() -> None:
    logits = torch.tensor([[-0.0, 0.0, -math.inf, -1.0]])
    cutoff = nucleus_cutoff(logits, torch.ones(1), torch.tensor([0.8]), tile=Tile(n=4))
    assert cutoff.item() == 0.0
