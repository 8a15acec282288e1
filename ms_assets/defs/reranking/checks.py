"""Checks of the candidates, of what their features know, and of the ranker."""

from typing import Any

import dagster as dg
import numpy as np

from ms_assets.defs.platform.checks import asset_check
from ms_assets.defs.platform.scales import assets_of
from ms_assets.defs.reranking.assets import KNOWN
from ms_assets.reranking import passes
from ms_assets.reranking.explained import surely_better
from ms_assets.reranking.features import FEATURES
from ms_assets.reranking.leaks import leaking
from ms_assets.reranking.phases import Stored
from ms_assets.reranking.ranker import JUDGED_AT, Ranker
from ms_assets.streams import Relation

CHECKED_USERS = 100
"""Number of users whose features are computed anew."""


@asset_check(
    asset=["reranking", "features"],
    additional_ins=KNOWN | assets_of("splits", "ground_truth"),
    blocking=True,
)
def features_know_only_the_past(
    features: Relation, users: Relation, songs: Relation, train: Relation, negatives: Relation, bipartite_graph: Any,
    queries: Relation, song_embeddings: Relation, cold_songs: Relation, ground_truth: Relation,
) -> dg.AssetCheckResult:  # fmt: skip
    """Features equal those that are computed anew from tables that hold no event of validation or test."""
    audio = bipartite_graph["song"].x.numpy()
    given = Stored(users, songs, train, negatives, queries, song_embeddings, cold_songs, audio, {})
    drawn = passes.learners(ground_truth)[:CHECKED_USERS]
    found = leaking(features, given.known_before_validation(), drawn)
    return dg.AssetCheckResult(
        passed=not found,
        description=f"features that do not follow from the train part alone: {', '.join(found)}; compute them from "
        "the past of their phase, and materialise reranking/features again" if found else None,
        metadata={"n_users": len(drawn), "n_features": len(FEATURES)},
    )  # fmt: skip


@asset_check(asset=["reranking", "ranker"], additional_ins=assets_of("reranking", "features"))
def ranker_is_worth_its_while(ranker: dict[str, bytes], features: Relation) -> dg.AssetCheckResult:
    """Songs that the ranker puts higher are worth more, and no source alone is surely better, by users held out."""
    model, materials, said = Ranker.of_files(ranker), passes.read(features), {}
    for view in model.models:
        material = materials[view]
        scores = model.held_out(view, material)
        order = np.lexsort((-scores, material.user))
        place = np.arange(len(order)) - np.repeat(material.starts, np.diff(material.starts, append=len(order)))
        half = np.median(place)
        first, last = (float(material.relevance[order][places].mean()) for places in (place < half, place >= half))
        if first < last:
            said[f"{view}: mean relevance"] = f"{first:.4f} in the first half of the places, {last:.4f} in the second"
        alone = {source: ndcg[:, 0] for source, ndcg in material.by_source().items()}
        if better := surely_better(alone, material.ndcg(scores)[:, 0]):
            said[f"{view}: not as good as"] = ", ".join(better)
    return dg.AssetCheckResult(
        passed=not said,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"judged_at": JUDGED_AT[0], "n_views": len(model.models), **said},
    )
