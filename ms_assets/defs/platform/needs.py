"""Needs of steps: CPUs, memory and GPUs of each asset at each size, one table for every executor.

Where a step refuses what does not fit, its memory is that of the same estimate, for the shape of the size.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ms_assets.evaluation import leaderboard
from ms_assets.evaluation import memory as evaluation_memory
from ms_assets.graph import bipartite
from ms_assets.reranking import features, ranker
from ms_assets.reranking.passes import LEARNERS
from ms_assets.reranking.phases import SOURCES
from ms_assets.retrieval import index, memory
from ms_assets.retrieval.methods import METHODS, OURS
from ms_assets.retrieval.recommender import VIEWS
from ms_assets.settings import EvaluationSettings, validated

GIB = 1 << 30
PROCESS = GIB // 2
"""Bytes of a process with its libraries, beside the tables that it may hold."""
CHECKS = "checks of an asset"
SIZES = ("sample", "50m", "500m", "5b")
DIMENSIONS, OF_AUDIO = 64, 128
"""Dimensions of LightGCN's vectors at the larger sizes, and of the audio."""


class Shape(NamedTuple):
    """Users, songs with a train event, all songs, and edges of a size."""

    n_users: int
    n_graph_songs: int
    n_songs: int
    n_edges: int

    @property
    def n_later(self) -> int:
        """Pairs of the validation part, or of the test part."""
        return self.n_edges // 5

    @property
    def n_events(self) -> int:
        """Events of the train part."""
        return 12 * self.n_edges // 5


SHAPES = {
    "sample": Shape(1_000, 10_000, 20_000, 100_000),
    "50m": Shape(6_000, 600_000, 900_000, 6_000_000),
    "500m": Shape(60_000, 1_800_000, 2_460_000, 60_000_000),
    "5b": Shape(600_000, 6_600_000, 7_700_000, 600_000_000),
}
"""Shapes of the sizes; Yambda's, if the activity filter leaves as much of their users and events as of 50m's.

82 % of the published songs have audio; nearly as many of 5b's have a train event, three quarters of 500m's.
"""


@dataclass(frozen=True)
class Needs:
    """CPUs, bytes of memory and GPUs that a step takes."""

    cpus: int
    memory: int
    gpus: int = 0


Parts = dict[str, int]
"""Estimated bytes by purpose."""


def _graph(shape: Shape) -> Parts:
    return bipartite.estimate(shape.n_users, shape.n_songs, shape.n_edges, OF_AUDIO)


def _retrieval(method: str, shape: Shape) -> Parts:
    n_validated = 0 if method in memory.UNTUNED else shape.n_later
    needs = memory.needs_of(method, DIMENSIONS)
    return memory.estimate(shape.n_users, shape.n_graph_songs, shape.n_edges, n_validated, needs, shape.n_events)


def _index(shape: Shape) -> Parts:
    return index.estimate(shape.n_songs, shape.n_users, DIMENSIONS)


def _phase(shape: Shape) -> Parts:
    return features.estimate(shape.n_users, shape.n_songs, shape.n_events, DIMENSIONS)


def _ranker(shape: Shape) -> Parts:
    n_candidates = len(VIEWS) * LEARNERS * features.CANDIDATES
    return ranker.estimate(n_candidates, len(features.FEATURES) + len(features.of_sources(SOURCES)))


def _pass(what: str, shape: Shape) -> Parts:
    return evaluation_memory.estimate(what, shape.n_users, shape.n_songs, shape.n_events, shape.n_later, len(OURS))


def _comparison(shape: Shape) -> Parts:
    n_panes = len(VIEWS) * len(validated(EvaluationSettings, {}).ks)
    return leaderboard.estimate(shape.n_users, len(OURS) * shape.n_users, leaderboard.MEANS, n_panes)


ESTIMATES: dict[str, Callable[[Shape], Parts]] = {
    "graph__bipartite_graph": _graph,
    **{f"retrieval__{name}": partial(_retrieval, name) for name in ("queries", "cold_songs", *METHODS)},
    "retrieval__song_index": _index,
    **dict.fromkeys(("reranking__features", "reranking__ranked", "reranking__served_model"), _phase),
    **dict.fromkeys(("reranking__ranker", "reranking__ablation"), _ranker),
    **{f"evaluation__{name}": partial(_pass, name) for name in evaluation_memory.PASSES},
    **dict.fromkeys(("evaluation__differences", "evaluation__leaderboard"), _comparison),
}
"""Estimates by which steps refuse what does not fit, by the names of their ops."""
GIVEN_THE_GRAPH = (
    "graph__statistics", "retrieval__content_based", "reranking__features", "reranking__ranked",
    "reranking__served_model",
)  # fmt: skip
"""Steps that hold the graph beside what they estimate."""


@dataclass(frozen=True)
class Row:
    """CPUs of a step, and its GiB of memory at most at each of SIZES, where no estimate of the table tells it."""

    cpus: int
    gib: tuple[float, ...] | None = None
    of_tables: bool = False
    """True if MS_ASSETS_MEMORY bounds the step."""

    def memory(self, step: str, size: str, tables: int) -> int:
        """Bytes of the step at a size, if tables may hold so many at a time."""
        if self.of_tables:
            return tables + PROCESS
        if self.gib:
            return round(dict(zip(SIZES, self.gib, strict=True))[size] * GIB)
        parts = [ESTIMATES[step](SHAPES[size])] if step in ESTIMATES else []
        if step in GIVEN_THE_GRAPH:
            parts.append(_graph(SHAPES[size]))
        return math.ceil((PROCESS + sum(sum(part.values()) for part in parts)) / GIB) * GIB


# Training and its vectors are estimated too, but by a module that takes PyTorch: these are its figures for the settings
# of the size, beside the graph.
TABLES = Row(2, of_tables=True)
TRAINING = Row(4, (2, 10, 20, 111))
VECTORS = Row(2, (1, 4.5, 9.5, 49))
ONE = Row(1)
TWO = Row(2)

ASSETS: dict[Row, tuple[str, ...]] = {
    TABLES: (
        "raw__multi_event", "raw__listens", "raw__likes", "raw__dislikes", "raw__unlikes", "raw__undislikes",
        "raw__embeddings", "raw__artist_item_mapping", "raw__album_item_mapping", "raw__statistics_report",
        "raw__column_report", "raw__user_ids", "raw__song_ids", "raw__artist_ids", "raw__album_ids",
        "splits__users", "splits__songs", "splits__ground_truth", "split_events",
        "graph__edges", "retrieval__own_lists", "reranking__pool", "evaluation__user_metrics_json",
        "evaluation__champion", "evaluation__report", CHECKS,
    ),
    TRAINING: ("training__lightgcn", "training__hyperparameter_study", "training__ablation"),
    VECTORS: ("embeddings",),
    TWO: ("retrieval__song_index",),
    ONE: (
        "graph__bipartite_graph", "graph__statistics",
        "retrieval__queries", "retrieval__cold_songs", "retrieval__lightgcn", "retrieval__lightgcn_replay",
        "retrieval__popular", "retrieval__decayed_popularity", "retrieval__random", "retrieval__replay",
        "retrieval__item_knn", "retrieval__session_knn", "retrieval__transitions", "retrieval__ials", "retrieval__bpr",
        "retrieval__collaborative_filtering", "retrieval__graph_filter", "retrieval__ease",
        "reranking__features", "reranking__ranker", "reranking__ranked", "reranking__served_model",
        "reranking__ablation", "evaluation__user_metrics", "evaluation__official_user_metrics", "evaluation__slices",
        "evaluation__exposure", "evaluation__recall_curve", "evaluation__differences", "evaluation__leaderboard",
        "retrieval__content_based",
    ),
}  # fmt: skip
"""Assets of each row, by the names of their ops."""

ROWS = {op: row for row, ops in ASSETS.items() for op in ops}


def of_step(step: str, size: str, tables: int, config: Mapping[str, Any]) -> Needs:
    """Needs of a step.

    Args:
        step: key of the step; one that the table does not name is a check.
        size: `sample`, whose steps all take one CPU, or the size of Yambda's that the scale is like.
        tables: bytes that a step which makes tables may hold at a time.
        config: run config of the step's op; a device that it names by `cuda` is a GPU for each of its ranks.
    """
    row = ROWS.get(step, ROWS[CHECKS])
    gpus = (config.get("ranks") or 1) if str(config.get("device")).startswith("cuda") else 0
    return Needs(1 if size == SIZES[0] else row.cpus, row.memory(step, size, tables), gpus)
