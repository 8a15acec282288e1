"""Explanations of a ranker: pictures of what its features weigh, and what each source adds, by leaving it out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import pictures
from ms_assets.reranking.phases import OF_LIGHTGCN
from ms_assets.reranking.ranker import JUDGED_AT, SEED, Material, Ranker, learn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 15
"""Number of features in a picture."""
EXPLAINED = 1_000
"""Number of candidates whose SHAP values are computed."""
ABLATION = pl.Schema(
    {
        **dict.fromkeys(("view", "left_out"), pl.String),
        "k": pl.Int32,
        **dict.fromkeys(("ndcg", "difference", "ci_low", "ci_high"), pl.Float64),
        "n_users": pl.Int64,
    }
)


def pool(view: str, material: Material) -> pl.DataFrame:
    """Candidates and recall of each source, and of the whole pool (`all`).

    Columns: view, source, n_candidates, recall, recall_alone.
    """
    listed = material.listed()
    n_lists, relevant = np.sum(list(listed.values()), axis=0), material.relevance > 0
    n_users, n_targets = len(material.starts), max(int(material.n_targets[material.starts].sum()), 1)
    rows = [(view, "all", len(relevant) / max(n_users, 1), relevant.sum() / n_targets, relevant.sum() / n_targets)]
    for source, flags in listed.items():
        alone = (flags & relevant & (n_lists == 1)).sum()
        rows.append(
            (view, source, flags.sum() / max(n_users, 1), (flags & relevant).sum() / n_targets, alone / n_targets)
        )
    schema = {"view": pl.String, "source": pl.String, "n_candidates": pl.Float64, "recall": pl.Float64,
              "recall_alone": pl.Float64}  # fmt: skip
    return pl.DataFrame([tuple(map(_plain, row)) for row in rows], schema, orient="row")


def _plain(value: object) -> object:
    return value if isinstance(value, str) else float(value)  # type: ignore[arg-type]


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
    rows = [(view, "nothing", k, *_estimate(whole[:, n])) for n, k in enumerate(JUDGED_AT)]
    for source in material.listed():
        kept = without(material, source)
        if (learned := learn(kept)) is None:
            continue
        scores = Ranker({view: learned.models}, kept.names, {view: learned.start}).held_out(view, kept)
        found = kept.ndcg(scores)
        both = np.isin(np.unique(material.user), np.unique(kept.user))
        for n, k in enumerate(JUDGED_AT):
            rows.append((view, source, k, *_estimate(found[:, n], whole[both, n])))
    return pl.DataFrame(rows, ABLATION, orient="row")


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


def _estimate(found: NDArray[np.float64], whole: NDArray[np.float64] | None = None) -> tuple[float | int | None, ...]:
    """Mean NDCG, and, given that of the whole ranker, the mean of what it has more, its interval and the users."""
    known = ~np.isnan(found)
    mean, n = float(found[known].mean()), int(known.sum())
    if whole is None:
        return mean, None, None, None, n
    differences = (whole - found)[known]
    return mean, float(differences.mean()), *_interval(differences), n


def _interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Interval of the mean of paired differences: 1.96 standard errors on either side."""
    mean, error = differences.mean(), differences.std() / np.sqrt(max(len(differences), 1))
    return float(mean - 1.96 * error), float(mean + 1.96 * error)


def surely_less(found: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Tell whether the mean over users is less than another's, their interval of differences below 0."""
    known = ~np.isnan(found) & ~np.isnan(other)
    return bool(known.any()) and _interval(found[known] - other[known])[1] < 0


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
