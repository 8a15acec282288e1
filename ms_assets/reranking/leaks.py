"""Leaks: features that know something of the events that they are to predict, found by computing them anew."""

import numpy as np
from numpy.typing import NDArray

from ms_assets.interactions import Interactions
from ms_assets.reranking.features import FEATURES, Facts, Knowledge, finite
from ms_assets.reranking.past import ranges
from ms_assets.retrieval.recommender import VIEWS
from ms_assets.streams import Relation

TOLERANCE = 1e-4
"""Difference, relative to the value, that products of vectors may have on another processor."""


def leaking(stored: Relation, known: Knowledge, users: NDArray[np.int64]) -> list[str]:
    """Names of the features whose stored values do not follow from the past.

    Args:
        stored: material, as `passes.material` makes it.
        known: knowledge made from tables that hold no event after the cut.
        users: users whose candidates are looked at.
    """
    wrong = set()
    n_songs = known.past.n_songs
    for first, last in ranges(known.past.n_users):
        mine = ", ".join(str(user) for user in users if first <= user <= last)
        if not mine:
            continue
        histories = known.histories(first, last)
        for view in VIEWS:
            rows = stored.filter(f"view = '{view}' AND user_id IN ({mine})").order("user_id, song_id").to_arrow_table()
            keys = (rows["user_id"].to_numpy().astype(np.int64) - first) * n_songs + rows["song_id"].to_numpy()
            facts = Facts(histories, Interactions(keys, last - first + 1, n_songs))
            for name, feature in FEATURES.items():
                one, other = rows[name].to_numpy(), finite(feature.of(facts))
                if not np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
                    wrong.add(name)
    return [name for name in FEATURES if name in wrong]
