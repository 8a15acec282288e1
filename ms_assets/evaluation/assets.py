"""Room 6: metrics per user, slices, and the leaderboard with its intervals."""

from collections.abc import Iterator
from itertools import product

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from ms_assets import pictures
from ms_assets.evaluation import charts, metrics, official
from ms_assets.evaluation import exposure as exposures
from ms_assets.evaluation import leaderboard as boards
from ms_assets.evaluation import protocol as protocols
from ms_assets.evaluation import slices as slicing
from ms_assets.evaluation.certainty import CONFIDENCE
from ms_assets.evaluation.metrics import Lists
from ms_assets.evaluation.tables import songs_of, users_of
from ms_assets.io_managers import Relation, columns
from ms_assets.retrieval.recommendations import VIEWS
from ms_assets.retrieval.recommenders import METHODS
from ms_assets.scales import config_schema, room, settings_of
from ms_assets.settings import EvaluationSettings
from ms_assets.streams import TableStream

asset = room("evaluation")
RECOMMENDATIONS = {name: dg.AssetIn(["retrieval", name]) for name in METHODS}


def _splits(*names: str) -> dict[str, dg.AssetIn]:
    return {name: dg.AssetIn(["splits", name]) for name in names}


METHOD = ("VARCHAR", "recommender")
VIEW = ("VARCHAR", "all; discovery: songs heard in train are neither candidates nor targets")
OFFICIAL_VIEW = ("VARCHAR", "official_listen_plus or official_like: which events are targets")
BOARD_VIEW = ("VARCHAR", f"{VIEW[1]}; {OFFICIAL_VIEW[1]}, by the arithmetic of Yambda's authors")
K = ("INTEGER", "length of the list")
UID = ("BIGINT", "Yambda's user id")
INTERVAL = {
    "ci_low": ("DOUBLE", f"lower end of the {CONFIDENCE:.0%} bootstrap interval over users"),
    "ci_high": ("DOUBLE", "upper end of the interval"),
}


@asset(
    kinds={"numpy", "polars"},
    code_version="2",
    config_schema=config_schema(EvaluationSettings),
    ins={**RECOMMENDATIONS, **_splits("users", "songs", "train", "ground_truth")},
    metadata=columns(
        method=METHOD,
        view=VIEW,
        k=K,
        uid=UID,
        **{name: ("DOUBLE", f"{text}; null where undefined") for name, text in metrics.METRICS.items()},
    ),
)
def user_metrics(
    context: dg.AssetExecutionContext,
    users: Relation,
    songs: Relation,
    train: Relation,
    ground_truth: Relation,
    **recommendations: Relation,
) -> dg.MaterializeResult[TableStream]:
    """One row per method, view, K and user with events in the test part: how good the list was for them."""
    settings, catalogue = settings_of(context, EvaluationSettings), songs_of(songs)

    def tables() -> Iterator[pa.Table]:
        for some in users_of(users):
            truth = some.truth(ground_truth, train, catalogue)
            truths = dict(zip(VIEWS, (truth, truth.discovery()), strict=True))
            for method, recommended in recommendations.items():
                for view, matrix in some.lists(recommended, max(settings.ks)).items():
                    lists = Lists(matrix, truths[view], catalogue)
                    for k in settings.ks:
                        yield _keyed(metrics.user_metrics(lists, k), method, view, k).to_arrow()

    n_tested = ground_truth.filter("split = 'test'").aggregate("count(DISTINCT user_id)").fetchall()[0][0]
    return dg.MaterializeResult(value=TableStream(tables()), metadata={"n_users": n_tested, **settings.model_dump()})


def _keyed(frame: pl.DataFrame, method: str, view: str, k: int) -> pl.DataFrame:
    return frame.select(
        pl.lit(method).alias("method"), pl.lit(view).alias("view"), pl.lit(k, pl.Int32).alias("k"), pl.all()
    )


def _ks(user_metrics: Relation) -> list[int]:
    return sorted(k for (k,) in user_metrics.project("k").distinct().fetchall())


@asset(
    kinds={"numpy", "duckdb"},
    code_version="1",
    ins={**RECOMMENDATIONS, **_splits("users", "songs", "train", "validation", "test")},
    metadata=columns(
        method=METHOD,
        view=OFFICIAL_VIEW,
        k=K,
        uid=UID,
        dcg=("DOUBLE", "discounted gain of the list, 1 for a target"),
        ideal_dcg=("DOUBLE", "that of the best list, a target for each target event"),
        recall=("DOUBLE", "songs found over target events"),
    ),
)
def official_user_metrics(
    user_metrics: Relation, users: Relation, songs: Relation, train: Relation, validation: Relation, test: Relation,
    **recommendations: Relation,
) -> TableStream:  # fmt: skip
    """One row per method, official view, K and user with a target; none unless the division is global_temporal."""
    ks, n_songs = _ks(user_metrics), len(songs)
    wanted = protocols.is_global(protocols.spans_of(train=train, validation=validation, test=test))
    targets = {view: official.target_events(test, train, view) for view in official.VIEWS if wanted}

    def tables() -> Iterator[pa.Table]:
        yield official.SCHEMA.to_frame().to_arrow()
        for some in users_of(users):
            by_view = {view: some.targets(events, n_songs) for view, events in targets.items()}
            for method, recommended in recommendations.items() if wanted else ():
                matrix = some.lists(recommended, max(ks))["all"]
                for view, k in product(by_view, ks):
                    yield _keyed(official.user_metrics(matrix, by_view[view], some.uid, k), method, view, k).to_arrow()

    return TableStream(tables())


@asset(
    kinds={"numpy", "polars"},
    code_version="1",
    ins={**RECOMMENDATIONS, **_splits("users", "songs", "train", "test", "ground_truth")},
    metadata=columns(
        method=METHOD,
        view=VIEW,
        k=K,
        slice=("VARCHAR", "what is cut: history length, song, popularity, event"),
        value=("VARCHAR", "the part: a quarter of the users; warm, cold; head, tail; organic, recommended"),
        metric=("VARCHAR", "ndcg, recall or hit, of the targets in the slice alone"),
        mean=("DOUBLE", "mean over the users with a target in the slice"),
        **INTERVAL,
        n_users=("BIGINT", "users with a target in the slice"),
    ),
)
def slices(
    user_metrics: Relation, users: Relation, songs: Relation, train: Relation, test: Relation, ground_truth: Relation,
    **recommendations: Relation,
) -> pl.DataFrame:  # fmt: skip
    """Who and what each method is good for: by length of history, warm or cold, head or tail, source of the event."""
    ks, catalogue = _ks(user_metrics), songs_of(songs)
    everybody, is_head = users_of(users), slicing.head(catalogue)
    tested = ground_truth.filter("split = 'test'").project("user_id").distinct()
    tested_id = np.sort(tested.to_arrow_table()["user_id"].to_numpy())
    n_events = np.concatenate([some.n_train_events(train) for some in everybody])
    lengths, sums = slicing.HistoryLengths.of(n_events[tested_id]), slicing.Sums(len(tested_id))
    for some in everybody:
        truth = some.truth(ground_truth, train, catalogue)
        theirs = n_events[some.first : some.first + len(some.uid)]
        parts = slicing.slices(truth, catalogue, is_head, lengths, theirs, *some.driven(test, truth.pairs))
        targets = {
            view: slicing.targets_of(judged, parts)
            for view, judged in zip(VIEWS, (truth, truth.discovery()), strict=True)
        }
        first = int(np.searchsorted(tested_id, some.first))
        for method, recommended in recommendations.items():
            for view, matrix in some.lists(recommended, max(ks)).items():
                lists = Lists(matrix, truth, catalogue)
                for k in ks:
                    sums.add((method, view, k), slicing.metrics_of(lists, targets[view], k), first)
    return sums.table(list(parts))


@asset(
    kinds={"numpy"},
    code_version="1",
    ins={**RECOMMENDATIONS, **_splits("users", "songs", "train", "validation", "test")},
    metadata=columns(
        method=METHOD,
        view=BOARD_VIEW,
        k=K,
        **{name: ("DOUBLE", text) for name, text in exposures.METRICS.items()},
    ),
)
def exposure(
    user_metrics: Relation, users: Relation, songs: Relation, train: Relation, validation: Relation, test: Relation,
    **recommendations: Relation,
) -> pl.DataFrame:  # fmt: skip
    """One row per method, view and K: which songs are shown at all, and how unevenly."""
    ks, catalogue, everybody = _ks(user_metrics), songs_of(songs), users_of(users)
    is_head, cold = slicing.head(catalogue), catalogue.cold[:-1]
    is_global = protocols.is_global(protocols.spans_of(train=train, validation=validation, test=test))
    trained = [some.n_train_events(train) > 0 for some in everybody]
    rows = []
    for method, recommended in recommendations.items():
        times = {key: np.zeros(len(catalogue), np.int64) for key in product((*VIEWS, "official"), ks)}
        for some, has_train in zip(everybody, trained, strict=True):
            matrices = some.lists(recommended, max(ks))
            matrices["official"] = matrices["all"][has_train]
            for view, k in times:
                times[view, k] += exposures.times_shown(matrices[view][:, :k], len(catalogue))
        for (view, k), shown in times.items():
            if view in VIEWS:
                rows.append({"method": method, "view": view, "k": k, **exposures.exposure(shown, is_head, cold)})
            elif is_global:
                coverage = np.count_nonzero(shown) / np.count_nonzero(~cold)
                rows += [{"method": method, "view": name, "k": k, "coverage": coverage} for name in official.VIEWS]
    schema = {"method": pl.String, "view": pl.String, "k": pl.Int32, **dict.fromkeys(exposures.METRICS, pl.Float64)}
    return pl.DataFrame(rows, schema=schema)


def _panes(user_metrics: Relation, official_user_metrics: Relation) -> list[boards.Pane]:
    """A view and k at a time, so that no more than that is held."""
    return [
        boards.pane(table.filter(f"view = '{view}' AND k = {k}").pl(), metrics_of_view)
        for table, metrics_of_view in ((user_metrics, boards.MEANS), (official_user_metrics, boards.OFFICIAL))
        for view, k in sorted(table.project("view, k").distinct().fetchall())
    ]


@asset(
    kinds={"numpy", "polars"},
    code_version="1",
    metadata=columns(
        view=BOARD_VIEW,
        k=K,
        metric=("VARCHAR", "metric"),
        method=("VARCHAR", "the method that is compared with all others"),
        other=("VARCHAR", "the other method"),
        difference=("DOUBLE", "the method's mean minus the other's"),
        **INTERVAL,
        n_users=("BIGINT", "users for whom the metric is defined of both"),
    ),
)
def differences(user_metrics: Relation, official_user_metrics: Relation) -> pl.DataFrame:
    """LightGCN minus every other method, with paired intervals: a difference whose interval holds 0 may be chance."""
    return boards.differences(_panes(user_metrics, official_user_metrics))


@asset(
    kinds={"polars", "matplotlib"},
    code_version="2",
    ins={
        **_splits("users", "songs", "train", "validation", "test"),
        "statistics_report": dg.AssetIn(["raw", "statistics_report"]),
    },
    metadata=columns(
        method=METHOD,
        view=BOARD_VIEW,
        k=K,
        metric=("VARCHAR", "metric"),
        mean=("DOUBLE", "mean over the users for whom the metric is defined"),
        **INTERVAL,
        n_users=("BIGINT", "users for whom the metric is defined"),
    ),
)
def leaderboard(
    context: dg.AssetExecutionContext,
    user_metrics: Relation, official_user_metrics: Relation, exposure: Relation, differences: Relation,
    slices: Relation, users: Relation, songs: Relation, train: Relation, validation: Relation, test: Relation,
    statistics_report: Relation,
) -> dg.MaterializeResult[pl.DataFrame]:  # fmt: skip
    """Every method's mean of every metric, with intervals: which recommender is best, and at what."""
    board = boards.leaderboard(_panes(user_metrics, official_user_metrics), exposure.pl())
    spans = protocols.spans_of(train=train, validation=validation, test=test)
    protocol = protocols.Protocol.of(context.partition_key, spans, users, songs, statistics_report)
    drawn = charts.charts(board, slices.pl(), exposure.pl())
    return dg.MaterializeResult(
        value=board,
        metadata={
            "leaderboard": dg.MetadataValue.md(boards.to_markdown(board, differences.pl())),
            "protocol": protocol.name,
            "comparable_with_published": protocol.comparable,
            "published": dg.MetadataValue.md(protocol.verdict()),
            **{name: dg.MetadataValue.md(pictures.to_markdown(figure, name)) for name, figure in drawn.items()},
        },
    )


assets = [user_metrics, official_user_metrics, slices, exposure, differences, leaderboard]
