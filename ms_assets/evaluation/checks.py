"""What must hold of the leaderboard."""

import dagster as dg

from ms_assets.io_managers import Relation
from ms_assets.retrieval.recommenders import BASELINES

RANGES = {"popularity_lift": "-1 AND 1e300"}
"""Of metrics that are no share, chance or normalised gain."""


@dg.asset_check(asset=["evaluation", "user_metrics"], blocking=True)
def metrics_lie_within_their_range(user_metrics: Relation) -> dg.AssetCheckResult:
    """Every metric of every user is a share, a chance or a normalised gain; popularity lift is at least −1."""
    numbers = [c for c in user_metrics.columns if c not in ("method", "view", "k", "uid")]
    outside = ", ".join(
        f'count(*) FILTER ("{c}" NOT BETWEEN {RANGES.get(c, "0 AND 1 + 1e-9")} OR isnan("{c}"))' for c in numbers
    )
    found = dict(zip(numbers, user_metrics.aggregate(outside).fetchall()[0], strict=True))
    return dg.AssetCheckResult(passed=len(user_metrics) > 0 and not any(found.values()), metadata={"n_outside": found})


@dg.asset_check(asset=["evaluation", "leaderboard"])
def lightgcn_beats_the_baselines(leaderboard: Relation) -> dg.AssetCheckResult:
    """A trained model that finds new songs no better than a baseline is not worth its training."""
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


checks = [metrics_lie_within_their_range, lightgcn_beats_the_baselines]
