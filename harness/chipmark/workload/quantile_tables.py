"""Integer quantile tables: how distributions are drawn without any floating-point function.

Four tables are committed next to this file in `quantile_tables.npz`, each of 4,096 integers, the
first three with one for each 1/4096 of probability:

- `normal`: quantile of the standard normal at the mid-points (i + 1/2) / 4096, times 2^24;
- `exponential`: mean of each 1/4096 of the unit exponential, times 2^32;
- `gamma_cv4`: mean of each 1/4096 of the gamma with mean 1 and coefficient of variation 4
  (shape 1/16), times 2^32. Means and not mid-points, because its tail carries the mean;
- `exp2`: 2^(i/4096), times 2^30, for powers in fixed point.

`python -m chipmark.workload.quantile_tables FILE` makes them again (it needs scipy); at run
time only integers are read, so a draw is the same bits on every machine.
"""

from __future__ import annotations

import decimal
import sys
from fractions import Fraction
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

TABLE_BITS = 12
TABLE_SIZE = 1 << TABLE_BITS
NORMAL_BITS = 24
MEAN_ONE_BITS = 32
EXP2_BITS = 30

LOG2_E = Fraction(26_613_026_195_688_644_983, 1 << 64)
"""log2(e) to 64 fractional bits; turns a sigma of natural logarithms into one of base 2."""

_FILE = "quantile_tables.npz"


@cache
def table(name: str) -> tuple[int, ...]:
    """One committed table as 4,096 Python integers, rising."""
    with (
        resources.files("chipmark.workload").joinpath(_FILE).open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        return tuple(int(value) for value in archive[name])


@cache
def lognormal(median: int, sigma_ln: Fraction) -> tuple[int, ...]:
    """The 4,096 quantiles of a lognormal as integers at or above 0, rounded half up, rising.

    `median` is in units of the result; `sigma_ln` is the deviation of the natural logarithm.
    Each is median * 2^(sigma * log2(e) * z) in fixed point, relative error under 2e-4.
    """
    # Exponents count in units of 1/4096, smaller steps are under 1.7e-4 of the value.
    unit = sigma_ln * LOG2_E * TABLE_SIZE / (1 << NORMAL_BITS)
    top, bottom = 2 * unit.numerator, 2 * unit.denominator
    exp2 = table("exp2")
    values = []
    for z in table("normal"):
        whole, part = divmod((z * top + unit.denominator) // bottom, TABLE_SIZE)
        value, shift = median * exp2[part], EXP2_BITS - whole
        values.append(value << -shift if shift <= 0 else (value + (1 << (shift - 1))) >> shift)
    return tuple(values)


def mean_one(name: str, mean: int, rank: int) -> int:
    """Value `rank` of 0..4095 of a table with mean 1 (`exponential`, `gamma_cv4`), times `mean`."""
    return (mean * table(name)[rank] + (1 << (MEAN_ONE_BITS - 1))) >> MEAN_ONE_BITS


def make_tables() -> dict[str, npt.NDArray[np.int64]]:
    """The tables from scipy and decimal arithmetic; what the committed file was written from."""
    from scipy import special

    mid = (np.arange(TABLE_SIZE) + 0.5) / TABLE_SIZE
    edges = np.arange(TABLE_SIZE + 1) / TABLE_SIZE
    with decimal.localcontext() as context:
        context.prec = 40
        root = decimal.Decimal(2)
        exp2 = [
            int((root ** (decimal.Decimal(i) / TABLE_SIZE) * (1 << EXP2_BITS)).to_integral_value())
            for i in range(TABLE_SIZE)
        ]

    def bin_means(shape: float) -> npt.NDArray[np.float64]:
        # The mean of a gamma over [a, b] is shape * scale * (P(shape + 1, b) - P(shape + 1, a))
        # over its mass, with P the regularised lower incomplete gamma function.
        at = special.gammaincinv(shape, edges)
        at[-1] = np.inf
        mass = special.gammainc(shape + 1.0, at)
        return np.asarray(np.diff(mass) * TABLE_SIZE, dtype=np.float64)

    return {
        "normal": _rounded(special.ndtri(mid), NORMAL_BITS),
        "exponential": _rounded(bin_means(1.0), MEAN_ONE_BITS),
        "gamma_cv4": _rounded(bin_means(1.0 / 16.0), MEAN_ONE_BITS),
        "exp2": np.array(exp2, dtype=np.int64),
    }


def _rounded(values: npt.NDArray[np.float64], bits: int) -> npt.NDArray[np.int64]:
    return np.rint(np.ldexp(values, bits)).astype(np.int64)


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as target:
        np.savez_compressed(target, **make_tables())  # type: ignore[arg-type]
