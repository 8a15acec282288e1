"""Evaluation of 50m's size over made-up tables: every step's seconds, the process's memory, and a loop over users."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log2
from pathlib import Path

import dagster as dg
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ms_assets.defs.evaluation import assets
from ms_assets.evaluation import metrics, passes
from ms_assets.evaluation.metrics import Lists
from ms_assets.evaluation.tables import songs_of, users_of
from ms_assets.retrieval.recommender import TOP_K, VIEWS
from ms_assets.streams import TableWriter
from ms_assets_tests.benchmarks import report

N_USERS, N_SONGS, N_GRAPH_SONGS = 10_000, 934_057, 800_000
N_TRAIN, N_TEST, N_FAVOURITES = 3_800, 480, 1_500
"""Events of a user in train and in test, and how many songs they are drawn from."""
N_METHODS, KS = 9, [10, 100]
COMPARED = 5
"""Methods that the loop over users is timed with."""
LOOPED = 500
"""Users that the loop is timed with."""


@dataclass(frozen=True)
class Measured:
    """What the evaluation took."""

    seconds: dict[str, float]
    """By asset."""
    peak_mib: int
    fast: float
    """Seconds of all metrics for COMPARED methods in the view `all`, from arrays."""
    slow: float
    """Seconds of the same by a loop, at the rate of LOOPED users."""


def evaluation() -> Measured:
    """Write the tables and evaluate them, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for step in ("write", "measure"):
            program = f"from ms_assets_tests.benchmarks import evaluation as e; e.{step}(e.Path({folder!r}))"
            subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
        return Measured(**json.loads((Path(folder) / "measured.json").read_text()))


def section(found: Measured) -> str:
    """What was measured, for the document."""
    rows = [(f"evaluation/{name}", f"{seconds:.1f}") for name, seconds in found.seconds.items()]
    total = sum(found.seconds.values())
    lists = f"{N_USERS:,} users, {N_SONGS:,} songs, {N_METHODS} recommenders in two views, K = {KS[0]} and {KS[1]}"
    return "\n".join(
        [
            f"{lists}; made-up tables with {N_TRAIN * N_USERS:,} train and {N_TEST * N_USERS:,} test events. "
            f"{report.machine()}.",
            "",
            report.table(("asset", "seconds"), [*rows, ("**all**", f"**{total:.1f}**")]),
            "",
            f"The process holds {found.peak_mib:,} MiB at most. **All metrics of {COMPARED} methods in the view `all` "
            f"take {found.fast:.2f} s, a loop over users {found.slow:.0f} s ({LOOPED} users timed): "
            f"{found.slow / found.fast:.0f} times as long**, with the same results.",
        ]
    )


def write(folder: Path) -> None:
    """Write all inputs, some users at a time."""
    rng = np.random.default_rng(0)
    weights = np.cumsum(rng.lognormal(0, 2.5, N_GRAPH_SONGS))
    weights /= weights[-1]
    plays = np.zeros(N_SONGS, np.int64)
    with TableWriter(folder / "train.parquet") as train, TableWriter(folder / "test.parquet") as test:
        for first in range(0, N_USERS, 500):
            favourites = np.searchsorted(weights, rng.random((500, N_FAVOURITES)))
            for writer, n, day in ((train, N_TRAIN, 0), (test, N_TEST, 1)):
                events = _events(rng, first, favourites, n, day)
                writer.append(events)
                if not day:
                    plays += np.bincount(events["song_id"].to_numpy(), minlength=N_SONGS)
        train.finish()
        test.finish()
    songs = {
        "song_id": np.arange(N_SONGS, dtype=np.int32),
        "in_graph": np.arange(N_SONGS) < N_GRAPH_SONGS,
        "n_train_plays": plays,
        "artist_ids": pa.ListArray.from_arrays(np.arange(N_SONGS + 1), rng.integers(0, 100_000, N_SONGS)),
    }
    pq.write_table(pa.table(songs), folder / "songs.parquet")
    users = {"user_id": np.arange(N_USERS, dtype=np.int32), "uid": 7 * np.arange(N_USERS)}
    pq.write_table(pa.table(users), folder / "users.parquet")
    met = f"""SELECT 'test' AS split, user_id, song_id, 0.7 * sum(played_ratio) AS base_relevance,
        least(0.7 * sum(played_ratio), 1) AS adjusted_relevance, count(*) FILTER (played_ratio > 0.5) AS listen_plus,
        count(*) FILTER (event_type = 'like') AS likes, count(*) FILTER (event_type = 'dislike') AS dislikes
        FROM '{folder}/test.parquet' GROUP BY ALL ORDER BY user_id, song_id"""
    duckdb.sql(met).write_parquet(str(folder / "ground_truth.parquet"))
    duckdb.sql(f"FROM '{folder}/train.parquet' LIMIT 0").write_parquet(str(folder / "validation.parquet"))
    for method in range(N_METHODS):
        start = rng.integers(0, N_SONGS, (len(VIEWS), N_USERS, 1))
        songs_shown = (start + np.arange(TOP_K) * 7_919 * (method + 1)) % N_SONGS
        view, user, place = np.indices(songs_shown.shape).reshape(3, -1)
        table = {
            "view": np.array(VIEWS, object)[view],
            "user_id": user.astype(np.int32),
            "rank": (place + 1).astype(np.int32),
            "song_id": songs_shown.ravel().astype(np.int32),
        }
        pq.write_table(pa.table(table), folder / f"{_name(method)}.parquet")


def _name(method: int) -> str:
    return f"method_{method}" if method else "lightgcn"


def _events(rng: np.random.Generator, first: int, favourites: np.ndarray, n: int, day: int) -> pa.Table:
    chosen = rng.integers(0, N_FAVOURITES, (len(favourites), n))
    song = np.take_along_axis(favourites, chosen, axis=1).ravel()
    kinds = pa.array(["listen", "like", "dislike"])
    kind = rng.choice(3, len(song), p=[0.97, 0.02, 0.01]).astype(np.int8)
    return pa.table(
        {
            "user_id": np.repeat(np.arange(first, first + len(favourites), dtype=np.int32), n),
            "song_id": song.astype(np.int32),
            "timestamp": np.full(len(song), day, np.int64),
            "event_type": pa.DictionaryArray.from_arrays(kind, kinds),
            "played_ratio": rng.integers(0, 101, len(song)) / 100,
            "is_organic": rng.integers(0, 2, len(song)).astype(np.uint8),
        }
    )


def measure(folder: Path) -> None:
    """Evaluate what `write` wrote."""
    con = duckdb.connect(config={"memory_limit": "1GiB", "temp_directory": str(folder / "tmp")})
    tables = {path.stem: con.read_parquet(str(path)) for path in folder.glob("*.parquet")}
    methods = {_name(method): tables[_name(method)] for method in range(N_METHODS)}
    seconds: dict[str, float] = {}

    def given(*names: str) -> list:
        return [tables[name] for name in names]

    def made(name: str, rows: Iterable[pa.Table]) -> None:
        """Publish a table as the I/O manager does; its rows are computed meanwhile."""
        started, path = time.monotonic(), folder / f"{name}.parquet"
        with TableWriter(path) as writer:
            writer.fill(rows)
        seconds[name] = time.monotonic() - started
        tables[name] = con.read_parquet(str(path))

    shared = ("users", "songs", "train")
    made("user_metrics", passes.user_metrics(methods, *given(*shared, "ground_truth"), KS))
    made("official_user_metrics", passes.official_user_metrics(methods, *given(*shared, "test"), KS))
    whole = {
        "exposure": lambda: passes.exposure(methods, *given(*shared), True, KS),
        "recall_curve": lambda: passes.recall_curve(methods, *given(*shared, "ground_truth"), KS[-1]),
        "slices": lambda: passes.slices(methods, *given(*shared, "test", "ground_truth"), KS),
        "differences": lambda: assets.differences(*given("user_metrics", "official_user_metrics")),
    }
    for name, table in whole.items():
        made(name, (step().to_arrow() for step in [table]))
    names = ("user_metrics", "official_user_metrics", "exposure", "differences", "recall_curve", "slices", "users",
             "songs", "train", "validation", "test")  # fmt: skip
    context = dg.build_asset_context(partition_key="sample")
    raw = tables["train"].project("user_id AS uid, song_id AS item_id")
    inputs = {name: tables[name] for name in names} | {"multi_event": raw}
    made("leaderboard", (assets.leaderboard(context, **inputs).value.to_arrow() for _ in range(1)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    fast, slow = _both_ways(tables, list(methods.values())[:COMPARED])
    found = {"seconds": seconds, "peak_mib": peak, "fast": fast, "slow": slow}
    (folder / "measured.json").write_text(json.dumps(found))


def _both_ways(tables: dict, methods: list) -> tuple[float, float]:
    """Seconds of all metrics per user by arrays, and by a loop over users; reading the tables is in neither."""
    catalogue = songs_of(tables["songs"])
    everybody = users_of(tables["users"])
    truths = [some.truth(tables["ground_truth"], tables["train"], catalogue) for some in everybody]
    matrices = [[some.lists(method, max(KS))["all"] for method in methods] for some in everybody]
    met = everybody[0].rows(tables["ground_truth"]).filter(f"user_id < {LOOPED}").pl()
    rows_of = met.rows_by_key("user_id", named=True)
    heard: list[set] = [set() for _ in range(LOOPED)]
    keys = truths[0].history.keys
    for key in keys[: np.searchsorted(keys, LOOPED * N_SONGS)].tolist():
        heard[key // N_SONGS].add(key % N_SONGS)
    plays = catalogue.n_plays.tolist()
    artists = [catalogue.artists.values[song] for song in range(N_SONGS)]
    started = time.monotonic()
    fast = [
        [metrics.user_metrics(lists, k) for lists in (Lists(matrix, truth, catalogue) for matrix in some) for k in KS]
        for truth, some in zip(truths, matrices, strict=True)
    ]
    middle = time.monotonic()
    slow = [
        [
            _of_user(shown, {row["song_id"]: row for row in rows_of.get(user, [])}, heard[user], plays, artists)
            for user, shown in enumerate(matrix[:LOOPED, :k].tolist())
        ]
        for matrix in matrices[0]
        for k in KS
    ]
    end = time.monotonic()
    for ours, theirs in zip(fast[0], slow, strict=True):
        _same(ours.head(LOOPED), theirs)
    return middle - started, (end - middle) * N_USERS / LOOPED


def _same(fast: pl.DataFrame, slow: list[dict]) -> None:
    for name in metrics.METRICS:
        found, wanted = (
            fast[name].cast(pl.Float64).fill_null(-9),
            pl.Series([row[name] for row in slow], dtype=pl.Float64),
        )
        if (found - wanted.fill_null(-9)).abs().max() > 1e-9:
            raise AssertionError(f"{name} of the loop differs")


def _of_user(shown: list[int], met: dict, heard: set[int], plays: list[float], artists: list) -> dict:
    """Every metric of one user's list, in the view `all`."""

    def gains(column: str) -> Iterator[float]:
        return (met[song][column] if song in met else 0.0 for song in shown)

    def dcg(worth: Iterable[float]) -> float:
        return sum(gain / log2(rank + 2) for rank, gain in enumerate(worth))

    def ndcg(column: str) -> float | None:
        best = sorted((row[column] for row in met.values()), reverse=True)[: len(shown)]
        ideal = dcg(best)
        return dcg(gains(column)) / ideal if ideal else None

    def found(column: str, *more: str) -> tuple[int, int]:
        targets = {song for song, row in met.items() if any(row[name] > 0 for name in (column, *more))}
        return sum(song in targets for song in shown), len(targets)

    n_hits, n_targets = found("base_relevance")
    hits = [song in met and met[song]["base_relevance"] > 0 for song in shown]
    others, won, above = N_SONGS - n_targets, 0, 0
    for is_hit in hits:
        won += others - above if is_hit else 0
        above += not is_hit
    likes, liked = found("likes")
    either, n_either = found("likes", "listen_plus")
    disliked, n_disliked = found("dislikes")
    known = sum(song in heard for song in shown) / len(shown)
    usual = sum(plays[song] for song in heard) / len(heard)
    return {
        "ndcg": ndcg("adjusted_relevance"),
        "ndcg_base": ndcg("base_relevance"),
        "ndcg_listen_plus": ndcg("listen_plus"),
        "ndcg_like": ndcg("likes"),
        "recall": n_hits / n_targets,
        "precision": n_hits / len(shown),
        "mrr": 1 / (hits.index(True) + 1) if n_hits else 0.0,
        "hit": float(n_hits > 0),
        "hit_like": float(likes > 0) if liked else None,
        "hit_like_or_listen": float(either > 0) if n_either else None,
        "auc": (won + (n_targets - n_hits) * (others - above) / 2) / (n_targets * others),
        "dislike_fpr": disliked / n_disliked if n_disliked else None,
        "novelty": 1 - known,
        "replay_share": known,
        "popularity_lift": sum(plays[song] for song in shown) / len(shown) / usual - 1,
        "artist_diversity": len({artists[song] for song in shown}) / len(shown),
        "cold_share": sum(song >= N_GRAPH_SONGS for song in shown) / len(shown),
    }
