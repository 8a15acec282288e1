"""Users left out of training, folded in by their songs, beside the lists that training would have given them."""

import numpy as np
import polars as pl
import pytest

import ms_assets as ms
from ms_assets.retrieval import queries

N_SCENES, N_SONGS, N_USERS, N_EVENTS = 12, 25, 240, 24
SETTINGS = {"epochs": 2, "embedding_dim": 16, "neutral_negatives": 16, "race": False}


@pytest.fixture(scope="module")
def parts():
    """Listens, nine in ten of them to songs of the user's own scene, some of which are liked more than others."""
    rng = np.random.default_rng(0)
    rows = [
        (user, scene * N_SONGS + int(N_SONGS * rng.random() ** 2), 60 * time)
        for user in range(N_USERS)
        for time in range(N_EVENTS)
        for scene in [user % N_SCENES if rng.random() < 0.9 else rng.integers(N_SCENES)]
    ]
    return ms.split(pl.DataFrame(rows, ["user", "song", "time"], orient="row"))


def ndcg(lists, test, train):
    board = ms.evaluate({"lists": lists}, test, train, ks=[10])
    return board.filter(metric="ndcg")["mean"].item()


def test_users_left_out_of_training_have_nine_tenths_of_the_ndcg_that_they_would_have_had_inside(parts):
    train, validation, test = parts
    left_out = list(range(0, N_USERS, 5))
    known = [part.filter(~pl.col("user").is_in(left_out)) for part in (train, validation)]
    theirs, wanted = (part.filter(pl.col("user").is_in(left_out)) for part in (train, test))
    inside = ms.LightGCN(**SETTINGS).fit(train, validation).recommend(left_out, k=10)
    model = ms.LightGCN(**SETTINGS).fit(*known)
    place = {song: row for row, song in enumerate(model.dataset.song_ids.tolist())}
    vectors, rows = model.learned["songs"], []
    gram = queries.gram(vectors)
    for (user,), events in theirs.group_by("user"):
        heard = [(place[song], time) for song, time in events.select("song", "time").iter_rows() if song in place]
        song, time = np.array(heard).T
        query = queries.folded(vectors[song], song, time.max() - time.astype(float), {}, gram)
        scores = vectors @ query
        scores[song] = -np.inf
        found = model.dataset.song_ids[np.argsort(-scores)[:10]].tolist()
        rows += [(user, rank, song) for rank, song in enumerate(found, start=1)]
    folded = pl.DataFrame(rows, ["user", "rank", "song"], orient="row")
    popular = ms.Popular().fit(train).recommend(left_out, k=10)
    reached = ndcg(folded, wanted, theirs)
    assert reached >= 0.9 * ndcg(inside, wanted, theirs)
    assert reached > 2 * ndcg(popular, wanted, theirs)
