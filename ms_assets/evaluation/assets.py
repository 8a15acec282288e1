"""Room 6: metrics per user, and the leaderboard."""

import dagster as dg
import numpy as np
import polars as pl

from ms_assets import pictures
from ms_assets.evaluation import leaderboard as boards
from ms_assets.evaluation import metrics
from ms_assets.io_managers import Relation, columns
from ms_assets.ranking import Judgements
from ms_assets.retrieval.recommendations import VIEWS
from ms_assets.retrieval.recommenders import METHODS
from ms_assets.scales import config_schema, room, settings_of
from ms_assets.settings import EvaluationSettings

asset = room("evaluation")
RECOMMENDATIONS = {name: dg.AssetIn(["retrieval", name]) for name in METHODS}
SPLITS = {name: dg.AssetIn(["splits", name]) for name in ("users", "songs", "train", "ground_truth")}
METHOD = ("VARCHAR", "recommender")
VIEW = ("VARCHAR", "all; discovery: songs heard in train are neither candidates nor targets")
K = ("INTEGER", "length of the list")


@asset(
    kinds={"numpy", "polars"},
    code_version="1",
    config_schema=config_schema(EvaluationSettings),
    ins={**RECOMMENDATIONS, **SPLITS},
    metadata=columns(
        method=METHOD,
        view=VIEW,
        k=K,
        uid=("BIGINT", "Yambda's user id"),
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
) -> dg.MaterializeResult[pl.DataFrame]:
    """One row per method, view, K and user with events in the test part: how good the list was for them."""
    settings = settings_of(context, EvaluationSettings)
    uid = users.order("user_id").to_arrow_table()["uid"].to_numpy()
    heard = train.project("user_id, song_id").distinct().to_arrow_table()
    history = Judgements.of(
        heard["user_id"].to_numpy(), heard["song_id"].to_numpy(), np.ones(len(heard)), len(uid), len(songs)
    )
    truth = metrics.truth_of(ground_truth.pl(), uid, history)
    truths = {"all": truth, "discovery": truth.without_heard()}
    frames = []
    for method, table in recommendations.items():
        for view, matrix in _matrices(table, len(uid), max(settings.ks)).items():
            for k in settings.ks:
                frame = metrics.user_metrics(matrix[:, :k], truths[view], view)
                key = (
                    pl.lit(method).alias("method"),
                    pl.lit(view).alias("view"),
                    pl.lit(k, pl.Int32).alias("k"),
                )
                frames.append(frame.select(*key, pl.all()))
    return dg.MaterializeResult(
        value=pl.concat(frames), metadata={"n_users": len(truth.tested), **settings.model_dump()}
    )


def _matrices(recommended: Relation, n_users: int, k: int) -> dict[str, np.ndarray]:
    frame = recommended.project("view, user_id, rank, song_id").pl()
    return {view: metrics.recommendation_matrix(frame.filter(pl.col("view") == view), n_users, k) for view in VIEWS}


@asset(
    kinds={"polars", "matplotlib"},
    code_version="1",
    ins={**RECOMMENDATIONS, "users": SPLITS["users"], "songs": SPLITS["songs"]},
    metadata=columns(
        method=METHOD,
        view=VIEW,
        k=K,
        metric=("VARCHAR", "metric"),
        mean=("DOUBLE", "mean over the users for whom the metric is defined"),
        ci_low=("DOUBLE", "lower end of the 95 % bootstrap interval over users"),
        ci_high=("DOUBLE", "upper end of the interval"),
        n_users=("BIGINT", "users for whom the metric is defined"),
    ),
)
def leaderboard(
    user_metrics: Relation, users: Relation, songs: Relation, **recommendations: Relation
) -> dg.MaterializeResult[pl.DataFrame]:
    """Every method's mean of every metric, with intervals: which recommender is best, and at what."""
    n_graph_songs = len(songs.filter("in_graph"))
    per_user = user_metrics.pl()
    covered = [
        (method, view, k, metrics.coverage(matrix[:, :k], n_graph_songs))
        for method, table in recommendations.items()
        for view, matrix in _matrices(table, len(users), per_user["k"].max()).items()
        for k in per_user["k"].unique().sort()
    ]
    coverage = pl.DataFrame(covered, schema=[*boards.KEYS, "mean"], orient="row").cast({"k": pl.Int32})
    board = boards.leaderboard(per_user, coverage)
    return dg.MaterializeResult(
        value=board,
        metadata={
            "leaderboard": dg.MetadataValue.md(boards.to_markdown(board)),
            "ndcg_by_method": dg.MetadataValue.md(pictures.to_markdown(boards.picture(board), "NDCG by method")),
        },
    )


assets = [user_metrics, leaderboard]
