"""Evaluation of recommendations in frames, by the code of the leaderboard."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from ms_assets.evaluation import leaderboard as boards
from ms_assets.evaluation import passes
from ms_assets.retrieval.recommender import places
from ms_assets.settings import EvaluationSettings, validated
from ms_assets.splits.frames import Frame, Tables, frame, tables
from ms_assets.streams import Relation


def evaluate(
    recommendations: Frame | Mapping[str, Frame],
    test: Frame,
    train: Frame,
    songs: Frame | None = None,
    *,
    ks: Sequence[int] = (10, 100),
    exclude_heard: bool = True,
) -> pl.DataFrame:
    """Measure recommendations: method, view, k, metric, mean, ci_low, ci_high, n_users, as evaluation/leaderboard.

    Args:
        recommendations: frames of user, rank (from 1) and song, by method; or one frame.
        test: events that the lists should predict; columns as in `split`.
        train: events that the recommender has learned from.
        songs: catalogue; by default every song of the frames. A column artists is used for the diversity of lists.
        ks: lengths at which lists are cut, 1 to 100.
        exclude_heard: lists leave out songs that the user has heard in train, which are then no targets.

    Raises:
        ValueError: names the frame, the column, what was found and what was expected; or a list holds a heard song
            although `exclude_heard` is true.

    >>> train = pl.DataFrame({"user": ["ann", "ann", "bob"], "song": ["a", "b", "a"]})
    >>> test = pl.DataFrame({"user": ["ann", "bob"], "song": ["c", "b"]})
    >>> lists = pl.DataFrame({"user": ["ann", "bob"], "rank": [1, 1], "song": ["c", "c"]})
    >>> board = evaluate(lists, test, train, ks=[10])
    >>> board.filter(metric="hit")["mean"].item()
    0.5
    """
    lengths = validated(EvaluationSettings, {"ks": list(ks)}).ks
    given = recommendations if isinstance(recommendations, Mapping) else {"recommendations": recommendations}
    lists = {method: frame(found, method) for method, found in given.items()}
    for method, shown in lists.items():
        _refuse_what_is_no_list(method, shown)
    found = tables(train, test=test, songs=songs, lists=lists)
    view = "discovery" if exclude_heard else "all"
    methods = {method: _encoded(found, shown, method, view) for method, shown in lists.items()}
    if exclude_heard:
        _refuse_heard(found, methods)
    rows = pa.concat_tables(
        passes.user_metrics(methods, found.users, found.songs, found.train, found.ground_truth, lengths)
    )
    panes = boards.panes(found.connection.from_arrow(rows).filter(f"view = '{view}'"))
    exposure = passes.exposure(methods, found.users, found.songs, found.train, False, lengths)
    return boards.leaderboard(panes, exposure.filter(pl.col("view") == view))


def _refuse_what_is_no_list(method: str, shown: pl.DataFrame) -> None:
    if missing := {"user", "rank", "song"} - set(shown.columns):
        raise ValueError(
            f"{method}: found columns {', '.join(shown.columns)}, expected user, rank and song; "
            f"{', '.join(sorted(missing))} is missing"
        )
    again = [pl.struct("user", column).is_duplicated() for column in ("rank", "song")]
    wrong = shown.filter(pl.any_horizontal(~(pl.col("rank") >= 1).fill_null(False), *again))
    if len(wrong):
        found = ", ".join(f"{column} {wrong[column][0]}" for column in ("user", "rank", "song"))
        raise ValueError(f"{method}: found {found}, expected ranks from 1, and no rank or song twice for a user")


def _encoded(found: Tables, shown: pl.DataFrame, method: str, view: str) -> Relation:
    """Recommendations with dense ids: view, user_id, rank, song_id; users without any event are left out."""
    known = shown.filter(pl.col("user").is_in(found.user_ids))
    if not len(known):
        raise ValueError(f"{method}: found no user of train or test, expected their ids in the column user")
    return found.connection.from_arrow(
        pa.table(
            {
                "view": [view] * len(known),
                "user_id": places(found.user_ids, known["user"].to_numpy(), "user").astype(np.int32),
                "rank": known["rank"].to_numpy().astype(np.int32),
                "song_id": places(found.song_ids, known["song"].to_numpy(), "song").astype(np.int32),
            }
        )
    )


def _refuse_heard(found: Tables, methods: Mapping[str, Relation]) -> None:
    heard = found.train.project("user_id, song_id").set_alias("heard")
    for method, shown in methods.items():
        again = shown.set_alias("shown").join(heard, "user_id, song_id", how="semi").limit(1).fetchall()
        if again:
            user, song = found.user_ids[again[0][1]], found.song_ids[again[0][3]]
            raise ValueError(
                f"{method}: found song {song} for user {user}, who has heard it in train; leave heard songs out, "
                "or evaluate with exclude_heard=False"
            )
