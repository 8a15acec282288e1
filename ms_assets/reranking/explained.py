"""Explanations of a ranker: pictures of what its features weigh, and what each source adds, by leaving it out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import pictures
from ms_assets.certainty import of_means
from ms_assets.reranking.phases import OF_LIGHTGCN
from ms_assets.reranking.ranker import JUDGED_AT, SEED, Material, Ranker, learn
from ms_assets.retrieval.recommender import VIEWS
from ms_assets.streams import Relation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 15
"""Number of features in a picture."""
EXPLAINED = 1_000
"""Number of candidates whose SHAP values are computed."""
POOL = pl.Schema(
    {
        **dict.fromkeys(("view", "source"), pl.String),
        **dict.fromkeys(("n_candidates", "recall", "recall_alone"), pl.Float64),
    }
)
ABLATION = pl.Schema(
    {
        **dict.fromkeys(("view", "left_out"), pl.String),
        "k": pl.Int32,
        **dict.fromkeys(("ndcg", "difference", "ci_low", "ci_high"), pl.Float64),
        "n_users": pl.Int64,
    }
)


def pool(features: Relation) -> pl.DataFrame:
    """Candidates and recall of each source, and of the whole pool (`all`), in each view: the columns of POOL.

    features: material, as `passes.material` makes it.
    """
    sources = [name.removesuffix("_rank") for name in features.columns if name.endswith("_rank")]
    listed = {"all": "true"} | {source: f"{source}_rank IS NOT NULL" for source in sources}
    found = []
    for view in VIEWS:
        rows = features.filter(f"view = '{view}'")
        users = rows.aggregate("user_id, any_value(n_targets) AS n_targets", "user_id")
        n_users, n_targets = users.aggregate(
            "greatest(count(*), 1), greatest(coalesce(sum(n_targets), 0), 1)"
        ).fetchall()[0]
        for source, flag in listed.items():
            alone = "true" if source == "all" else "n_sources = 1"
            counts = rows.filter(flag).aggregate(
                f"count(*) / {n_users}, count(*) FILTER (relevance > 0) / {n_targets}, "
                f"count(*) FILTER (relevance > 0 AND {alone}) / {n_targets}"
            )
            found.append((view, source, *counts.fetchall()[0]))
    return pl.DataFrame(found, POOL, orient="row")


def charts(ranker: Ranker, materials: Mapping[str, Material]) -> dict[str, "Figure"]:
    """Pictures by title, two for each view that has models: gains of the features, and their SHAP values."""
    drawn = {}
    for view, models in ranker.models.items():
        gains = np.mean([model.feature_importance("gain") for model in models], axis=0)
        drawn[f"importance in {view}"] = _importances(ranker.names, gains / max(gains.sum(), 1e-9))
        rows = np.random.default_rng(SEED).permutation(len(materials[view].user))[:EXPLAINED]
        features = materials[view].features[rows]
        drawn[f"SHAP values in {view}"] = _swarm(ranker.names, features, ranker.contributions(view, features))
    return drawn


def _importances(names: Sequence[str], shares: NDArray[np.float64]) -> "Figure":
    picture = pictures.figure(8, 5)
    axes, best = picture.subplots(), np.argsort(-shares, kind="stable")[:SHOWN][::-1]
    axes.barh([names[n] for n in best], shares[best], color=pictures.PALETTE[0])
    axes.set_xlabel("share of the gain of all splits")
    return picture


def _swarm(names: Sequence[str], features: NDArray[np.float32], contributions: NDArray[np.float64]) -> "Figure":
    picture = pictures.figure(8, 5)
    axes, jitter = picture.subplots(), np.random.default_rng(SEED).uniform(-0.3, 0.3, len(features))
    best = np.argsort(-np.abs(contributions).mean(axis=0), kind="stable")[:SHOWN][::-1]
    for row, n in enumerate(best):
        known = ~np.isnan(features[:, n])
        place = np.argsort(np.argsort(features[:, n][known])) / max(known.sum() - 1, 1)
        axes.scatter(contributions[~known, n], row + jitter[~known], s=3, color=pictures.PALETTE[4])
        dots = axes.scatter(contributions[known, n], row + jitter[known], s=3, c=place, cmap="coolwarm", vmin=0, vmax=1)
    axes.set_yticks(range(len(best)), [names[n] for n in best])
    axes.set_xlabel("SHAP value: what the feature adds to a candidate's score (grey: unknown)")
    picture.colorbar(dots, label="value of the feature, from the least to the largest")
    return picture


def ablation(view: str, material: Material, ranker: Ranker) -> pl.DataFrame:
    """Rankers that learn without a source, against the whole one, on users held out: the columns of ABLATION.

    Without a source there are neither its features nor the candidates that it lists alone. `lightgcn` takes its blend
    and its embeddings with it. `difference` is what the source adds, with the interval of the mean of paired
    differences.
    """
    whole = material.ndcg(ranker.held_out(view, material))
    unknown = [pl.lit(None).alias(name) for name in ("difference", "ci_low", "ci_high")]
    parts = [_compared(view, "nothing", whole, whole).with_columns(unknown)]
    for source in material.listed():
        kept = without(material, source)
        if (learned := learn(kept)) is None:
            continue
        scores = Ranker({view: learned.models}, kept.names, {view: learned.start}).held_out(view, kept)
        both = np.isin(np.unique(material.user), np.unique(kept.user))
        parts.append(_compared(view, source, kept.ndcg(scores), whole[both]))
    return pl.concat(part.cast(ABLATION) for part in parts)


def without(material: Material, source: str) -> Material:
    """Material without the features of a source, and without the candidates that it lists alone."""
    group = OF_LIGHTGCN if source == "lightgcn" else (source,)
    listed = material.listed()
    others = np.any([flags for name, flags in listed.items() if name not in group], axis=0)
    alone = np.any([listed[name] for name in group if name in listed], axis=0) & ~others
    names = [f"{name}_{what}" for name in group for what in ("rank", "score")]
    if source == "lightgcn":
        names += ["lightgcn_affinity", "lightgcn_nearness"]
    return material.of(~alone).without(*names, "n_sources")


def _compared(view: str, left_out: str, found: NDArray[np.float64], whole: NDArray[np.float64]) -> pl.DataFrame:
    """Mean NDCG without a source, and what the whole ranker has more for the same users; both [n_users, 2]."""
    known = ~np.isnan(found).any(axis=1)
    _, low, high = of_means((whole - found)[known])
    means = found[known].mean(axis=0)
    return pl.DataFrame(
        {"view": view, "left_out": left_out, "k": JUDGED_AT, "ndcg": means,
         "difference": whole[known].mean(axis=0) - means, "ci_low": low, "ci_high": high, "n_users": known.sum()}
    )  # fmt: skip


def surely_better(others: Mapping[str, NDArray[np.float64]], found: NDArray[np.float64]) -> list[str]:
    """Names of the others with a mean NDCG whose paired interval lies above that of `found`; [n_users] each."""
    differences = np.column_stack([ndcg - found for ndcg in others.values()])
    _, low, _ = of_means(differences[~np.isnan(found)])
    return [name for name, least in zip(others, low, strict=True) if least > 0]


def ablation_chart(found: pl.DataFrame) -> "Figure":
    """Picture of what each source adds to NDCG@10, with its interval, one panel for each view."""
    picture = pictures.figure(10, 5)
    views = found["view"].unique(maintain_order=True).to_list()
    for axes, view in zip(picture.subplots(1, max(len(views), 1), squeeze=False)[0], views, strict=False):
        rows = found.filter(view=view, k=JUDGED_AT[0]).drop_nulls("difference").sort("difference")
        spread = (rows["ci_high"] - rows["difference"]).to_numpy()
        axes.barh(rows["left_out"].to_list(), rows["difference"].to_numpy(), xerr=spread, color=pictures.PALETTE[2])
        axes.axvline(0, color=pictures.PALETTE[4], linewidth=1)
        axes.set_title(f"NDCG@{JUDGED_AT[0]} lost without it, {view}")
    return picture
