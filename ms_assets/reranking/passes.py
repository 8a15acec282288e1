"""Passes over all users, a range at a time: the material that rankers learn from, and the lists that they rank."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.interactions import Interactions
from ms_assets.reranking import candidates, cold, features
from ms_assets.reranking.candidates import Lists, Pool
from ms_assets.reranking.features import Facts, Knowledge
from ms_assets.reranking.past import ranges
from ms_assets.reranking.ranker import JUDGED_AT, SEED, Material, Ranker, refuse_without_room
from ms_assets.retrieval.recommender import TOP_K, VIEWS
from ms_assets.streams import Relation, with_progress

LEARNERS = 2_000
"""Number of users with a relevant song in the validation part from whose candidates rankers learn, at most."""
ROWS = 1 << 16
"""Number of candidates that are read at a time."""
IDEAL = tuple(f"ideal_dcg_{k}" for k in JUDGED_AT)
SCHEMA = pa.schema(
    [
        ("view", pa.string()),
        ("user_id", pa.int32()),
        ("song_id", pa.int32()),
        ("relevance", pa.float64()),
        *((name, pa.float64()) for name in IDEAL),
        ("n_targets", pa.int32()),
    ]
)
"""Columns of the material before its features."""


def learners(ground_truth: Relation) -> NDArray[np.int64]:
    """Draw LEARNERS of the users with a relevant song in the validation part, or take all, ascending."""
    relevant = ground_truth.filter("split = 'validation' AND adjusted_relevance > 0").project("user_id").distinct()
    users = np.sort(relevant.fetchnumpy()["user_id"].astype(np.int64))
    return np.sort(np.random.default_rng(SEED).permutation(users)[:LEARNERS])


def material(
    known: Knowledge, lists: Lists, train: Relation, ground_truth: Relation, users: NDArray[np.int64]
) -> Iterator[pa.Table]:
    """Candidates of some users with their relevance and features: SCHEMA, then a column for each feature.

    Args:
        known: what is known before the validation part.
        lists: tables of recommendations by source, made from the train part.
        train: splits/train.
        ground_truth: splits/ground_truth.
        users: the users, ascending.
    """
    names = [*features.FEATURES, *features.of_sources(lists)]
    yield pa.schema([*SCHEMA, *((name, pa.float32()) for name in names)]).empty_table()
    validated = ground_truth.filter("split = 'validation' AND adjusted_relevance > 0").project(
        "user_id, song_id, adjusted_relevance AS relevance"
    )
    for first, last in _ranges(known, "candidates to learn from"):
        mine = users[(users >= first) & (users <= last)]
        if not len(mine):
            continue
        heard = _pairs(train, first, last, known.past.n_songs)
        rows = _rows(validated, first, last).to_arrow_table()
        targets = Interactions.of_table(rows, last - first + 1, known.past.n_songs)
        histories = known.histories(first, last)
        for view, pool in _pools(known, lists, first, last, heard):
            pool = pool.of_users(mine - first)
            wanted = targets.without(heard) if view == "discovery" else targets
            found = features.table(Facts(histories, pool.pairs), pool)
            columns = {name: pa.array(values, from_pandas=True) for name, values in found.items()}  # NaN as null
            yield pa.table(_judged(view, first, pool.pairs, wanted) | columns)


def _judged(view: str, first: int, pairs: Interactions, wanted: Interactions) -> dict[str, pa.Array]:
    place = np.where(pairs.among(wanted), np.searchsorted(wanted.keys, pairs.keys), len(wanted))
    return {
        "view": pa.array(np.full(len(pairs), view, object), pa.string()),
        "user_id": pa.array((pairs.user + first).astype(np.int32)),
        "song_id": pa.array(pairs.song.astype(np.int32)),
        "relevance": pa.array(np.append(wanted.values["relevance"], 0.0)[place]),
        **{name: wanted.ideal_dcg("relevance", k)[pairs.user] for name, k in zip(IDEAL, JUDGED_AT, strict=True)},
        "n_targets": wanted.counts[pairs.user].astype(np.int32),
    }


def read(table: Relation) -> dict[str, Material]:
    """Read the material of each view from a table that `material` made; it takes seconds, so once in a step.

    Raises:
        NotEnoughMemoryError: it does not fit into free memory while rankers learn from it.
    """
    names = [name for name in table.columns if name not in SCHEMA.names]
    refuse_without_room(len(table), len(names))
    return {view: _read(table.filter(f"view = '{view}'"), names) for view in VIEWS}


def _read(rows: Relation, names: Sequence[str]) -> Material:
    n, end = len(rows), 0
    user, relevance, ideal = np.empty(n, np.int64), np.empty(n), np.empty((n, len(IDEAL)))
    columns = np.empty((n, len(names)), np.float32)
    # Some at a time, for all rows would be held beside the arrays.
    for batch in rows.to_arrow_reader(ROWS):
        here = slice(end, end := end + len(batch))
        for into, name in ((user, "user_id"), (relevance, "relevance"), *zip(ideal.T, IDEAL, strict=True)):
            into[here] = batch.column(name).to_numpy()
        for column, name in zip(columns.T, names, strict=True):
            column[here] = batch.column(name).to_numpy(zero_copy_only=False)
    return Material(user, relevance, ideal, columns, names)


def ranked(
    known: Knowledge, lists: Lists, train: Relation, ranker: Ranker, uid: NDArray[np.int64], item_id: NDArray[np.int64]
) -> Iterator[pa.Table]:
    """Lists of TOP_K candidates by the ranker's scores: the columns of a table of recommendations.

    Args:
        known: what is known before the part that is served.
        lists: tables of recommendations by source.
        train: splits/train, whose songs are left out of `discovery`.
        ranker: ranker with models.
        uid: Yambda's ids by user_id.
        item_id: Yambda's ids by song_id.
    """
    nobody = np.empty(0, np.int64)
    yield _listed("all", nobody, nobody, nobody, np.empty(0), uid, item_id)
    for view in ranker.models:
        for first, last in _ranges(known, f"lists of {view}"):
            heard = _pairs(train, first, last, known.past.n_songs)
            [(_, pool)] = _pools(known, lists, first, last, heard, [view])
            found = order(known, ranker, view, first, pool)
            top = found.rank <= TOP_K
            users, songs = found.user[top] + first, found.song[top]
            yield _listed(view, users, found.rank[top], songs, found.score[top], uid, item_id)


class Order(NamedTuple):
    """Candidates of some users, user after user, best first: arrays [n_candidates]."""

    user: NDArray[np.int64]
    """Numbered from 0."""
    rank: NDArray[np.int64]
    """Ranks from 1."""
    song: NDArray[np.int64]
    score: NDArray[np.float64]


def order(known: Knowledge, ranker: Ranker, view: str, first: int, pool: Pool) -> Order:
    """Order the candidates of a range of users, the first of whom is given, by the ranker's scores."""
    pairs = pool.pairs
    columns = features.table(Facts(known.histories(first, first + pairs.n_users - 1), pairs), pool)
    scores = ranker.scores(view, np.stack([columns[name] for name in ranker.names], axis=1))
    best = np.lexsort((pairs.song, -scores, pairs.user))
    if view in ranker.unmet_cold:
        place = cold.places(pool.ranks, known.of_songs["met"][pairs.song] == 0, pairs.user)
        best, scores = cold.kept(best, pairs.user, place, scores)
    return Order(pairs.user, np.arange(len(best)) - pairs.offsets[pairs.user] + 1, pairs.song[best], scores[best])


def left_out(view: str, heard: Interactions) -> Interactions:
    """Pairs that a view leaves out: those heard in `discovery`, none in `all`."""
    return heard if view == "discovery" else heard.keep(np.zeros(len(heard), np.bool_))


def _listed(
    view: str, user: NDArray[np.int64], rank: NDArray[np.int64], song: NDArray[np.int64], scores: NDArray[np.float64],
    uid: NDArray[np.int64], item_id: NDArray[np.int64],
) -> pa.Table:  # fmt: skip
    return pa.table(
        {
            "view": pa.array(np.full(len(user), view, object), pa.string()),
            "user_id": user.astype(np.int32),
            "uid": uid[user],
            "rank": rank.astype(np.int32),
            "song_id": song.astype(np.int32),
            "item_id": item_id[song],
            "score": scores.astype(np.float32),
        }
    )


def _ranges(known: Knowledge, what: str) -> Iterator[tuple[int, int]]:
    n_users = known.past.n_users
    return with_progress(ranges(n_users), what, n_users, lambda users: users[1] - users[0] + 1)


def _rows(table: Relation, first: int, last: int) -> Relation:
    some = table.filter(f"user_id BETWEEN {first} AND {last}")
    return some.project(f"* REPLACE (user_id - {first} AS user_id)")


def _pairs(table: Relation, first: int, last: int, n_songs: int) -> Interactions:
    rows = _rows(table, first, last).project("user_id, song_id").distinct().to_arrow_table()
    return Interactions.of_table(rows, last - first + 1, n_songs)


def _pools(
    known: Knowledge, lists: Lists, first: int, last: int, heard: Interactions, views: Sequence[str] = VIEWS
) -> Iterator[tuple[str, Pool]]:
    for view in views:
        pairs = left_out(view, heard)
        yield view, candidates.pool(lists, view, (first, last), known.past.n_songs, pairs, known.of_late)
