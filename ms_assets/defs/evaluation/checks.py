"""Checks of metrics, leaderboard and champion."""

import dagster as dg

from ms_assets.defs.platform import lineage
from ms_assets.defs.platform.checks import asset_check
from ms_assets.defs.platform.io_managers import TableIOManager
from ms_assets.defs.platform.resources import MLflow
from ms_assets.defs.platform.scales import assets_of, scale_of
from ms_assets.evaluation import champion as champions
from ms_assets.evaluation import chance
from ms_assets.evaluation import leaderboard as boards
from ms_assets.evaluation.metrics import RANGES
from ms_assets.raw.own import with_own_ids
from ms_assets.retrieval.methods import BASELINES, OURS
from ms_assets.streams import Relation


@asset_check(asset=["evaluation", "user_metrics"], blocking=True)
def metrics_lie_within_their_range(user_metrics: Relation) -> dg.AssetCheckResult:
    """Metrics of every user lie within 0 and 1, as shares, probabilities and normalised gains; popularity lift ≥ −1."""
    numbers = [c for c in user_metrics.columns if c not in ("method", "view", "k", "uid")]
    outside = ", ".join(
        f'count(*) FILTER ("{c}" NOT BETWEEN {RANGES.get(c, "0 AND 1 + 1e-9")} OR isnan("{c}"))' for c in numbers
    )
    found = dict(zip(numbers, user_metrics.aggregate(outside).fetchall()[0], strict=True))
    return dg.AssetCheckResult(passed=len(user_metrics) > 0 and not any(found.values()), metadata={"n_outside": found})


@asset_check(
    asset=["evaluation", "user_metrics"],
    additional_ins=assets_of("splits", "songs", "train", "ground_truth"),
    blocking=True,
)
def methods_beat_chance(
    user_metrics: Relation, songs: Relation, train: Relation, ground_truth: Relation
) -> dg.AssetCheckResult:
    """Methods recommend better than `random`, where there are users enough to tell and something to learn.

    A method at chance level was made from other data than the test events, or has learned nothing: an error; but a
    warning for `content_based` alone, since audio may say nothing of who listens, and for lists of other programs.
    """
    ours = f"method IN {OURS}"
    fault = chance.fault(user_metrics.filter(ours), train, ground_truth, len(songs))
    if fault is None and len(user_metrics.filter(f"NOT {ours}").limit(1)):
        fault = chance.fault(user_metrics, train, ground_truth, len(songs))
        fault = fault and fault._replace(of_data=True)
    severity = dg.AssetCheckSeverity.WARN if fault and fault.of_data else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(passed=fault is None, description=fault and fault.said, severity=severity)


@asset_check(asset=["evaluation", "leaderboard"])
def lightgcn_beats_the_baselines(leaderboard: Relation) -> dg.AssetCheckResult:
    """LightGCN has a higher NDCG in `discovery` than every baseline; otherwise it is not worth its training."""
    rows = leaderboard.filter("view = 'discovery' AND metric = 'ndcg' AND mean IS NOT NULL").order("k")
    best: dict[int, dict[str, float]] = {}
    for method, k, mean in rows.project("method, k, mean").fetchall():
        best.setdefault(k, {})[method] = mean
    lost = {
        k: [name for name in BASELINES if name in means and means[name] >= means.get("lightgcn", 0.0)]
        for k, means in best.items()
    }
    return dg.AssetCheckResult(
        passed=bool(lost) and not any(lost.values()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={f"not_beaten_at_{k}": ", ".join(names) or "none" for k, names in lost.items()},
    )


@asset_check(asset=["evaluation", "leaderboard"])
def lightgcn_is_as_good_as_before(
    context: dg.AssetCheckExecutionContext, io_manager: dg.ResourceParam[TableIOManager]
) -> dg.AssetCheckResult:
    """LightGCN's NDCG has not fallen below its interval on the leaderboard before, if the protocol is the same."""
    key = dg.AssetKey(["evaluation", "leaderboard"])
    return fallen(*io_manager.lineage.history(key, scale_of(context))[:2])


def fallen(now: lineage.Made, before: lineage.Made | None = None) -> dg.AssetCheckResult:
    """Compare LightGCN's NDCG on two leaderboards, by their metadata."""
    ndcg, former = (board.metadata.get(boards.NDCG_OF_LIGHTGCN, {}) if board else {} for board in (now, before))
    comparable = former and before and before.metadata["protocol"] == now.metadata.get("protocol")
    lower = {
        name: f"{ndcg[name][0]:.4f}, before {mean:.4f} ({low:.4f} to {high:.4f})"
        for name, (mean, low, high) in former.items()
        if comparable and name in ndcg and ndcg[name][0] < low
    }
    return dg.AssetCheckResult(
        passed=not lower,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"compared": f"with run {before.run_id}" if comparable and before else "with none", **lower},
    )


@asset_check(asset=["evaluation", "champion"])
def challenger_is_not_worse(champion: Relation) -> dg.AssetCheckResult:
    """Challenger is not surely worse than the champion; if it is, it does not serve, and somebody should ask why."""
    [(reason, low, high)] = champion.project("reason, ci_low, ci_high").fetchall()
    return dg.AssetCheckResult(
        passed=high is None or high >= 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=reason,
        metadata={} if high is None else {"ci_low": low, "ci_high": high},
    )


@asset_check(
    asset=["evaluation", "champion"],
    additional_ins=assets_of("splits", "users") | assets_of("raw", "user_ids"),
    blocking=True,
)
def champion_answers(champion: Relation, users: Relation, user_ids: Relation, mlflow: MLflow) -> dg.AssetCheckResult:
    """Champion loads as in a server, and recommends songs, best first, to a known user and to an unknown one."""
    [(name,)] = champion.project("name").fetchall()
    [(known,)] = with_own_ids(users, user_ids).aggregate("min(uid)").fetchall()
    problem = champions.fault(mlflow.registered(name), uid=known)
    return dg.AssetCheckResult(passed=problem is None, description=problem)
