"""Every recommender on real sets, with several seeds: the leaderboard, and the figures that papers publish."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from ms_assets.interactions import Interactions
from ms_assets.retrieval.methods import RANKED
from ms_assets.settings import PUBLISHED_LAST_TIMESTAMP
from ms_assets.training.ablation import AS_TRAINED
from ms_assets_tests.benchmarks.report import machine, table
from ms_assets_tests.conftest import Platform

K = 20
SHOWN = [(view, k) for view in ("discovery", "all") for k in (10, 100)]
BOARD, TRAINING = (dg.AssetSelection.keys(key) for key in ("evaluation/leaderboard", "training/lightgcn"))


def config(folder: Path) -> dict[str, dict[str, int | str]]:
    """Division of a set: by the published cut in time if its events reach so far, otherwise per user."""
    events = pl.scan_parquet(folder / "**" / "multi_event.parquet")
    last = int(events.select(pl.col("timestamp").max()).collect().item())
    by_time = last > PUBLISHED_LAST_TIMESTAMP - 86_400
    protocol, fewest = ("global_temporal", 1) if by_time else ("per_user", 5)
    return {
        "split_events": {"protocol": protocol},
        "splits__users": {"min_events": fewest, "max_events": 1_000_000},
    }


def measure(folder: Path, seeds: int, refit: bool) -> pl.DataFrame:
    """Run the pipeline once, and training and what follows for every further seed.

    One row per seed, method, view and K, with the mean NDCG, and those of LightGCN and of `ranked` less the method's
    with their intervals; LightGCN alone also has a row of binary recall and NDCG at 20, songs of validation left out.
    """
    rows, divided = [], config(folder)
    with platform_over(folder) as platform:
        for seed in range(seeds):
            trained = {"training__lightgcn": {"seed": seed, "refit": refit}}
            if seed:
                platform.materialise(*_after_training(platform), config=trained, alone=True)
            else:
                platform.materialise("evaluation/leaderboard", config={**divided, **trained})
            rows.append(_rows(platform).with_columns(pl.lit(seed).alias("seed")))
            recall, ndcg = _published(rows[-1])
            logging.info("%s, seed %d: recall@%d %.4f, NDCG@%d %.4f", folder.name, seed, K, recall, K, ndcg)
    return pl.concat(rows)


def ablation(folder: Path, seeds: int) -> pl.DataFrame:
    """Train the model and its variants on a set; one row per variant and seed, as `training/ablation` has it."""
    with platform_over(folder) as platform:
        platform.materialise("training/ablation", config={**config(folder), "training__ablation": {"seeds": seeds}})
        return pl.read_parquet(platform.file("training/ablation"))


@contextmanager
def platform_over(folder: Path) -> Iterator[Platform]:
    """Yield a home of its own for a set."""
    with tempfile.TemporaryDirectory() as home:
        platform = Platform(Path(home))
        platform.source.rmdir()
        platform.source.symlink_to(folder.absolute())
        yield platform


def _after_training(platform: Platform) -> list[str]:
    """Assets up to the leaderboard that another seed of the training changes."""
    graph = platform.definitions.resolve_asset_graph()
    return [key.to_user_string() for key in (BOARD.upstream() & TRAINING.downstream()).resolve(graph)]


def _published(rows: pl.DataFrame) -> tuple[float, float]:
    [row] = rows.filter(pl.col("view") == "binary").to_dicts()
    return row["recall"], row["ndcg"]


def _rows(platform: Platform) -> pl.DataFrame:
    found = pl.read_parquet(platform.file("evaluation/leaderboard")).filter(metric="ndcg")
    found = found.select("method", "view", "k", pl.col("mean").alias("ndcg"))
    differences = pl.read_parquet(platform.file("evaluation/differences")).filter(metric="ndcg")
    for compared, prefix in (("lightgcn", ""), (RANKED, f"{RANKED}_")):
        kept = differences.filter(method=compared).select(
            "view", "k", pl.col("other").alias("method"), pl.col("difference", "ci_low", "ci_high").name.prefix(prefix)
        )
        found = found.join(kept, ["method", "view", "k"], how="left")
    recall, ndcg = binary(platform)
    alone = pl.DataFrame({"method": "lightgcn", "view": "binary", "k": K, "ndcg": ndcg, "recall": recall})
    return pl.concat([found, alone], how="diagonal_relaxed")


def binary(platform: Platform) -> tuple[float, float]:
    """Recall and NDCG at 20 of LightGCN's embeddings on test pairs, all equally relevant, each known song left out."""
    users, songs, cold = (
        pl.read_parquet(platform.file(key)).sort(by)
        for key, by in (
            ("retrieval/queries", "user_id"),
            ("training/song_embeddings", "song_id"),
            ("retrieval/cold_songs", "song_id"),
        )
    )
    of_users, of_songs = (np.array(rows["embedding"].to_numpy()) for rows in (users, songs))
    if cold.height:
        of_songs[cold["song_id"].to_numpy()] = cold["embedding"].to_numpy()
    truth = pl.read_parquet(platform.file("splits/ground_truth"))
    train = pl.read_parquet(platform.file("splits/train"))
    parts = (train, *(truth.filter(pl.col("split") == part) for part in ("validation", "test")))
    heard, validation, test = (_pairs(rows, len(of_users), len(of_songs)) for rows in parts)
    targets, found = test.without(heard).without(validation), []
    tested = np.flatnonzero(targets.counts)
    for user in tested:
        scores = of_songs @ of_users[user]
        for known in (heard, validation):
            scores[known.song[known.offsets[user] : known.offsets[user + 1]]] = -np.inf
        best = np.argpartition(-scores, K)[:K]
        best = best[np.argsort(-scores[best], kind="stable")]
        found.append(np.isin(best, targets.song[targets.offsets[user] : targets.offsets[user + 1]]))
    hits, n = np.stack(found), targets.counts[tested]
    gain = 1 / np.log2(np.arange(2, K + 2))
    ideal = np.cumsum(gain)[np.minimum(n, K) - 1]
    return float((hits.sum(axis=1) / n).mean()), float((hits @ gain / ideal).mean())


def _pairs(rows: pl.DataFrame, n_users: int, n_songs: int) -> Interactions:
    pairs = rows.select("user_id", "song_id").unique().sort("user_id", "song_id")
    return Interactions.of(pairs["user_id"].to_numpy(), pairs["song_id"].to_numpy(), n_users, n_songs)


def section(measured: dict[str, pl.DataFrame]) -> str:
    """One table for each set, as Markdown: means over seeds, the best method in bold."""
    n_seeds = max(rows["seed"].n_unique() for rows in measured.values())
    text = [
        f"NDCG on the test part, means over {n_seeds} seeds of LightGCN's training; rivals are tuned on validation. "
        "Behind it, the paired interval over users of LightGCN less the method, of seed 0, where it does not hold 0. "
        f"{machine()}."
    ]
    for name, rows in measured.items():
        [recall], [ndcg] = (
            rows.filter(pl.col("view") == "binary")[column].implode().to_list() for column in ("recall", "ndcg")
        )
        figures = ", ".join(f"{r:.4f} / {n:.4f}" for r, n in zip(recall, ndcg, strict=True))
        text += ["", f"**{name}**: LightGCN's Recall@{K} / NDCG@{K}, binary, by seed: {figures}.", "", _board(rows)]
        text += ["", _served(rows)]
    return "\n".join(text)


def _board(rows: pl.DataFrame) -> str:
    seeds = rows.filter(pl.col("view") != "binary")
    means = {key: part["ndcg"].mean() for key, part in seeds.group_by("method", "view", "k")}
    apart = {
        (row["method"], row["view"], row["k"]): f" ({row['ci_low']:+.4f}, {row['ci_high']:+.4f})"
        for row in seeds.filter((pl.col("seed") == 0) & pl.col("ci_low").is_not_null()).to_dicts()
        if row["ci_low"] > 0 or row["ci_high"] < 0
    }
    methods = sorted({method for method, *_ in means}, key=lambda method: -means[method, *SHOWN[0]])
    best = {pane: max(means[method, *pane] for method in methods) for pane in SHOWN}

    def cell(method: str, pane: tuple[str, int]) -> str:
        mean = means[method, *pane]
        shown = f"**{mean:.4f}**" if mean == best[pane] else f"{mean:.4f}"
        return shown + apart.get((method, *pane), "")

    names = ("", *(f"{view} @{k}" for view, k in SHOWN))
    return table(names, [(method, *(cell(method, pane) for pane in SHOWN)) for method in methods])


def _served(rows: pl.DataFrame) -> str:
    """Sentence on the difference of `ranked` from the best other method of seed 0, with its interval, in each pane."""
    others = rows.filter((pl.col("view") != "binary") & (pl.col("seed") == 0) & (pl.col("method") != RANKED))
    said = []
    for view, k in SHOWN:
        best = others.filter(view=view, k=k).sort("ndcg", descending=True).row(0, named=True)
        low, difference, high = (best[f"{RANKED}_{name}"] for name in ("ci_low", "difference", "ci_high"))
        said.append(f"{view} @{k} {difference:+.4f} ({low:+.4f}, {high:+.4f}) over {best['method']}")
    return f"`{RANKED}` less the best other method, seed 0: {'; '.join(said)}."


def ablation_section(measured: dict[str, pl.DataFrame], seeds: int) -> str:
    """One row for each variant, one column for each set, as Markdown: what the variant's validation NDCG@10 gains."""
    told = {}
    for name, rows in measured.items():
        by_seed = rows.pivot("seed", index="variant", values="validation_ndcg", maintain_order=True)
        found = {variant: np.array(ndcg) for variant, *ndcg in by_seed.iter_rows()}
        whole = found.pop(AS_TRAINED)
        told[name] = {AS_TRAINED: f"{whole.mean():.4f}"} | {
            variant: f"{(ndcg - whole).mean():+.4f} ± {(ndcg - whole).std(ddof=1) / np.sqrt(seeds):.4f}"
            for variant, ndcg in found.items()
        }
    variants = dict.fromkeys(variant for cells in told.values() for variant in cells)
    rows = [(variant, *(cells.get(variant, "") for cells in told.values())) for variant in variants]
    text = (
        f"Validation NDCG@10 in `discovery`, means over {seeds} seeds, and what it gains if one part is changed, ± its "
        f"standard error over the same seeds. {machine()}."
    )
    return f"{text}\n\n{table(('', *told), rows)}"
