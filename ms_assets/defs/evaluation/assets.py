"""Assets of room 7, evaluation: metrics per user, slices, leaderboard, report, and champion."""

from functools import partial
from itertools import chain
from typing import Any

import dagster as dg
import polars as pl

from ms_assets import pictures
from ms_assets.certainty import CONFIDENCE
from ms_assets.defs.platform import schemas, shown
from ms_assets.defs.platform.io_managers import TableIOManager
from ms_assets.defs.platform.lineage import Lineage
from ms_assets.defs.platform.resources import MLflow
from ms_assets.defs.platform.scales import FRESHNESS, assets_of, config_schema, room, settings_of
from ms_assets.evaluation import champion as champions
from ms_assets.evaluation import charts, metrics, official, passes
from ms_assets.evaluation import exposure as exposures
from ms_assets.evaluation import leaderboard as boards
from ms_assets.evaluation import protocol as protocols
from ms_assets.evaluation import report as reports
from ms_assets.evaluation.comparison import JUDGED_BY, Holdout
from ms_assets.raw.own import with_own_ids
from ms_assets.retrieval.methods import METHODS, RANKED
from ms_assets.retrieval.own_lists import of_methods
from ms_assets.settings import EvaluationSettings
from ms_assets.streams import Relation, TableStream

asset = room("evaluation")
OWN_LISTS = "own_lists"
columns = partial(
    schemas.columns,
    methods=",".join((*METHODS, OWN_LISTS)),
    metrics=",".join(metrics.METRICS),
    compared=",".join(exposures.COMPARED),
    confidence=f"{CONFIDENCE:.0%}",
    judged_by=JUDGED_BY,
)
RECOMMENDATIONS = assets_of("retrieval", *METHODS, OWN_LISTS) | assets_of("reranking", RANKED)
PARTS = assets_of("splits", "users", "songs", "train", "validation", "test")
TESTED = assets_of("splits", "users", "songs", "train", "ground_truth")
EVENTS = assets_of("raw", "multi_event")


@asset(
    kinds={"numpy", "polars"},
    code_version="2",
    config_schema=config_schema(EvaluationSettings),
    ins=RECOMMENDATIONS | TESTED,
    metadata=columns("evaluation/user_metrics", **metrics.METRICS),
)
def user_metrics(
    context: dg.AssetExecutionContext, users: Relation, songs: Relation, train: Relation, ground_truth: Relation,
    **recommendations: Relation,
) -> dg.MaterializeResult[TableStream]:  # fmt: skip
    """One row per method, view, K and user with events in the test part: all metrics of the user's list.

    The leaderboard holds the means; this table holds single users.
    """
    settings = settings_of(context, EvaluationSettings)
    rows = passes.user_metrics(_methods(recommendations), users, songs, train, ground_truth, settings.ks)
    n_tested = ground_truth.filter("split = 'test'").aggregate("count(DISTINCT user_id)").fetchall()[0][0]
    return dg.MaterializeResult(value=TableStream(rows), metadata={"n_users": n_tested, **settings.model_dump()})


def _methods(recommendations: passes.Methods) -> passes.Methods:
    """Lists by method: those made here, without the second stage's where it has no ranker, and other programs'."""
    methods: passes.Methods = {}
    for name, lists in recommendations.items():
        if name == OWN_LISTS:
            methods |= of_methods(lists)
        elif name != RANKED or len(lists.limit(1)):
            methods[name] = lists
    return methods


def _ks(user_metrics: Relation) -> list[int]:
    return sorted(k for (k,) in user_metrics.project("k").distinct().fetchall())


@asset(
    kinds={"numpy", "duckdb"},
    code_version="1",
    ins=RECOMMENDATIONS | PARTS,
    metadata=columns("evaluation/official_user_metrics"),
)
def official_user_metrics(
    user_metrics: Relation, users: Relation, songs: Relation, train: Relation, validation: Relation, test: Relation,
    **recommendations: Relation,
) -> TableStream:  # fmt: skip
    """One row per method, official view, K and user with a target: metrics by the arithmetic of Yambda's authors.

    Comparable with their table; empty unless the protocol is global_temporal.
    """
    wanted = protocols.is_global(protocols.spans_of(train=train, validation=validation, test=test))
    given = (_methods(recommendations), users, songs, train, test, _ks(user_metrics))
    rows = passes.official_user_metrics(*given) if wanted else ()
    return TableStream(chain([official.SCHEMA.to_frame().to_arrow()], rows))


@asset(
    kinds={"numpy", "polars"},
    code_version="1",
    ins=RECOMMENDATIONS | TESTED | assets_of("splits", "test"),
    metadata=columns("evaluation/slices"),
)
def slices(
    user_metrics: Relation, users: Relation, songs: Relation, train: Relation, test: Relation, ground_truth: Relation,
    **recommendations: Relation,
) -> pl.DataFrame:  # fmt: skip
    """One row per method, view, K, slice and metric: by history length, warm or cold, head or tail, source of event."""
    return passes.slices(_methods(recommendations), users, songs, train, test, ground_truth, _ks(user_metrics))


@asset(kinds={"numpy"}, code_version="1", ins=RECOMMENDATIONS | TESTED, metadata=columns("evaluation/recall_curve"))
def recall_curve(
    user_metrics: Relation, users: Relation, songs: Relation, train: Relation, ground_truth: Relation,
    **recommendations: Relation,
) -> pl.DataFrame:  # fmt: skip
    """One row per method, view and length of the list: mean recall at that length."""
    longest = _ks(user_metrics)[-1]
    return passes.recall_curve(_methods(recommendations), users, songs, train, ground_truth, longest)


@asset(
    kinds={"numpy"},
    code_version="1",
    ins=RECOMMENDATIONS | PARTS,
    metadata=columns("evaluation/exposure", **exposures.METRICS),
)
def exposure(
    user_metrics: Relation, users: Relation, songs: Relation, train: Relation, validation: Relation, test: Relation,
    **recommendations: Relation,
) -> pl.DataFrame:  # fmt: skip
    """One row per method, view and K: coverage of the catalogue, and how unevenly songs are recommended.

    A recommender may be good on average and recommend the same few songs to all users.
    """
    is_global = protocols.is_global(protocols.spans_of(train=train, validation=validation, test=test))
    return passes.exposure(_methods(recommendations), users, songs, train, is_global, _ks(user_metrics))


def _panes(user_metrics: Relation, official_user_metrics: Relation) -> list[boards.Pane]:
    return [*boards.panes(user_metrics), *boards.panes(official_user_metrics, boards.OFFICIAL)]


@asset(kinds={"numpy", "polars"}, code_version="2", metadata=columns("evaluation/differences"))
def differences(user_metrics: Relation, official_user_metrics: Relation) -> pl.DataFrame:
    """One row per view, K, metric and two methods: the difference of LightGCN, or of `ranked`, from every other one.

    Intervals are paired. A difference whose interval holds 0 may be chance.
    """
    return boards.differences(_panes(user_metrics, official_user_metrics))


@asset(
    kinds={"polars", "matplotlib"},
    freshness_policy=FRESHNESS,
    code_version="2",
    ins=PARTS | EVENTS,
    metadata=columns("evaluation/leaderboard"),
)
def leaderboard(
    context: dg.AssetExecutionContext,
    user_metrics: Relation, official_user_metrics: Relation, exposure: Relation, differences: Relation,
    recall_curve: Relation, slices: Relation, users: Relation, songs: Relation, train: Relation,
    validation: Relation, test: Relation, multi_event: Relation,
) -> dg.MaterializeResult[pl.DataFrame]:  # fmt: skip
    """One row per method, view, K and metric: the mean over users with its interval, to compare recommenders.

    The asset to open first. View `all` counts every song of the test part, `discovery` only those new to the user.
    """
    board = boards.leaderboard(_panes(user_metrics, official_user_metrics), exposure.pl())
    spans = protocols.spans_of(train=train, validation=validation, test=test)
    protocol = protocols.Protocol.of(context.partition_key, spans, users, songs, multi_event)
    drawn = charts.charts(board, recall_curve.pl(), slices.pl(), exposure.pl())
    return dg.MaterializeResult(
        value=board,
        metadata={
            "leaderboard": dg.MetadataValue.md(boards.to_markdown(board, differences.pl())),
            "protocol": protocol.name,
            "comparable_with_published": protocol.comparable,
            boards.NDCG_OF_LIGHTGCN: dg.MetadataValue.json(boards.ndcg_of_lightgcn(board)),
            "published": dg.MetadataValue.md(protocol.verdict()),
            **shown.images({title: pictures.png(figure) for title, figure in drawn.items()}),
        },
    )


@asset(kinds={"duckdb"}, code_version="1", io_manager_key="json_files")
def user_metrics_json(user_metrics: Relation) -> Relation:
    """Metrics of every user as JSON: a list of objects with method, view, k, uid and a member for each metric."""
    return user_metrics


@asset(
    kinds={"matplotlib"},
    code_version="1",
    io_manager_key="folders",
    ins=PARTS | EVENTS | assets_of("training", "lightgcn"),
)
def report(
    context: dg.AssetExecutionContext,
    leaderboard: Relation, differences: Relation, recall_curve: Relation, slices: Relation, exposure: Relation,
    users: Relation, songs: Relation, train: Relation, validation: Relation, test: Relation,
    multi_event: Relation, lightgcn: Any, io_manager: dg.ResourceParam[TableIOManager],
) -> dg.MaterializeResult:  # fmt: skip
    """Report for people to send: data, protocol, results, pictures and provenance, in Markdown and in one HTML file."""
    parts = {"train": train, "validation": validation, "test": test}
    board, cut = leaderboard.pl(), slices.pl()
    found = reports.Findings(
        protocol=protocols.Protocol.of(context.partition_key, protocols.spans_of(**parts), users, songs, multi_event),
        n_events={name: len(part) for name, part in parts.items()},
        n_cold_songs=len(songs.filter("NOT in_graph")),
        board=board,
        compared=differences.pl(),
        slices=cut,
        settings=lightgcn.settings.model_dump(),
        provenance=[
            *reports.software(),
            ("MLflow run", lightgcn.mlflow_run_id),
            *_made_by(context, io_manager.lineage),
        ],
        charts=charts.charts(board, recall_curve.pl(), cut, exposure.pl()),
    )
    files = reports.files(found)
    return dg.MaterializeResult(
        value=files, metadata={"report": dg.MetadataValue.md(files["report.md"].decode().split("## Pictures")[0])}
    )


def _made_by(context: dg.AssetExecutionContext, lineage: Lineage) -> list[tuple[str, str]]:
    """Provenance of each table behind the figures: its version, the run that made it, the time, and its metadata."""
    rows = []
    methods = [source.key for source in RECOMMENDATIONS.values() if source.key]
    for key in (*methods, *context.assets_def.keys_by_input_name.values()):
        for made in lineage.history(key, context.partition_key)[:1]:
            said = ", ".join(
                f"{name} {value}"
                for name, value in made.metadata.items()
                if isinstance(value, str | int | float) and len(str(value)) < 80 and "/" not in name
            )
            origin = f"version {made.version[:12]}, run {made.run_id} at {made.at[:16]} UTC"
            rows.append((key.to_user_string(), f"{origin}; {said}"))
    return rows


@asset(
    kinds={"numpy", "mlflow"},
    code_version="2",
    ins=TESTED | assets_of("reranking", "served_model") | assets_of("raw", "user_ids", "song_ids"),
    metadata=columns("evaluation/champion"),
)
def champion(
    context: dg.AssetExecutionContext,
    served_model: Relation, leaderboard: Relation, users: Relation, songs: Relation, train: Relation,
    ground_truth: Relation, user_ids: Relation, song_ids: Relation, mlflow: MLflow,
) -> dg.MaterializeResult[pl.DataFrame]:  # fmt: skip
    """One row, the decision which registered model serves: the new one if surely better, or if there is no champion.

    The alias `champion` names it in MLflow. `docs/operations.md` describes how to promote another, or roll back.
    """
    registry = mlflow.registry(context.partition_key)
    challenger = registry.version(served_model.project("version").fetchall()[0][0])
    registry.log_metrics(challenger, champions.metrics_of(leaderboard.pl()))
    users, songs = with_own_ids(users, user_ids), with_own_ids(songs, song_ids)
    decision = champions.decide(registry, challenger.number, Holdout.of(users, songs, train, ground_truth))
    return dg.MaterializeResult(
        value=pl.DataFrame([decision], champions.SCHEMA),
        metadata={
            **{name: value for name, value in decision.items() if value is not None},
            "metric": JUDGED_BY,
            "registered_model": dg.MetadataValue.url(mlflow.version_url(registry, challenger.number)),
        },
    )
