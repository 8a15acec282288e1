"""Faiss index over song embeddings: its kind chosen by its use, its recall measured, its origin recorded."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ms_assets.files import published, reading
from ms_assets.machine import free_memory, refuse_beyond
from ms_assets.retrieval import exact
from ms_assets.retrieval.memory import LIBRARY
from ms_assets.training.trained import TrainedModel

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)

Kind = Literal["exact", "ivf_flat", "ivf_sq8", "hnsw"]
EXACT_UP_TO = 100_000
"""Largest number of songs that are searched exhaustively."""
FLAT_UP_TO = 4 << 30
"""Bytes of vectors up to which lists hold them in full; beyond, they hold a byte per dimension."""
POINTS_PER_LIST = 64
ROUNDS_OF_KMEANS = 10
RECALL_AT = 100
TARGET_RECALL = 0.98
RECALL_QUERIES = 500
DEPTH = 600
"""Length of the lists in which recall is measured deep: a hundred songs for somebody who has heard the 500 before."""
MOST_ON_GPU = 2_048
"""Largest k, and largest number of lists probed, for which Faiss searches on a GPU."""
NEIGHBOURS = 32
"""Links of a song in HNSW."""


def estimate(n_songs: int, n_users: int, dimensions: int, singly: bool = False) -> dict[str, int]:
    """Estimate the bytes of building and measuring an index by purpose; `singly` as in `choose`."""
    vector = 4 * dimensions
    return {
        "vectors of songs and queries": vector * (n_songs + n_users),
        # Lists grow by doubling, so that half as much stays empty; ids, and the songs that lists are learned from.
        "index": (3 * (vector + 8) // 2 + 8) * n_songs + POINTS_PER_LIST * list_count(n_songs) * vector,
        "links": singly * 2 * 4 * NEIGHBOURS * n_songs,
        "exact search": 4 * min(RECALL_QUERIES * n_songs, exact.AT_ONCE),
        "what reading leaves, and library": vector // 2 * n_songs + LIBRARY,
    }


def refuse_without_room(n_songs: int, n_users: int, dimensions: int, singly: bool = False) -> None:
    """Check that an index fits into free memory while it is built and measured.

    Raises:
        NotEnoughMemoryError: it does not; names the parts' sizes and what to change.
    """
    refuse_beyond(
        free_memory(),
        f"retrieval/song_index of {n_songs:,} songs in {dimensions} dimensions",
        estimate(n_songs, n_users, dimensions, singly),
        "lower training__lightgcn.embedding_dim, or build it on a machine with more memory",
    )


@dataclass(frozen=True)
class Measured:
    """Measurements of an index: kind, recall against exact search, and speed."""

    kind: Kind
    effort: int
    """Number of lists probed, or of songs visited (HNSW)."""
    recall_at_100: float
    recall_after_500: float
    """Recall of the 100 songs that follow the first 500, as for somebody who has heard those."""
    build_seconds: float
    queries_per_second: float
    times_exact_search: float
    """Speed relative to exact search, in queries per second."""


@dataclass(frozen=True)
class SongIndex:
    """Faiss index over song embeddings, which finds the songs with the largest inner product with a query."""

    index: "faiss.Index"
    measured: Measured | None = None
    """Measurements; None for an index that was loaded."""
    gpu: int | None = None
    """Number of the GPU that searches, from `gpu_of`; then several threads must not search at the same time."""

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        ids: NDArray[np.int64] | None = None,
        queries: NDArray[np.float32] | None = None,
        singly: bool = False,
        gpu: int | None = None,
    ) -> Self:
        """Build an index over vectors float32 [n, d]; its kind depends on their number and that of the queries.

        The lists probed, or songs visited (HNSW), are doubled until recall@100 reaches 0.98 on a draw of the queries.
        If a byte per dimension is too coarse for that, lists with full vectors are used instead.

        Args:
            vectors: embeddings of songs.
            ids: ids that `search` returns, int64 [n]; by default the rows of the vectors.
            queries: vectors like those to be searched for, float32 [n_queries, d]; by default the songs' own.
            singly: queries come one at a time, as in a service.
            gpu: number of the GPU that fills lists and searches, from `gpu_of`; None for the CPU.

        >>> index = SongIndex.build(np.eye(3, dtype=np.float32))
        >>> index.search(np.float32([[0, 1, 0.5]]), k=2)[0].tolist()
        [[1, 2]]
        """
        queries = vectors if queries is None else queries
        ids = np.arange(len(vectors)) if ids is None else ids
        kind = choose(len(vectors), vectors.shape[1], len(queries), singly)
        return cls(*built(vectors, ids, queries, kind, gpu), gpu)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the k songs with the largest inner products: ids int64 and scores float32, [n_queries, k].

        The effort of an index was measured on the first 100. A query for more, and one whose probed lists hold too few
        songs, is repeated with twice the effort until its last 100 songs are the same but for two. The id is −1 where
        the index has no more songs.
        """
        queries = np.ascontiguousarray(queries)
        index = self.index if self.gpu is None or not searches_on_gpu(self.index, k) else self._gpu_index
        scores, ids = index.search(queries, k)
        unsettled = np.arange(len(queries)) if k > RECALL_AT else np.flatnonzero((ids < 0).any(axis=1))
        for search in _wider(self.index, k):
            if not len(unsettled):
                break
            more, found = search(queries[unsettled])
            agreed = [
                np.isin(now[-RECALL_AT:], before).mean() for now, before in zip(found, ids[unsettled], strict=True)
            ]
            settled = (np.array(agreed) >= TARGET_RECALL) & (found >= 0).all(axis=1)
            scores[unsettled], ids[unsettled] = more, found
            unsettled = unsettled[~settled]
        return ids, scores

    @cached_property
    def _gpu_index(self) -> "faiss.Index":
        return on_gpu(self.index, self.gpu)

    def save(self, path: str | Path) -> None:
        """Write the index into a Faiss file, whole or not at all."""
        import faiss

        with published(Path(path)) as unfinished:
            faiss.write_index(self.index, str(unfinished))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an index from a file that `save` wrote.

        Raises:
            DamagedFileError: the file cannot be read.
        """
        import faiss

        with reading(Path(path), "build and save the index again"):
            return cls(faiss.read_index(str(path)))


Found = tuple[NDArray[np.float32], NDArray[np.int64]]
Search = Callable[[NDArray[np.float32]], Found]


def _wider(index: "faiss.Index", k: int) -> Iterator[Search]:
    """Searches of queries for k songs, each with twice the effort of the one before; the last is exhaustive."""
    import faiss

    def within(parameters: "faiss.SearchParameters") -> Search:
        return lambda queries: index.search(queries, k, params=parameters)

    if lists := faiss.try_extract_index_ivf(index):
        probed = lists.nprobe
        while probed < lists.nlist:
            probed = min(2 * probed, lists.nlist)
            yield within(faiss.IVFSearchParameters(nprobe=probed))  # type: ignore[call-arg]
    elif isinstance(graph := faiss.downcast_index(getattr(index, "index", index)), faiss.IndexHNSW):
        visited = 2 * max(graph.hnsw.efSearch, k)
        while NEIGHBOURS * visited < index.ntotal:  # each song visited scores its neighbours
            yield within(faiss.SearchParametersHNSW(efSearch=visited))  # type: ignore[attr-defined]
            visited *= 2
        ids = np.append(faiss.vector_to_array(index.id_map), -1)  # type: ignore[attr-defined]

        def exhaustive(queries: NDArray[np.float32]) -> Found:
            scores, rows = graph.storage.search(queries, k)
            return scores, ids[rows]

        yield exhaustive


def choose(n_songs: int, dimensions: int, n_queries: int, singly: bool) -> Kind:
    """Choose the kind of index by the numbers of songs and queries; `singly`: queries come one at a time.

    √n lists cost about √n passes over the catalogue to fill, and ten rounds over 64 songs a list, 640 passes, to train;
    exact search costs one pass per query. HNSW takes minutes to build, and answers single queries fastest.
    """
    if n_songs <= EXACT_UP_TO:
        return "exact"
    if singly:
        return "hnsw"
    if n_queries <= n_songs**0.5 + ROUNDS_OF_KMEANS * POINTS_PER_LIST:
        return "exact"
    return "ivf_flat" if 4 * n_songs * dimensions <= FLAT_UP_TO else "ivf_sq8"


def built(
    vectors: NDArray[np.float32], ids: NDArray[np.int64], queries: NDArray[np.float32], kind: Kind,
    gpu: int | None = None,
) -> tuple["faiss.Index", Measured]:  # fmt: skip
    """Build an index of one kind and measure it; see `SongIndex.build`."""
    rng = np.random.default_rng(0)
    drawn = queries[rng.choice(len(queries), min(len(queries), RECALL_QUERIES), replace=False)]
    started = time.monotonic()
    index = _filled(vectors, ids, kind, rng, gpu)
    filled = time.monotonic()
    _, rows = exact.search(drawn, vectors, min(RECALL_AT, len(vectors)))
    exact_seconds = time.monotonic() - filled
    effort, recall, seconds = _reach_target(index, drawn, ids[rows], kind)
    deep = (
        1.0
        if kind == "exact"
        else recall_after(index, drawn, ids[exact.search(drawn, vectors, min(DEPTH, len(vectors)))[1]])
    )
    if kind == "ivf_sq8" and min(recall, deep) < TARGET_RECALL:
        said = "%s reaches a recall@%d of %.4f at best, and %.4f deep in the list: building ivf_flat instead"
        logger.warning(said, kind, RECALL_AT, recall, deep)
        return built(vectors, ids, queries, "ivf_flat", gpu)
    speeds = len(drawn) / seconds, exact_seconds / seconds
    return index, Measured(kind, effort, recall, deep, filled - started, *speeds)


def _filled(
    vectors: NDArray[np.float32], item_id: NDArray[np.int64], kind: Kind, rng: np.random.Generator, gpu: int | None
) -> "faiss.Index":
    import faiss

    (n, d), product = vectors.shape, faiss.METRIC_INNER_PRODUCT
    if kind in ("exact", "hnsw"):
        plain = faiss.IndexFlatIP(d) if kind == "exact" else faiss.IndexHNSWFlat(d, NEIGHBOURS, product)
        index = faiss.IndexIDMap2(plain)
        index.add_with_ids(vectors, item_id)
        return index
    coarse, n_lists = faiss.IndexFlatIP(d), list_count(n)
    lists: faiss.IndexIVF
    if kind == "ivf_flat":
        lists = faiss.IndexIVFFlat(coarse, d, n_lists, product)
    else:
        lists = faiss.IndexIVFScalarQuantizer(coarse, d, n_lists, faiss.ScalarQuantizer.QT_8bit, product)
    lists.cp.niter = ROUNDS_OF_KMEANS
    filled = on_gpu(lists, gpu)
    filled.train(vectors[rng.choice(n, min(n, POINTS_PER_LIST * n_lists), replace=False)])
    filled.add_with_ids(vectors, item_id)
    return filled if gpu is None else faiss.index_gpu_to_cpu(filled)


def list_count(n_songs: int) -> int:
    """Number of inverted lists for a number of songs: about its square root."""
    return round(n_songs**0.5)


def searches_on_gpu(index: "faiss.Index", k: int) -> bool:
    """Tell if Faiss can search an index for k songs on a GPU: no graph, and neither k nor lists beyond MOST_ON_GPU."""
    import faiss

    if isinstance(faiss.downcast_index(getattr(index, "index", index)), faiss.IndexHNSW):
        return False
    lists = faiss.try_extract_index_ivf(index)
    return max(k, lists.nprobe if lists else 1) <= MOST_ON_GPU


def gpu_of(device: str) -> int | None:
    """Number of the GPU that Faiss takes beside a training on a device: the same one.

    None if the training takes the CPU, or Faiss, such as its build for the CPU, sees no such GPU.

    device: setting of the training, such as `auto` or `cuda:1`.
    """
    import faiss
    import torch

    from ms_assets.training import devices

    found = devices.resolve(device) if device == "auto" else torch.device(device)
    number = found.index or 0
    return number if found.type == "cuda" and number < faiss.get_num_gpus() else None


def on_gpu(index: "faiss.Index", gpu: int | None) -> "faiss.Index":
    """Copy an index to a GPU; it stays as it is where that is None."""
    import faiss

    return index if gpu is None else faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), gpu, index)


def _reach_target(
    index: "faiss.Index", queries: NDArray[np.float32], wanted: NDArray[np.int64], kind: Kind
) -> tuple[int, float, float]:
    """Double the effort of the search until recall reaches its target; returns effort, recall, seconds."""
    import faiss

    parameter = {"ivf_flat": "nprobe", "ivf_sq8": "nprobe", "hnsw": "efSearch"}.get(kind)
    most = {"exact": 1, "hnsw": index.ntotal}.get(kind, list_count(index.ntotal))
    effort = 1 if kind != "hnsw" else RECALL_AT
    while True:
        if parameter:
            faiss.ParameterSpace().set_index_parameter(index, parameter, effort)
        started = time.monotonic()
        recall = recall_at(index, queries, wanted)
        seconds = time.monotonic() - started
        logger.info("%s, effort %d of %d: recall@%d %.4f", kind, effort, most, RECALL_AT, recall)
        if recall >= TARGET_RECALL or effort >= most:
            return effort, recall, seconds
        effort = min(2 * effort, most)


def recall_at(index: "faiss.Index", queries: NDArray[np.float32], exact: NDArray[np.int64]) -> float:
    """Recall: share of the exact results, ids int64 [n_queries, k], that the index finds among its first k."""
    _, found = index.search(queries, exact.shape[1])
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)]
    return float(np.sum(hits) / exact.size)


def recall_after(index: "faiss.Index", queries: NDArray[np.float32], exact: NDArray[np.int64]) -> float:
    """Recall of the last 100 of the exact results, ids int64 [n_queries, k], by a search without those before them."""
    found, _ = SongIndex(index).search(queries, exact.shape[1])
    hits = [
        len(np.intersect1d(a[~np.isin(a, b[:-RECALL_AT])][:RECALL_AT], b[-RECALL_AT:]))
        for a, b in zip(found, exact, strict=True)
    ]
    return float(np.mean(hits) / min(RECALL_AT, exact.shape[1]))


def fingerprint(*arrays: NDArray[Any]) -> str:
    """Fingerprint of the content of arrays: the beginning of a SHA-256 over their bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def origin(
    model: TrainedModel,
    item_id: NDArray[np.int64],
    users: NDArray[np.float32],
    songs: NDArray[np.float32],
) -> dict[str, str]:
    """Origin of an index: the training, its device and split, the id map, users' queries, and songs' vectors, by name.

    model: model of training/lightgcn.
    """
    return {
        "training_run": model.mlflow_run_id,
        "device": model.settings.device,
        "split": model.inputs.get("splits/ground_truth", "unknown"),
        "id_map": fingerprint(item_id),
        "queries": fingerprint(users),
        "song_embeddings": fingerprint(songs),
    }


def refuse_stale(origin: dict[str, str], expected: dict[str, str]) -> None:
    """Refuse an index that was built from data other than expected.

    Raises:
        ValueError: names each difference.
    """
    if stale := differences(origin, expected):
        raise ValueError(
            f"retrieval/song_index was built from different data: {'; '.join(stale)}. Materialise it again"
        )


def differences(origin: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Differences between the origin of an index and the expected one, in words."""
    return [
        f"{name}: built from {origin.get(name)}, found {value}"
        for name, value in expected.items()
        if origin.get(name) != value
    ]
