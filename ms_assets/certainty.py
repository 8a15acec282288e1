"""Bootstrap intervals of means over users, with the same resamples for everything that is compared."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets.interactions import Floats, Integers
from ms_assets.ranking import ratio

N_RESAMPLES = 1_000
CONFIDENCE = 0.95
SEED = 0
AT_ONCE = 128
VALUES_AT_ONCE = 1 << 24
"""Number of values whose sums are computed at a time, 128 MiB, with four times as much beside."""
EXACT_BITS = 53
"""Bits of a float64's exact integers: it holds all integers up to 2 to this power."""


@dataclass(frozen=True)
class Resamples:
    """Bootstrap resamples (Efron, 1979): the number of times that each user is in each of them.

    The first row holds every user once, so that one product gives the mean and its resamples.
    """

    times: NDArray[np.uint8]
    """Counts of users, [1 + N_RESAMPLES, n_users]."""

    @classmethod
    def of(cls, n_users: int) -> "Resamples":
        """Draw resamples that depend on the number of users alone, so that differences between methods are paired."""
        rng, times = np.random.default_rng(SEED), np.ones((1 + N_RESAMPLES, n_users), np.uint8)
        for row in times[1:]:
            row[:] = np.bincount(rng.integers(n_users, size=n_users), minlength=n_users)
        return cls(times)

    def sums(self, values: Floats, first: int = 0) -> Floats:
        """Sums over the users of every resample, float64 [1 + N_RESAMPLES, n_columns].

        values: float64 [n, n_columns] of the users from `first` on; results of consecutive users can be added.

        Equal columns have equal sums, bit for bit, on every processor: values are split into two integer multiples of
        a unit, so small that every product and every partial sum is exact in any order of addition.
        """
        n_parts = min(max(-(-values.size // VALUES_AT_ONCE), 1), values.shape[1])
        return np.concatenate([self._sums(part, first) for part in np.array_split(values, n_parts, axis=1)], axis=1)

    def _sums(self, values: Floats, first: int) -> Floats:
        n_bits = EXACT_BITS - self.times.shape[1].bit_length()
        total = np.zeros((len(self.times), values.shape[1]))
        for _ in range(2):
            unit = np.ldexp(1.0, np.frexp(np.abs(values).max(axis=0, initial=0))[1] - n_bits)
            whole = np.rint(values / unit)
            total += self._product(whole, first) * unit
            values = values - whole * unit
            if not values.any():
                break
        return total

    def _product(self, values: Floats, first: int) -> Floats:
        times = self.times[:, first : first + len(values)]
        begins = range(0, len(times), AT_ONCE)
        return np.concatenate([times[begin : begin + AT_ONCE].astype(np.float64) @ values for begin in begins])


def intervals(samples: Floats, n_users: Integers, confidence: float = CONFIDENCE) -> tuple[Floats, Floats, Floats]:
    """Mean, and lower and upper end of its percentile interval, each [n_columns]; samples [1 + N_RESAMPLES, n_columns].

    The mean is NaN if no user has a value, the interval if fewer than two users have one.
    """
    ends = np.full((2, samples.shape[1]), np.nan)
    several, tail = n_users > 1, (1 - confidence) / 2
    ends[:, several] = np.nanquantile(samples[1:, several], [tail, 1 - tail], axis=0)
    return samples[0], *ends


def of_means(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Means over users, and lower and upper ends of their intervals, each [n_columns], with the resamples of all.

    values: float64 [n_users, n_columns], none of them NaN; NaN as `intervals` has it.
    """
    n_users = np.full(values.shape[1], len(values))
    return intervals(ratio(Resamples.of(len(values)).sums(values), n_users), n_users)


def estimates(
    samples: Floats, n_users: Integers, keys: pl.DataFrame, schema: pl.Schema, name: str = "mean"
) -> pl.DataFrame:
    """Rows of keys with the mean under a name, ci_low, ci_high and n_users: the columns of a schema, null for NaN.

    samples: means [1 + N_RESAMPLES, …], and n_users […], in the order of the keys when they are flattened.
    """
    mean, low, high = intervals(samples.reshape(len(samples), -1), n_users.ravel())
    found = pl.DataFrame({name: mean, "ci_low": low, "ci_high": high, "n_users": n_users.ravel()}).fill_nan(None)
    return pl.concat([keys, found], how="horizontal").select(*schema).cast(schema)
