"""Who and what a method is good for: the main metrics over parts of the users, the songs and the events."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.evaluation.certainty import Resamples, intervals, ratios
from ms_assets.evaluation.metrics import Lists, Songs
from ms_assets.evaluation.truth import Flags, Targets, Truth
from ms_assets.ranking import Floats

METRICS = ("ndcg", "recall", "hit")
QUARTERS = 4
HEAD_SHARE = 0.5
"""Head songs are the fewest that together have this share of the plays in train: a play is as likely of either."""

SCHEMA = pl.Schema(
    {
        **dict.fromkeys(("method", "view"), pl.String),
        "k": pl.Int32,
        **dict.fromkeys(("slice", "value", "metric"), pl.String),
        **dict.fromkeys(("mean", "ci_low", "ci_high"), pl.Float64),
        "n_users": pl.Int64,
    }
)

Slice = tuple[str, str]
"""What is cut, and the part of it."""


@dataclass(frozen=True)
class HistoryLengths:
    """The tested users in quarters, by how many positive train events they have."""

    edges: NDArray[np.int64]
    """The most events of a user in each quarter but the last."""
    names: tuple[str, ...]

    @classmethod
    def of(cls, n_events: NDArray[np.int64]) -> "HistoryLengths":
        """Quarters of users with these numbers of events; ties may leave one empty."""
        shares = np.arange(1, QUARTERS) / QUARTERS
        edges = np.quantile(n_events, shares, method="lower").astype(np.int64)
        quarter = np.searchsorted(edges, n_events)
        spans = [n_events[quarter == number] for number in range(QUARTERS)]
        names = [f"{span.min()} to {span.max()} events" if len(span) else "nobody" for span in spans]
        return cls(edges, tuple(f"quarter {number}: {name}" for number, name in enumerate(names, start=1)))

    def slices(self, n_events: NDArray[np.int64], user: NDArray[np.int64]) -> dict[Slice, Flags]:
        """Which pairs belong to users of each quarter; n_events: of each user."""
        quarter = np.searchsorted(self.edges, n_events)[user]
        return {("history length", name): quarter == number for number, name in enumerate(self.names)}


def head(songs: Songs) -> Flags:
    """The songs of the head, bool [n_songs]; the others, cold ones among them, are the tail."""
    n_plays = songs.n_plays[:-1]
    order = np.argsort(-n_plays, kind="stable")
    before = np.cumsum(n_plays[order]) - n_plays[order]
    flags = np.zeros(len(n_plays), np.bool_)
    flags[order] = (before < HEAD_SHARE * n_plays.sum()) & (n_plays[order] > 0)
    return flags


def slices(
    truth: Truth, songs: Songs, is_head: Flags, lengths: HistoryLengths, n_events: NDArray[np.int64],
    organic: Flags, recommended: Flags,
) -> dict[Slice, Flags]:  # fmt: skip
    """Which pairs of the test part belong to each slice, bool [n_pairs].

    Args:
        truth: the pairs.
        songs: their songs.
        is_head: of each song.
        lengths: the quarters.
        n_events: positive train events of each user.
        organic: whether a positive test event of the pair was the user's own choice.
        recommended: whether one was driven by a recommendation; a pair can be both.
    """
    cold, of_head = songs.cold[truth.pairs.song], is_head[truth.pairs.song]
    return {
        **lengths.slices(n_events, truth.pairs.user),
        ("song", "warm"): ~cold,
        ("song", "cold"): cold,
        ("popularity", "head"): of_head,
        ("popularity", "tail"): ~of_head,
        ("event", "organic"): organic,
        ("event", "recommended"): recommended,
    }


def targets_of(truth: Truth, parts: dict[Slice, Flags]) -> dict[Slice, Targets]:
    """The relevant songs of each slice, worth their adjusted relevance."""
    return {part: truth.targets["adjusted_relevance"].only(flags) for part, flags in parts.items()}


def metrics_of(lists: Lists, targets: dict[Slice, Targets], k: int) -> Floats:
    """METRICS of the first k recommendations in each slice, float64 [n_tested, n_slices, n_metrics].

    The list is the whole one; targets outside the slice neither count nor are missed. NaN without a target in it.
    """
    tested, values = lists.truth.tested, []
    for part in targets.values():
        gains = part.worth[lists.places[:, :k]]
        ndcg = ranking.ratio(ranking.dcg(gains), part.ideal_dcg(k))
        values.append([ndcg, ranking.recall(gains, part.counts), ranking.hit(gains, part.counts)])
    return np.array(values).transpose(2, 0, 1)[tested]


class Sums:
    """Gathers slices of lists, some users at a time, into a table of means with intervals."""

    def __init__(self, n_users: int) -> None:
        """n_users: all tested users."""
        self._resamples = Resamples.of(n_users)
        self._sums: dict[str, Floats] = {}
        self._n_users: dict[str, NDArray[np.int64]] = {}

    def add(self, method: str, values: Floats, first: int) -> None:
        """Add a method's metrics of some users, float64 [n_users, n_columns]; first: the place of the first of them."""
        known = ~np.isnan(values)
        parts = (np.where(known, values, 0.0), known.astype(np.float64))
        sums = np.stack([self._resamples.sums(part, first) for part in parts])
        self._sums[method] = self._sums.get(method, 0) + sums
        self._n_users[method] = self._n_users.get(method, 0) + known.sum(axis=0)

    def table(self, columns: list[tuple[str, int, Slice]]) -> pl.DataFrame:
        """One row per method, view, k, slice, value and metric: mean, ci_low, ci_high, n_users.

        columns: view, k and slice of every len(METRICS) of the columns that were added.
        """
        frames = [SCHEMA.to_frame()]
        names = [(view, k, *part, metric) for view, k, part in columns for metric in METRICS]
        for method, sums in self._sums.items():
            mean, low, high = intervals(ratios(*sums), self._n_users[method])
            rows = pl.DataFrame(names, ["view", "k", "slice", "value", "metric"], orient="row").with_columns(
                method=pl.lit(method), mean=mean, ci_low=low, ci_high=high, n_users=self._n_users[method]
            )
            frames.append(rows.fill_nan(None).select(*SCHEMA).cast(SCHEMA))
        return pl.concat(frames).sort("view", "k", "slice", "value", "metric", "method")
