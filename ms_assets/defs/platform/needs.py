"""Needs of steps: CPUs, memory and GPUs of each asset at each size, one table for every executor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB = 1 << 30
PROCESS = GIB // 2
"""Bytes of a process with its libraries, beside the tables that it may hold."""
CHECKS = "checks of an asset"
SIZES = ("sample", "50m", "500m", "5b")


@dataclass(frozen=True)
class Needs:
    """CPUs, bytes of memory and GPUs that a step takes."""

    cpus: int
    memory: int
    gpus: int = 0


@dataclass(frozen=True)
class Row:
    """CPUs of a step, and its GiB of memory at most at 50m, 500m and 5b; None where MS_ASSETS_MEMORY bounds it."""

    cpus: int
    gib: tuple[int, int, int] | None = None

    def memory(self, size: str, tables: int) -> int:
        """Bytes of the step at a size, if tables may hold so many at a time."""
        if self.gib is None:
            return tables + PROCESS
        return dict(zip(SIZES, (self.gib[0], *self.gib), strict=True))[size] * GIB


# Memory of 500m: peaks measured on a graph of its shape (docs/benchmarks.md, "Sixty million edges"), for all that read
# the histories of users that of `retrieval/queries`, the largest; of 5b: ten times as much, by arithmetic.
TABLES = Row(2)
GRAPH = Row(1, (1, 4, 32))
TRAINING = Row(4, (2, 20, 108))
VECTORS = Row(2, (1, 7, 45))
HISTORIES = Row(1, (1, 6, 58))
HISTORIES_AND_GRAPH = Row(1, (1, 9, 76))
INDEX = Row(2, (1, 2, 6))

ASSETS: dict[Row, tuple[str, ...]] = {
    TABLES: (
        "raw__multi_event", "raw__listens", "raw__likes", "raw__dislikes", "raw__unlikes", "raw__undislikes",
        "raw__embeddings", "raw__artist_item_mapping", "raw__album_item_mapping", "raw__statistics_report",
        "raw__column_report", "raw__user_ids", "raw__song_ids", "raw__artist_ids", "raw__album_ids",
        "splits__users", "splits__songs", "splits__ground_truth", "split_events",
        "graph__edges", "retrieval__own_lists", "reranking__pool", "evaluation__user_metrics_json", CHECKS,
    ),
    GRAPH: ("graph__bipartite_graph", "graph__statistics"),
    TRAINING: ("training__lightgcn", "training__hyperparameter_study", "training__ablation"),
    VECTORS: ("embeddings",),
    INDEX: ("retrieval__song_index",),
    HISTORIES: (
        "retrieval__queries", "retrieval__cold_songs", "retrieval__lightgcn", "retrieval__lightgcn_replay",
        "retrieval__popular", "retrieval__decayed_popularity", "retrieval__random", "retrieval__replay",
        "retrieval__item_knn", "retrieval__session_knn", "retrieval__transitions", "retrieval__ials", "retrieval__bpr",
        "retrieval__collaborative_filtering", "retrieval__graph_filter", "retrieval__ease",
        "reranking__features", "reranking__ranker", "reranking__ranked", "reranking__served_model",
        "reranking__ablation", "evaluation__user_metrics", "evaluation__official_user_metrics", "evaluation__slices",
        "evaluation__exposure", "evaluation__recall_curve", "evaluation__differences", "evaluation__leaderboard",
        "evaluation__champion", "evaluation__report",
    ),
    HISTORIES_AND_GRAPH: ("retrieval__content_based",),
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
    return Needs(1 if size == SIZES[0] else row.cpus, row.memory(size, tables), gpus)
