"""Models of planted quality, and what users were looking for: whoever knows their tastes finds it."""

import itertools
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import faiss
import numpy as np
import polars as pl
import pyarrow as pa

from ms_assets.defs.platform.resources import MLflow
from ms_assets.evaluation.comparison import Holdout
from ms_assets.interactions import Interactions
from ms_assets.registry import Registry, Version
from ms_assets.reranking import pyfunc_model
from ms_assets.retrieval import served
from ms_assets.retrieval.served import ModelData
from ms_assets_tests.training.graphs import trained_model

N_USERS, N_SONGS, N_HEARD, N_TARGETS, DIMENSIONS = 60, 200, 6, 8, 16
UID, ITEM_ID = 7 * np.arange(N_USERS) + 1_000, 2**32 - 1 - 3 * np.arange(N_SONGS)
POPULAR = pa.table({"item_id": ITEM_ID[::2], "score": np.linspace(9, 1, N_SONGS // 2).astype(np.float32)})
TRAINING = trained_model(best=0.25, inputs={"splits/train": "run@1.000"})
CLEAR = 3e-7
"""A difference of scores that no processor's rounding of float32 turns round."""
_numbers = itertools.count()


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


_rng = np.random.default_rng(33_228)  # of which no model below ranks two songs by less than CLEAR
SONGS = unit(_rng.standard_normal((N_SONGS, DIMENSIONS)))
TASTES = unit(_rng.standard_normal((N_USERS, DIMENSIONS)))
BEST_FIRST = np.argsort(-TASTES @ SONGS.T, axis=1)
HEARD, WANTED = BEST_FIRST[:, :N_HEARD], BEST_FIRST[:, N_HEARD : N_HEARD + N_TARGETS]


def model(noise: float, seed: int = 0) -> ModelData:
    """A model that knows users' tastes but for so much noise: 0 finds everything, 3 hardly anything."""
    users = unit(TASTES + noise * unit(np.random.default_rng(seed).standard_normal(TASTES.shape)))
    scores = np.sort(users.astype(np.float64) @ SONGS.T.astype(np.float64), axis=1)
    assert np.diff(scores, axis=1).min() > CLEAR, "another processor might rank songs otherwise: take another seed"
    return ModelData(UID, ITEM_ID, users, SONGS, heard(HEARD))


def heard(songs, n_songs: int = N_SONGS) -> Interactions:
    """Every user with their row of an array of songs."""
    return Interactions.of(np.repeat(np.arange(N_USERS), songs.shape[1]), songs.ravel(), N_USERS, n_songs)


def part(known: ModelData, users=slice(None), songs=slice(None)) -> ModelData:
    """A model of some of the users and songs, in the order given."""
    users, songs = np.arange(len(known.uid))[users], np.arange(len(known.item_id))[songs]
    place = np.full(len(known.item_id), -1)
    place[songs] = np.arange(len(songs))
    song, row = known.heard.take(users)
    kept = place[song] >= 0
    return replace(
        known, uid=known.uid[users], item_id=known.item_id[songs], users=known.users[users], songs=known.songs[songs],
        heard=Interactions.of(row[kept], place[song[kept]], len(users), len(songs)),
    )  # fmt: skip


def pairs(songs) -> pl.DataFrame:
    """uid and item_id of an array of songs for each user."""
    return pl.DataFrame({"uid": np.repeat(UID, songs.shape[1]), "item_id": ITEM_ID[songs.ravel()]})


def holdout() -> Holdout:
    """Users found eight songs that they had not heard, the better they fit the better."""
    relevance = np.tile(np.linspace(1, 0.3, N_TARGETS), N_USERS)
    return Holdout(pairs(WANTED).with_columns(relevance=pl.Series(relevance)), pairs(HEARD))


def index(known: ModelData) -> faiss.Index:
    flat = faiss.IndexIDMap2(faiss.IndexFlatIP(known.songs.shape[1]))
    flat.add_with_ids(known.songs, known.item_id)
    return flat


def register(registry: Registry, known: ModelData) -> Version:
    with TemporaryDirectory() as folder:
        served.write(Path(folder), known, POPULAR, index(known))
        candidate = pyfunc_model.candidate(Path(folder), int(known.uid[0]), TRAINING, run_id=None)
        return registry.register(candidate)[0]


def new_registry(store: MLflow) -> Registry:
    """A registered model of its own in a shared store."""
    return store.registry(f"planted-{next(_numbers)}")
