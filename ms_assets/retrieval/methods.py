"""Recommenders by the name of their asset, `retrieval/<name>`."""

from ms_assets.retrieval.baselines import SVD, ContentBased, DecayedPopular, Popular, Random, Replay
from ms_assets.retrieval.implicit_models import BPR, IALS, ItemKNN
from ms_assets.retrieval.lightgcn import LightGCN, LightGCNReplay
from ms_assets.retrieval.linear_models import EASE, GraphFilter, SessionKNN, Transitions
from ms_assets.retrieval.recommender import Recommender

METHODS: dict[str, type[Recommender]] = {
    "lightgcn": LightGCN,
    "lightgcn_replay": LightGCNReplay,
    "popular": Popular,
    "decayed_popularity": DecayedPopular,
    "random": Random,
    "replay": Replay,
    "item_knn": ItemKNN,
    "session_knn": SessionKNN,
    "transitions": Transitions,
    "ials": IALS,
    "bpr": BPR,
    "collaborative_filtering": SVD,
    "graph_filter": GraphFilter,
    "ease": EASE,
    "content_based": ContentBased,
}
BASELINES = tuple(name for name, method in METHODS.items() if not issubclass(method, LightGCN))
RANKED = "ranked"
"""Method of the second stage, whose lists are the asset `reranking/ranked`."""
OURS = (*METHODS, RANKED)
"""Methods whose lists are made here; no list of another program may be called so."""
