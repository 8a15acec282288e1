"""Graph-based music recommendation: a library of recommenders, and the Dagster platform built from it.

>>> import polars as pl
>>> from ms_assets import SVD, split
>>> events = pl.DataFrame({"user": ["ann", "ann", "bob", "bob", "cem"], "song": ["a", "b", "a", "b", "a"]})
>>> SVD(factors=1).fit(events).recommend(["cem"], k=1)["song"].to_list()
['b']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ms_assets.evaluation.evaluate import evaluate
    from ms_assets.raw.importing import import_events
    from ms_assets.retrieval.baselines import SVD, ContentBased, DecayedPopular, Popular, Random, Replay
    from ms_assets.retrieval.implicit_models import BPR, IALS, ItemKNN
    from ms_assets.retrieval.index import SongIndex
    from ms_assets.retrieval.lightgcn import LightGCN, LightGCNReplay
    from ms_assets.retrieval.linear_models import EASE, GraphFilter, SessionKNN, Transitions
    from ms_assets.splits.frames import split

__version__ = "0.2.0"
__all__ = [
    "BPR",
    "EASE",
    "IALS",
    "SVD",
    "ContentBased",
    "DecayedPopular",
    "GraphFilter",
    "ItemKNN",
    "LightGCN",
    "LightGCNReplay",
    "Popular",
    "Random",
    "Replay",
    "SessionKNN",
    "SongIndex",
    "Transitions",
    "evaluate",
    "import_events",
    "split",
]
_HOMES = {
    "raw.importing": ["import_events"],
    "splits.frames": ["split"],
    "retrieval.baselines": ["SVD", "ContentBased", "DecayedPopular", "Popular", "Random", "Replay"],
    "retrieval.implicit_models": ["BPR", "IALS", "ItemKNN"],
    "retrieval.index": ["SongIndex"],
    "retrieval.lightgcn": ["LightGCN", "LightGCNReplay"],
    "retrieval.linear_models": ["EASE", "GraphFilter", "SessionKNN", "Transitions"],
    "evaluation.evaluate": ["evaluate"],
}
"""Modules of the public names; each is imported when one of its names is first used."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
