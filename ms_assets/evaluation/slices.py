"""Slices: the main metrics over parts of the users, the songs and the events."""

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.certainty import Resamples, estimates
from ms_assets.evaluation.metrics import KEYS, Lists, Songs
from ms_assets.evaluation.truth import Truth
from ms_assets.interactions import Flags, Floats, Interactions

METRICS = ("ndcg", "recall", "hit")
QUARTERS = 4
HEAD_SHARE = 0.5
"""Share of the plays in train that the head has: the fewest songs that reach it are the head, the others the tail."""

SCHEMA = pl.Schema(
    {
        **KEYS,
        **dict.fromkeys(("slice", "value", "metric"), pl.String),
        **dict.fromkeys(("mean", "ci_low", "ci_high"), pl.Float64),
        "n_users": pl.Int64,
    }
)

Slice = tuple[str, str]
"""Property by which data are cut, and its value in the slice."""


def quarters(n_events: NDArray[np.int64], tested: NDArray[np.int64]) -> dict[Slice, Flags]:
    """Quarters of the tested users by history length, as flags bool [n_users]; ties may leave a quarter empty.

    n_events: number of positive train events of every user.
    """
    edges = np.quantile(n_events[tested], np.arange(1, QUARTERS) / QUARTERS, method="lower").astype(np.int64)
    quarter, found = np.searchsorted(edges, n_events), {}
    for number in range(QUARTERS):
        span = n_events[tested][quarter[tested] == number]
        name = f"{span.min()} to {span.max()} events" if len(span) else "nobody"
        found["history length", f"quarter {number + 1}: {name}"] = quarter == number
    return found


def head(songs: Songs) -> Flags:
    """Flags of head songs, bool [n_songs]; all others, including cold songs, are the tail."""
    n_plays = songs.n_plays[:-1]
    order = np.argsort(-n_plays, kind="stable")
    before = np.cumsum(n_plays[order]) - n_plays[order]
    flags = np.zeros(len(n_plays), np.bool_)
    flags[order] = (before < HEAD_SHARE * n_plays.sum()) & (n_plays[order] > 0)
    return flags


def slices(
    test: Interactions, songs: Songs, is_head: Flags, quarters: dict[Slice, Flags],
    organic: Interactions, driven: Interactions,
) -> dict[Slice, Flags]:  # fmt: skip
    """Flags of the test part's pairs in each slice, bool [n_pairs].

    Args:
        test: pairs of the test part.
        songs: catalogue.
        is_head: flags of head songs, bool [n_songs].
        quarters: flags of users by quarter of history length, bool [n_users or more].
        organic: pairs with a positive test event of the user's own choice.
        driven: pairs with a positive test event that a recommendation led to; a pair can be both.
    """
    cold, of_head = songs.cold[test.song], is_head[test.song]
    return {
        **{quarter: flags[test.user] for quarter, flags in quarters.items()},
        ("song", "warm"): ~cold,
        ("song", "cold"): cold,
        ("popularity", "head"): of_head,
        ("popularity", "tail"): ~of_head,
        ("event", "organic"): test.among(organic),
        ("event", "recommended"): test.among(driven),
    }


def cut(truth: Truth, parts: dict[Slice, Flags]) -> Truth:
    """Replace the truth's values by one for each slice: adjusted relevance, 0 outside the slice."""
    relevance = truth.test.values["adjusted_relevance"]
    values = {": ".join(part): np.where(flags, relevance, 0.0) for part, flags in parts.items()}
    return replace(truth, test=replace(truth.test, values=values))


def metrics_of(lists: Lists, k: int) -> Floats:
    """Metrics (METRICS) of the first k recommendations by slice, float64 [n_tested, n_slices, n_metrics].

    Lists stay whole; targets outside the slice count neither as hits nor as misses. NaN without a target in the slice.
    """
    test, values = lists.truth.test, []
    for name, of_list in lists.gains.items():
        gains, n_targets = of_list[:, :k], test.n_positive(name)
        ndcg = ranking.ndcg(gains, test.ideal_dcg(name, k))
        values.append([ndcg, ranking.recall(gains, n_targets), ranking.hit(gains, n_targets)])
    return np.array(values).transpose(2, 0, 1)[lists.truth.tested]


class Sums:
    """Sums of metrics by slice, added up over blocks of users, for a table of means with intervals."""

    def __init__(self, n_users: int) -> None:
        """Start without sums; n_users: number of all tested users."""
        self._resamples = Resamples.of(n_users)
        self._sums: dict[str, Floats] = {}
        self._n_users: dict[str, NDArray[np.int64]] = {}

    def add(self, method: str, values: Floats, first: int) -> None:
        """Add a method's metrics of a block of users, float64 [n_users, n_columns]; first: its position among all."""
        known = ~np.isnan(values)
        parts = (np.where(known, values, 0.0), known.astype(np.float64))
        sums = np.stack([self._resamples.sums(part, first) for part in parts])
        self._sums[method] = self._sums.get(method, 0) + sums
        self._n_users[method] = self._n_users.get(method, 0) + known.sum(axis=0)

    def table(self, columns: list[tuple[str, int, Slice]]) -> pl.DataFrame:
        """One row per method, view, k, slice, value and metric: mean, ci_low, ci_high, n_users.

        columns: view, k and slice of each group of len(METRICS) columns that were added.
        """
        names = [(view, k, *part, metric) for view, k, part in columns for metric in METRICS]
        keys = pl.DataFrame(names, ["view", "k", "slice", "value", "metric"], orient="row")
        frames = [
            estimates(ranking.ratio(*sums), self._n_users[method], keys.with_columns(method=pl.lit(method)), SCHEMA)
            for method, sums in self._sums.items()
        ]
        return pl.concat([SCHEMA.to_frame(), *frames]).sort("view", "k", "slice", "value", "metric", "method")
