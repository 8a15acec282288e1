"""Passes over all users, one for each table of the room: read a block of users, measure every method, continue."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import polars as pl
import pyarrow as pa

from ms_assets.evaluation import exposure as exposures
from ms_assets.evaluation import metrics, official
from ms_assets.evaluation import slices as slicing
from ms_assets.evaluation.memory import estimate
from ms_assets.evaluation.metrics import KEYS, Lists
from ms_assets.evaluation.tables import n_train_events, songs_of, users_of
from ms_assets.evaluation.truth import Truth
from ms_assets.events import IS_POSITIVE
from ms_assets.machine import free_memory, refuse_beyond
from ms_assets.retrieval.recommender import VIEWS
from ms_assets.streams import Relation

Methods = dict[str, Relation]
"""Recommendations by method."""


def user_metrics(
    methods: Methods, users: Relation, songs: Relation, train: Relation, ground_truth: Relation, ks: list[int]
) -> Iterator[pa.Table]:
    """Metrics of every tested user: method, view, k, uid and metrics.METRICS.

    This and every other pass raises NotEnoughMemoryError where some users' histories do not fit into free memory.
    """
    for method, view, lists in _lists("user_metrics", methods, users, songs, train, ground_truth, max(ks)):
        for k in ks:
            yield _keyed(metrics.user_metrics(lists, k), method, view, k)


def official_user_metrics(
    methods: Methods, users: Relation, songs: Relation, train: Relation, test: Relation, ks: list[int]
) -> Iterator[pa.Table]:
    """Official metrics of every user with a target: the columns of official.SCHEMA."""
    _refuse_without_room("official_user_metrics", methods, users, songs, train, test)
    n_songs = len(songs)
    for some in users_of(users):
        targets = {
            view: some.interactions(official.targets(test, train, view), n_songs, n_events="n_events")
            for view in official.VIEWS
        }
        for method, recommended in methods.items():
            matrix = some.lists(recommended, max(ks))["all"]
            for view, k in product(targets, ks):
                yield _keyed(official.user_metrics(matrix, targets[view], some.uid, k), method, view, k)


def recall_curve(
    methods: Methods, users: Relation, songs: Relation, train: Relation, ground_truth: Relation, longest: int
) -> pl.DataFrame:
    """Mean recall at every length of the list: method, view, k, recall."""
    sums = {key: np.zeros(longest) for key in product(methods, VIEWS)}
    n_users = dict.fromkeys(sums, 0)
    given = methods, users, songs, train, ground_truth
    for method, view, lists in _lists("recall_curve", *given, longest, "base_relevance"):
        recall = metrics.recall_by_length(lists)
        sums[method, view] += recall.sum(axis=0)
        n_users[method, view] += len(recall)
    rows = [
        (method, view, k, recall)
        for (method, view), total in sums.items()
        for k, recall in enumerate((total / max(n_users[method, view], 1)).tolist(), start=1)
    ]
    return pl.DataFrame(rows, {**KEYS, "recall": pl.Float64}, orient="row")


def slices(
    methods: Methods, users: Relation, songs: Relation, train: Relation, test: Relation, ground_truth: Relation,
    ks: list[int],
) -> pl.DataFrame:  # fmt: skip
    """Main metrics over slices of users, songs and events: the columns of slices.SCHEMA."""
    _refuse_without_room("slices", methods, users, songs, train, _tested(ground_truth))
    catalogue, everybody = songs_of(songs), users_of(users)
    tested = _tested(ground_truth).project("user_id").distinct().to_arrow_table()
    tested_id = np.sort(tested["user_id"].to_numpy())
    quarters = slicing.quarters(n_train_events(train, len(users)), tested_id)
    sums = slicing.Sums(len(tested_id))
    is_head, events = slicing.head(catalogue), test.filter(IS_POSITIVE)
    for some in everybody:
        truth = some.truth(ground_truth, train, catalogue, "adjusted_relevance")
        organic, driven = (some.interactions(events.filter(f"is_organic = {n}"), len(catalogue)) for n in (1, 0))
        theirs = {part: flags[some.first :] for part, flags in quarters.items()}
        parts = slicing.slices(truth.test, catalogue, is_head, theirs, organic, driven)
        truths = _views(slicing.cut(truth, parts))
        first = int(np.searchsorted(tested_id, some.first))
        for method, recommended in methods.items():
            shown = [Lists(m, truths[view], catalogue) for view, m in some.lists(recommended, max(ks)).items()]
            values = [slicing.metrics_of(lists, k) for lists, k in product(shown, ks)]
            sums.add(method, np.concatenate(values, axis=1).reshape(len(truth.tested), -1), first)
    return sums.table([(view, k, part) for view, k, part in product(VIEWS, ks, parts)])


def exposure(
    methods: Methods, users: Relation, songs: Relation, train: Relation, is_global: bool, ks: list[int]
) -> pl.DataFrame:
    """Exposure of songs: method, view, k and exposure.METRICS; in official views, if is_global, coverage alone."""
    _refuse_without_room("exposure", methods, users, songs, train)
    catalogue, everybody = songs_of(songs), users_of(users)
    is_head, cold = slicing.head(catalogue), catalogue.cold[:-1]
    is_trained = n_train_events(train, len(users)) > 0
    rows = []
    for method, recommended in methods.items():
        times = {key: np.zeros(len(catalogue), np.int64) for key in product((*VIEWS, "official"), ks)}
        for some in everybody:
            matrices = some.lists(recommended, max(ks))
            matrices["official"] = matrices["all"][is_trained[some.first :][: len(some.uid)]]
            for view, k in times:
                times[view, k] += exposures.times_shown(matrices[view][:, :k], len(catalogue))
        for (view, k), shown in times.items():
            if view in VIEWS:
                rows.append({"method": method, "view": view, "k": k, **exposures.exposure(shown, is_head, cold)})
            elif is_global:
                coverage = np.count_nonzero(shown) / np.count_nonzero(~cold)
                rows += [{"method": method, "view": name, "k": k, "coverage": coverage} for name in official.VIEWS]
    return pl.DataFrame(rows, {**KEYS, **dict.fromkeys(exposures.METRICS, pl.Float64)})


def _lists(
    what: str, methods: Methods, users: Relation, songs: Relation, train: Relation, ground_truth: Relation, k: int,
    *relevances: str,
) -> Iterator[tuple[str, str, Lists]]:  # fmt: skip
    """Lists with their truth by the relevances, block of users after block: method, view, lists."""
    _refuse_without_room(what, methods, users, songs, train, _tested(ground_truth))
    catalogue = songs_of(songs)
    for some in users_of(users):
        truths = _views(some.truth(ground_truth, train, catalogue, *relevances))
        for method, recommended in methods.items():
            for view, matrix in some.lists(recommended, k).items():
                yield method, view, Lists(matrix, truths[view], catalogue)


def _refuse_without_room(
    what: str, methods: Methods, users: Relation, songs: Relation, train: Relation, tested: Relation | None = None
) -> None:
    n_tested = 0 if tested is None else len(tested)
    refuse_beyond(
        free_memory(),
        f"measuring lists of {len(users):,} users among {len(songs):,} songs",
        estimate(what, len(users), len(songs), len(train), n_tested, len(methods)),
        "let fewer users take part (splits__users.min_events, max_events), or evaluate on a machine with more memory",
    )


def _tested(ground_truth: Relation) -> Relation:
    return ground_truth.filter("split = 'test'")


def _views(truth: Truth) -> dict[str, Truth]:
    return dict(zip(VIEWS, (truth, truth.discovery()), strict=True))


def _keyed(frame: pl.DataFrame, method: str, view: str, k: int) -> pa.Table:
    keys = [pl.lit(method).alias("method"), pl.lit(view).alias("view"), pl.lit(k, pl.Int32).alias("k")]
    return frame.select(*keys, pl.all()).to_arrow()
