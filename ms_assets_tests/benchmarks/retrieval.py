"""The song index at the size of 50m beside exact batch search."""

import time

import faiss
import numpy as np
from numpy.typing import NDArray

from ms_assets.retrieval import exact, index
from ms_assets_tests.benchmarks import measure, report

N_SONGS, DIMENSIONS, N_QUERIES = 934_057, 128, 10_000
N_CLUSTERS, SPREAD = 2_000, 0.7
N_EXACT = 1_000


def clustered(rng: np.random.Generator, n: int, centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit vectors around centres of length 1, at a distance of about SPREAD."""
    spread = rng.standard_normal((n, DIMENSIONS), dtype=np.float32) * np.float32(SPREAD / DIMENSIONS**0.5)
    vectors = centres[rng.integers(len(centres), size=n)] + spread
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def index_section() -> str:
    """Build the index that the platform chooses, and search it for many queries at once, beside exact search."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((N_CLUSTERS, DIMENSIONS), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors, queries = clustered(rng, N_SONGS, centres), clustered(rng, N_QUERIES, centres)
    item_id, k = rng.permutation(10 * N_SONGS)[:N_SONGS], index.RECALL_AT
    before = measure.resident("VmRSS")
    built = index.SongIndex.build(vectors, item_id, queries)
    measured = built.measured
    memory, some = (measure.resident("VmRSS") - before) // measure.MIB, queries[:N_EXACT]
    searches = {
        "index": (queries, lambda: built.search(queries, k)[0]),
        "exact: `retrieval/exact.py`": (some, lambda: item_id[exact.search(some, vectors, k)[1]]),
        "exact: `faiss.knn`": (some, lambda: item_id[faiss.knn(some, vectors, k, faiss.METRIC_INNER_PRODUCT)[1]]),
    }
    seconds, found = {}, {}
    for name, (_, search) in searches.items():
        started = time.monotonic()
        found[name] = search()
        seconds[name] = time.monotonic() - started
    speeds = {name: len(asked) / seconds[name] for name, (asked, _) in searches.items()}
    first, *others = speeds.values()
    recall = index.recall_at(built.index, some, found["exact: `faiss.knn`"])
    return "\n".join(
        [
            f"{N_SONGS:,} × {DIMENSIONS} vectors in {N_CLUSTERS:,} clusters of spread {SPREAD}, the {k} nearest. "
            f"{report.machine()}.",
            "",
            report.table(
                ("search", "queries", "seconds", "queries/s"),
                [
                    (name, f"{len(asked):,}", f"{seconds[name]:.2f}", f"{speeds[name]:,.0f}")
                    for name, (asked, _) in searches.items()
                ],
            ),
            "",
            f"`{measured.kind}`, {measured.effort} of {index.list_count(N_SONGS)} lists probed, **built in "
            f"{measured.build_seconds:.1f} s**, {memory:,} MiB. **Recall@{k} {recall:.4f} of {N_EXACT:,} queries at "
            f"{first / max(others):.1f} × the throughput of the faster exact batch search**, "
            f"{first / min(others):.1f} × that of the other.",
        ]
    )
