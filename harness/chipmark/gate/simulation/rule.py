"""How often the gate's rule is wrong: `python -m chipmark.gate.simulation`, seeded.

Prints, for the noise of `chipmark.gate.simulation.noise` and for twice as much, the share of
verdicts at true effects of 0 to 10 %, and the false reds of a suite of 20 benchmarks with their
upper bound.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from chipmark.gate.machine_bounds import ACROSS_SESSIONS
from chipmark.gate.paired_effect import hodges_lehmann, walsh_interval
from chipmark.gate.simulation.noise import F64, Noise, paired_differences
from chipmark.gate.verdict import LOOKS, Margins, beyond, inside

SUITE = 20
_BATCH = 4_000  # trials at once: a few dozen megabytes of Walsh averages


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of verdicts over `trials` benchmarks whose true effect is `effect` (B / A - 1).

    mean_pairs: pairs measured on average, those of the confirming session included.
    """

    effect: float
    trials: int
    regressed: float
    improved: float
    equivalent: float
    inconclusive: float
    mean_pairs: float

    @property
    def regressed_bound(self) -> float:
        """Upper 95 % bound of the share of REGRESSED (Clopper-Pearson, one-sided)."""
        return upper_bound(round(self.regressed * self.trials), self.trials)


def upper_bound(found: int, trials: int, level: float = 0.95) -> float:
    """Upper confidence bound of a share of which `found` of `trials` were seen; one-sided
    Clopper-Pearson. None seen of n gives 1 - (1 - level)^(1/n)."""
    from scipy.stats import beta

    if found >= trials:
        return 1.0
    return float(beta.ppf(level, found + 1, trials - found))


def simulate(
    effect: float,
    *,
    trials: int,
    seed: int,
    noise: Noise | None = None,
    margins: Margins | None = None,
    looks: Sequence[int] = LOOKS,
) -> Rates:
    """The rule of `chipmark.gate.verdict` on simulated series, confirmation included.

    effect: true B / A - 1. Raises ValueError for an effect of -100 % or less.
    """
    noise, margins = noise or Noise(), margins or Margins()
    counts = np.zeros(4)
    pairs = 0.0
    generator = np.random.Generator(np.random.Philox(seed))
    log_effect = math.log1p(effect)
    for start in range(0, trials, _BATCH):
        size = min(_BATCH, trials - start)
        first = paired_differences(generator, noise, log_effect, size, looks[-1])
        second = paired_differences(generator, noise, log_effect, size, looks[-1])
        found, used = verdicts_of(first, second, margins, looks)
        counts += [np.count_nonzero(found == kind) for kind in range(4)]
        pairs += float(used.sum())
    shares = (counts / trials).tolist()
    return Rates(effect, trials, shares[1], shares[2], shares[3], shares[0], pairs / trials)


def verdicts_of(first: F64, second: F64, margins: Margins, looks: Sequence[int]) -> tuple[F64, F64]:
    """Per series: 0 inconclusive, 1 regressed, 2 improved, 3 equivalent; and pairs measured."""
    verdict = np.zeros(len(first))
    used = np.full(len(first), float(looks[-1]))
    open_ = np.ones(len(first), bool)
    for number, n in enumerate(looks):
        effect, (low, high) = hodges_lehmann(first[:, :n]), walsh_interval(first[:, :n])
        equal = open_ & inside(low, high, margins.delta_eq)
        verdict[equal], used[equal] = 3, n
        open_ &= ~equal
        if number == 0:
            continue
        for sign, code in ((1, 1), (-1, 2)):
            candidate = open_ & beyond(effect, low, high, margins.delta_red, sign)
            again = np.flatnonzero(candidate)
            if again.size:
                seen = second[again]
                sure = beyond(hodges_lehmann(seen), *walsh_interval(seen), margins.delta_red, sign)
                verdict[again[sure]] = code
                used[again] = n + second.shape[1]
            open_ &= ~candidate
    return verdict, used


def simulate_stored(
    effect: float,
    *,
    trials: int,
    seed: int,
    margin: float = ACROSS_SESSIONS,
    noise: Noise | None = None,
) -> float:
    """Share of REGRESSED of the rule for stored runs: a baseline and two NEW runs, a session each.

    effect: true B / A - 1. A run's number is the median of many samples, so that what differs
    between runs is the session, the drift and the process.
    """
    noise = noise or Noise()
    generator = np.random.Generator(np.random.Philox(seed))
    sd = noise.between_sessions() / math.sqrt(2)
    base, first, second = generator.normal(0.0, sd, (3, trials))
    worse = np.minimum(first, second) - base + math.log1p(effect)
    return float((worse > margin).mean())


def report(trials: int, seed: int) -> list[dict[str, float | int | str]]:
    """The rows that the command prints."""
    rows: list[dict[str, float | int | str]] = []
    for title, noise, looks in (
        ("reported noise, 16 rounds", Noise(), LOOKS),
        ("twice the noise, 16 rounds", Noise().times(2), LOOKS),
        ("twice the noise, 32 rounds", Noise().times(2), (*LOOKS, 32)),
    ):
        for effect in (0.0, 0.03, 0.05, 0.10):
            many = trials * (5 if effect == 0 else 1)
            rates = simulate(effect, trials=many, seed=seed, noise=noise, looks=looks)
            rows.append(
                {"noise": title}
                | asdict(rates)
                | {
                    "regressed_bound": rates.regressed_bound,
                    "suite_of_20": 1 - (1 - rates.regressed) ** SUITE,
                    "suite_of_20_bound": 1 - (1 - rates.regressed_bound) ** SUITE,
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4_000, help="series an effect; 5 x at 0")
    parser.add_argument("--seed", type=int, default=20_261_125)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    chosen = parser.parse_args(arguments)
    rows = report(chosen.trials, chosen.seed)
    if chosen.format == "json":
        json.dump(rows, sys.stdout, indent=1)
        return 0
    head = (
        "true effect",
        "regressed",
        "improved",
        "equivalent",
        "inconcl.",
        "pairs",
        "suite red <=",
    )
    title = ""
    for row in rows:
        if row["noise"] != title:
            title = str(row["noise"])
            print(f"\n{title}\n" + "".join(f"{name:>14}" for name in head))
        shares = [f"{100 * float(row[k]):.2f} %" for k in head_keys()]
        bound = f"{100 * float(row['suite_of_20_bound']):.2f} %" if row["effect"] == 0 else "-"
        cells = [f"{100 * float(row['effect']):+.0f} %", *shares, f"{float(row['mean_pairs']):.1f}"]
        print("".join(f"{cell:>14}" for cell in (*cells, bound)))
    print(f"\nstored runs of other sessions, margin {100 * math.expm1(ACROSS_SESSIONS):.0f} %")
    for effect in (0.0, 0.05, 0.10, 0.20, 0.30):
        share = simulate_stored(effect, trials=50 * chosen.trials, seed=chosen.seed)
        print(f"{100 * effect:+13.0f} %{100 * share:12.3f} % regressed")
    return 0


def head_keys() -> tuple[str, ...]:
    """The shares of a row in the order of the table."""
    return ("regressed", "improved", "equivalent", "inconclusive")
