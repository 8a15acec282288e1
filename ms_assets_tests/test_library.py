"""The library in a program of one's own: from frames to recommendations, errors in one sentence, no side effects."""

import doctest
import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import ms_assets
from ms_assets import (
    BPR,
    EASE,
    IALS,
    SVD,
    ContentBased,
    DecayedPopular,
    GraphFilter,
    ItemKNN,
    LightGCN,
    LightGCNReplay,
    Popular,
    Random,
    Replay,
    SessionKNN,
    SongIndex,
    Transitions,
    evaluate,
    split,
)
from ms_assets.files import DamagedFileError
from ms_assets.retrieval import recommender
from ms_assets.retrieval.recommender import NotFittedError
from ms_assets_tests import slow_metrics
from ms_assets_tests.training.graphs import unit_rows

N_USERS, N_SONGS, N_COLD = 30, 40, 4
SMALL = {"epochs": 1, "embedding_dim": 16}
CHEAP = {
    "Popular": Popular,
    "DecayedPopular": lambda: DecayedPopular(half_life_days=0.001),
    "Random": lambda: Random(seed=3),
    "Replay": lambda: Replay(decay=0.5),
    "SessionKNN": lambda: SessionKNN(half_life_hours=0.01),
    "Transitions": Transitions,
    "GraphFilter": lambda: GraphFilter(factors=8),
    "EASE": EASE,
    "BPR": lambda: BPR(factors=8),
    "ItemKNN": lambda: ItemKNN(neighbours=10),
    "IALS": lambda: IALS(factors=8),
    "SVD": lambda: SVD(factors=8),
    "ContentBased": ContentBased,
}
METHODS = CHEAP | {"LightGCN": lambda: LightGCN(**SMALL), "LightGCNReplay": lambda: LightGCNReplay(0.5, **SMALL)}
KNOW_NO_SIMILARITY = (
    "Popular",
    "DecayedPopular",
    "Random",
    "Replay",
    "SessionKNN",
    "Transitions",
    "GraphFilter",
    "EASE",
)


def planted():
    """Events of users who love every second song, with a time each; nobody hears the last songs."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(N_USERS), 30)
    song = 2 * rng.integers((N_SONGS - N_COLD) // 2, size=len(user)) + user % 2
    kinds = rng.choice(["listen", "like", "dislike"], len(user), p=[0.8, 0.1, 0.1])
    columns = {"user": [f"user {u:02d}" for u in user], "song": [f"song {s:02d}" for s in song]}
    return pl.DataFrame({**columns, "time": 1_000 + rng.permutation(len(user)), "type": kinds})


EVENTS = planted()
AUDIO = unit_rows(np.random.default_rng(1), N_SONGS)
CATALOGUE = pl.DataFrame(
    {
        "song": [f"song {song:02d}" for song in range(N_SONGS)],
        "audio": [None if song == 5 else row for song, row in enumerate(AUDIO.tolist())],
        "artists": [[f"artist {song % 7}"] for song in range(N_SONGS)],
    },
    schema_overrides={"audio": pl.List(pl.Float32)},
)
TRAIN, VALIDATION, TEST = split(EVENTS)
HEARD = TRAIN.filter(pl.col("type") != "dislike").select("user", "song").unique()


@pytest.fixture(scope="module")
def fitted():
    """Every method fitted to the planted events, each when it is first asked for."""
    models = {}

    def of(name):
        if name not in models:
            models[name] = METHODS[name]().fit(TRAIN, VALIDATION, CATALOGUE)
        return models[name]

    return of


def test_from_a_frame_of_users_and_songs_to_recommendations_and_their_ndcg_in_five_statements():
    events = EVENTS.select("user", "song")
    train, validation, test = split(events)
    model = LightGCN(**SMALL).fit(train, validation)
    lists = model.recommend(k=10)
    board = evaluate(lists, test, train, ks=[10])
    ndcg = board.filter(metric="ndcg")["mean"].item()
    assert lists["user"].n_unique() == N_USERS
    assert 0 < ndcg <= 1


@pytest.mark.parametrize("name", METHODS)
def test_fit_returns_the_recommender_itself(name):
    model = METHODS[name]()
    assert model.fit(TRAIN, VALIDATION, CATALOGUE) is model


@pytest.mark.parametrize("exclude_heard", [False, True])
@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("name", METHODS)
def test_lists_are_ranked_from_1_without_gaps_best_first_and_without_heard_songs_unless_asked(
    fitted, name, k, exclude_heard
):
    lists = fitted(name).recommend(k=k, exclude_heard=exclude_heard)
    assert lists.columns == ["user", "rank", "song", "score"]
    assert lists.schema["user"] == lists.schema["song"] == pl.String
    for (user,), own in lists.group_by("user", maintain_order=True):
        assert own["rank"].to_list() == list(range(1, len(own) + 1))
        assert len(own) <= k and own["song"].n_unique() == len(own)
        assert own["score"].is_sorted(descending=True)
        if exclude_heard:
            assert not set(own["song"]) & set(HEARD.filter(user=user)["song"])
    full = {"Popular", "DecayedPopular", "Random", "LightGCN", "LightGCNReplay"}
    if name in full and not exclude_heard:
        assert len(lists) == N_USERS * min(k, N_SONGS)


@pytest.mark.parametrize("name", METHODS)
def test_users_are_answered_in_the_order_in_which_they_are_asked_for(fitted, name):
    users = ["user 17", "user 03", "user 29"]
    lists = fitted(name).recommend(users, k=4, exclude_heard=False)
    assert lists["user"].unique(maintain_order=True).to_list() == users
    alone = fitted(name).recommend(["user 03"], k=4, exclude_heard=False)
    assert alone["song"].to_list() == lists.filter(user="user 03")["song"].to_list()
    assert fitted(name).recommend([]).is_empty()


@pytest.mark.parametrize("name", METHODS)
def test_what_is_saved_and_loaded_recommends_the_same(fitted, name, tmp_path):
    model, path = fitted(name), tmp_path / "model.npz"
    model.save(path)
    loaded = type(model).load(path)
    for exclude_heard in (False, True):
        wanted = model.recommend(k=12, exclude_heard=exclude_heard)
        assert_frame_equal(loaded.recommend(k=12, exclude_heard=exclude_heard), wanted)
    if name not in KNOW_NO_SIMILARITY:
        songs = CATALOGUE["song"].to_list()
        assert_frame_equal(loaded.similar(songs), model.similar(songs))
    with np.load(path, allow_pickle=False) as file:
        assert all(file[array].dtype != object for array in file.files)


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(KNOW_NO_SIMILARITY)))
def test_similar_songs_are_others_best_first(fitted, name):
    songs = CATALOGUE["song"].to_list()
    found = fitted(name).similar(songs, k=5)
    assert found.columns == ["song", "rank", "similar", "score"]
    assert not found.filter(pl.col("song") == pl.col("similar")).height
    for _, own in found.group_by("song"):
        assert own["rank"].to_list() == list(range(1, len(own) + 1)) and len(own) <= 5
        assert own["similar"].n_unique() == len(own)
        assert own["score"].is_sorted(descending=True)
    if name in ("ItemKNN", "SVD", "IALS", "BPR"):  # of the same taste, and not of songs that nobody has heard
        same = found.filter(pl.col("song").str.slice(5).cast(int) % 2 == pl.col("similar").str.slice(5).cast(int) % 2)
        assert len(same) > 0.9 * len(found)
        assert set(found["song"]) == set(TRAIN.filter(pl.col("type") != "dislike")["song"])


def test_a_song_without_audio_is_like_no_other_and_no_other_is_like_it(fitted):
    found = fitted("ContentBased").similar(CATALOGUE["song"].to_list(), k=N_SONGS)
    assert "song 05" not in {*found["song"], *found["similar"]}
    assert len(found) == (N_SONGS - 1) * (N_SONGS - 2)


@pytest.mark.parametrize("name", KNOW_NO_SIMILARITY)
def test_a_method_that_knows_no_similarity_names_those_that_do(fitted, name):
    with pytest.raises(NotImplementedError, match="has no similarity of songs; ask ItemKNN, SVD, IALS, BPR, Co"):
        fitted(name).similar(["song 01"])


def in_every_form(frame, folder):
    frame.write_parquet(folder / "frame.parquet")
    return {
        "polars": frame,
        "pandas": frame.to_pandas(),
        "Arrow": frame.to_arrow(),
        "a path": folder / "frame.parquet",
        "a path in a string": str(folder / "frame.parquet"),
    }


@pytest.mark.parametrize("name", CHEAP)
def test_frames_of_polars_pandas_arrow_and_parquet_give_equal_lists(name, fitted, tmp_path):
    (tmp_path / "songs").mkdir()
    songs = in_every_form(CATALOGUE, tmp_path / "songs")
    wanted = fitted(name).recommend(k=9, exclude_heard=False)
    for form, train in in_every_form(TRAIN, tmp_path).items():
        found = METHODS[name]().fit(train, songs=songs[form]).recommend(k=9, exclude_heard=False)
        assert_frame_equal(found, wanted)


def test_frames_of_every_form_are_divided_and_evaluated_equally(fitted, tmp_path):
    parts = [split(events) for events in in_every_form(EVENTS, tmp_path).values()]
    for found in parts:
        for part, wanted in zip(found, (TRAIN, VALIDATION, TEST), strict=True):
            assert_frame_equal(part, wanted)
    lists = fitted("SVD").recommend()
    wanted = evaluate(lists, TEST, TRAIN, CATALOGUE)
    folders = [tmp_path / name for name in ("lists", "test", "train", "songs")]
    for folder in folders:
        folder.mkdir()
    forms = [in_every_form(*pair) for pair in zip((lists, TEST, TRAIN, CATALOGUE), folders, strict=True)]
    for form in forms[0]:
        assert_frame_equal(evaluate(*(given[form] for given in forms)), wanted)


@pytest.mark.parametrize("name", METHODS)
def test_ids_that_are_numbers_and_ids_that_are_strings_rank_alike(fitted, name):
    def numbers(frame):
        ids = [pl.col(column).str.slice(5).cast(int) for column in ("user", "song") if column in frame.columns]
        return frame.with_columns(ids)

    model = METHODS[name]().fit(*map(numbers, (TRAIN, VALIDATION, CATALOGUE)))
    found = model.recommend(k=9, exclude_heard=False)
    assert_frame_equal(found, numbers(fitted(name).recommend(k=9, exclude_heard=False)), abs_tol=1e-6)
    assert model.recommend([3], k=1, exclude_heard=False)["user"].to_list() == [3]


IDS = {
    "small numbers": lambda ids: pl.Series(ids, dtype=pl.Int16),
    "numbers beyond 2^63": lambda ids: pl.Series([2**63 + id_ for id_ in ids], dtype=pl.UInt64),
    "letters of any script": lambda ids: pl.Series(["жüß"[id_] for id_ in ids]),
    "categories": lambda ids: pl.Series([["ann", "bob", "cem"][id_] for id_ in ids]).cast(pl.Categorical),
}


@pytest.mark.parametrize("made", IDS.values(), ids=IDS)
def test_ids_come_back_as_they_were_given(made, tmp_path):
    events = pl.DataFrame({"user": made([0, 0, 1, 1, 2]), "song": made([0, 1, 0, 1, 0])})
    SVD(factors=1).fit(events).save(tmp_path / "model.npz")
    lists = SVD.load(tmp_path / "model.npz").recommend(events["user"][-1:], k=1)
    assert lists.select("user", "song").rows() == [(events["user"][-1], events["song"][1])]
    assert evaluate(lists, events.tail(1), events, exclude_heard=True)["method"].unique().to_list() == [
        "recommendations"
    ]


@pytest.mark.parametrize("name", CHEAP)
def test_the_order_of_rows_does_not_matter_where_times_are_given(fitted, name):
    shuffled = TRAIN.sample(fraction=1, shuffle=True, seed=5)
    found = METHODS[name]().fit(shuffled, VALIDATION, CATALOGUE.reverse()).recommend(k=9, exclude_heard=False)
    assert_frame_equal(found, fitted(name).recommend(k=9, exclude_heard=False))
    for part, wanted in zip(split(EVENTS.sample(fraction=1, shuffle=True, seed=6)), split(EVENTS), strict=True):
        assert_frame_equal(part, wanted)


def test_songs_that_nobody_has_heard_are_recommended_by_those_that_know_the_whole_catalogue(fitted):
    cold = {f"song {song:02d}" for song in range(N_SONGS - N_COLD, N_SONGS)}
    for name in METHODS:
        listed = set(fitted(name).recommend(k=N_SONGS, exclude_heard=False)["song"])
        knows_cold = name in ("Popular", "DecayedPopular", "Random", "ContentBased", "LightGCN", "LightGCNReplay")
        assert cold <= listed if knows_cold else not cold & listed


@pytest.mark.parametrize("name", METHODS)
def test_who_asks_before_fitting_is_told_to_fit(name, tmp_path):
    model = METHODS[name]()
    for ask in (model.recommend, lambda: model.similar(["song 01"]), lambda: model.save(tmp_path / "model.npz")):
        with pytest.raises(NotFittedError, match=r"^\w+ is not fitted; call fit\(train\) first$"):
            ask()
    assert not list(tmp_path.iterdir())


ASKED_WRONGLY = {
    "k of 0": (lambda m: m.recommend(k=0), "k: found 0, expected at least 1"),
    "k below 0": (lambda m: m.similar(["song 01"], k=-3), "k: found -3, expected at least 1"),
    "an unknown user": (
        lambda m: m.recommend(["user 01", "nobody", "none"]),
        "users: found 2 unknown of 3, such as nobody; expected ids of the events that the model was fitted to",
    ),
    "an unknown song": (
        lambda m: m.similar(["silence"]),
        "songs: found 1 unknown of 1, such as silence; expected ids of the events that the model was fitted to",
    ),
    "users of another type": (
        lambda m: m.recommend([7]),
        "users: found ids such as 7, expected ids such as user 00, of another type",
    ),
    "songs of another type": (
        lambda m: m.similar([7]),
        "songs: found ids such as 7, expected ids such as song .*, of another type",
    ),
}


@pytest.mark.parametrize(("ask", "said"), ASKED_WRONGLY.values(), ids=ASKED_WRONGLY)
def test_who_asks_wrongly_is_told_what_was_found_and_what_is_expected(fitted, ask, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        ask(fitted("SVD"))


GIVEN_WRONGLY = {
    "no user column": (TRAIN.drop("user"), "train: found columns song, time, type, expected user and song; rename"),
    "null ids": (TRAIN.with_columns(song=pl.lit(None, pl.String)), "train: found rows without song, expected an id"),
    "an unknown event type": (
        TRAIN.with_columns(type=pl.lit("skip")),
        "train: column type has values such as .*'skip'",
    ),
    "a played ratio beyond 1": (TRAIN.with_columns(played_ratio=1.5), "train: column played_ratio has values such as"),
    "nothing": (TRAIN.clear(), "train: found no listen, like or undislike, expected events to learn from"),
    "dislikes alone": (TRAIN.with_columns(type=pl.lit("dislike")), "train: found no listen, like or undislike"),
    "a number": (7, "train: found int, expected a frame of polars or pandas, or a Parquet file's path"),
}


@pytest.mark.parametrize(("train", "said"), GIVEN_WRONGLY.values(), ids=GIVEN_WRONGLY)
def test_events_that_cannot_be_learned_from_are_refused_by_name(train, said):
    with pytest.raises(ValueError, match=said):
        Popular().fit(train)


@pytest.mark.parametrize(
    ("songs", "said"),
    [
        (
            pl.DataFrame({"song": [1]}),
            "column song: found VARCHAR in train, .* in songs, expected one type; cast the ids",
        ),
        (
            pl.DataFrame({"song": ["a", "b"], "audio": [[1.0], [1.0, 2.0]]}),
            r"songs: found audio vectors of \[1, 2\] numb",
        ),
        (pl.DataFrame({"song": ["a"]}), "ContentBased: found no song with audio, expected songs with a column audio"),
    ],
)
def test_songs_that_do_not_fit_are_refused_by_name(songs, said):
    with pytest.raises(ValueError, match=said):
        ContentBased().fit(TRAIN, songs=songs)


def test_a_setting_that_nobody_knows_is_refused_by_name():
    with pytest.raises(ValueError, match=r"TrainingSettings: epoch\b"):
        LightGCN(epoch=3)


@pytest.mark.parametrize(
    ("name", "value"), [("use_study", True), ("replace_checkpoint", True), ("checkpoint_seconds", 5), ("ranks", 2)]
)
def test_a_setting_that_only_the_asset_acts_on_is_refused_by_name(name, value):
    said = f"{name}: found {float(value) if name == 'checkpoint_seconds' else value}, expected none, for only the asset"
    for method in (LightGCN, LightGCNReplay):
        with pytest.raises(ValueError, match=said):
            method(**{name: value})


def test_a_refit_learns_from_validation_too_and_is_the_same_training_without_one():
    """The songs that users took to in validation come nearer; the epoch is chosen as without a refit."""
    fitted, refitted = (LightGCN(**SMALL, refit=refit).fit(TRAIN, VALIDATION) for refit in (False, True))
    assert refitted.trained.best == replace(fitted.trained.best, seconds=refitted.trained.best.seconds)
    user, song = fitted.dataset.validation.user, fitted.dataset.validation.song
    new = np.flatnonzero((song < fitted.dataset.n_graph_songs) & ~fitted.dataset.validation.among(fitted.dataset.heard))
    near = [(m.learned["users"][user[new]] * m.learned["songs"][song[new]]).sum(axis=1) for m in (fitted, refitted)]
    assert near[1].mean() > near[0].mean() + 0.01
    alone = [LightGCN(**SMALL, refit=refit).fit(TRAIN).learned for refit in (False, True)]
    for name in ("users", "songs"):
        np.testing.assert_array_equal(alone[0][name], alone[1][name])


def test_a_file_of_another_class_or_format_or_a_damaged_one_is_refused_by_name(fitted, tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    fitted("SVD").save(path)
    with pytest.raises(ValueError, match=r"model\.npz: found a SVD of format 3, expected a IALS of format 3; load it "):
        IALS.load(path)
    monkeypatch.setattr(recommender, "FORMAT", 4)
    with pytest.raises(
        ValueError, match=r"found a SVD of format 3, expected a SVD of format 4; .* fit and save it again"
    ):
        SVD.load(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DamagedFileError, match=r"model\.npz cannot be read .*; if it is damaged, save the model again"):
        SVD.load(path)


def test_an_index_finds_the_nearest_songs_and_comes_back_from_its_file(tmp_path):
    vectors = unit_rows(np.random.default_rng(0), 300, 8)
    index = SongIndex.build(vectors, ids=np.arange(300) + 1_000)
    found, scores = index.search(vectors[:20], 5)
    wanted = np.argsort(-(vectors[:20] @ vectors.T), axis=1)[:, :5]
    np.testing.assert_array_equal(found - 1_000, wanted)
    np.testing.assert_allclose(scores, np.take_along_axis(vectors[:20] @ vectors.T, wanted, axis=1), atol=1e-6)
    index.save(tmp_path / "songs.faiss")
    np.testing.assert_array_equal(SongIndex.load(tmp_path / "songs.faiss").search(vectors[:20], 5)[0], found)
    (tmp_path / "songs.faiss").write_bytes(b"no index")
    with pytest.raises(DamagedFileError, match=r"songs\.faiss cannot be read"):
        SongIndex.load(tmp_path / "songs.faiss")


def number(song):
    return int(song[5:])


def slow_means(lists, exclude_heard, k):
    """Means and numbers of users of some metrics, one user after the other."""
    values = {}
    heard = {user: set(map(number, own["song"])) for (user,), own in HEARD.group_by("user")}
    plays = TRAIN.filter(type="listen").group_by("user", "song").len().rows()
    n_plays = {(user, number(song)): n for user, song, n in plays}
    for (user,), events in TEST.group_by("user"):
        base = {}
        for song, kind in zip(map(number, events["song"]), events["type"], strict=True):
            base[song] = base.get(song, 0) + {"listen": 0.7, "like": 1, "dislike": 0}[kind]
        worth = {
            song: min(value * (1 + 0.05 * min(n_plays.get((user, song), 0), 20) / 20), 1)
            for song, value in base.items()
            if value and not (exclude_heard and song in heard[user])
        }
        shown = [*map(number, lists.filter(user=user).sort("rank")["song"]), *[-1] * k][:k]
        candidates = set(range(N_SONGS)) - (heard[user] if exclude_heard else set())
        for name, value in {
            "ndcg": slow_metrics.ndcg(shown, worth),
            "recall": slow_metrics.recall(shown, set(worth)),
            "precision": slow_metrics.precision(shown, set(worth)),
            "mrr": slow_metrics.reciprocal_rank(shown, set(worth)),
            "hit": slow_metrics.hit(shown, set(worth)),
            "auc": slow_metrics.auc(shown, set(worth), candidates),
            "novelty": slow_metrics.novelty(shown, heard[user]),
            "artist_diversity": slow_metrics.artist_diversity(shown, [[song % 7] for song in range(N_SONGS)]),
            "cold_share": slow_metrics.share(shown, set(range(N_SONGS - N_COLD, N_SONGS))),
        }.items():
            values.setdefault(name, []).extend([] if value is None else [value])
    return {name: (np.mean(known), len(known)) for name, known in values.items()}


@pytest.mark.parametrize("exclude_heard", [False, True])
@pytest.mark.parametrize("name", ["ItemKNN", "Random"])
def test_evaluate_gives_the_means_of_a_loop_over_users(fitted, name, exclude_heard):
    lists = fitted(name).recommend(k=10, exclude_heard=exclude_heard)
    board = evaluate(lists, TEST, TRAIN, CATALOGUE, ks=[3, 10], exclude_heard=exclude_heard)
    assert set(board["view"]) == {"discovery" if exclude_heard else "all"}
    for k in (3, 10):
        for metric, (mean, n_users) in slow_means(lists, exclude_heard, k).items():
            [row] = board.filter(k=k, metric=metric).to_dicts()
            assert (row["mean"], row["n_users"]) == (pytest.approx(mean, abs=1e-9), n_users), metric
            assert row["ci_low"] <= row["mean"] <= row["ci_high"]
        [coverage] = board.filter(k=k, metric="coverage")["mean"]
        assert coverage == lists.filter(pl.col("rank") <= k)["song"].n_unique() / N_SONGS


def test_several_methods_are_measured_side_by_side_and_each_as_when_alone(fitted):
    lists = {name: fitted(name).recommend() for name in ("Popular", "SVD", "LightGCN")}
    board = evaluate(lists, TEST, TRAIN, CATALOGUE)
    assert set(board["method"]) == set(lists)
    for name, shown in lists.items():
        alone = evaluate({name: shown}, TEST, TRAIN, CATALOGUE)
        assert_frame_equal(board.filter(method=name), alone)


LISTS = pl.DataFrame({"user": ["user 01"], "rank": [1], "song": ["song 39"]})
TWICE = "recommendations: found user user 01, rank 1, song song 39, expected ranks from 1, and no rank or song twice"
MISJUDGED = {
    "a heard song": (
        {"recommendations": {"mine": HEARD.head(1).with_columns(rank=1)}},
        "mine: found song song .. for user user .., who has heard it in train; leave heard songs out, or evaluate with "
        "exclude_heard=False",
    ),
    "no rank": (
        {"recommendations": LISTS.drop("rank")},
        "recommendations: found columns user, song, expected user, ran",
    ),
    "no known user": (
        {"recommendations": LISTS.with_columns(user=pl.lit("nobody"))},
        "recommendations: found no user of train or test, expected their ids in the column user",
    ),
    "songs of another type": (
        {"recommendations": LISTS.with_columns(song=1)},
        "column song: found INTEGER in recommendations, VARCHAR in train, .*expected one type; cast the ids alike",
    ),
    "users of another type": (
        {"recommendations": {"mine": LISTS.with_columns(user=1)}},
        "column user: found INTEGER in mine, VARCHAR in train, .*expected one type; cast the ids alike",
    ),
    "ranks from 0": ({"recommendations": LISTS.with_columns(rank=0)}, TWICE.replace("rank 1", "rank 0")),
    "a rank given twice": ({"recommendations": pl.concat([LISTS, LISTS.with_columns(song=pl.lit("song 38"))])}, TWICE),
    "a song given twice": (
        {"recommendations": pl.concat([LISTS, LISTS.with_columns(rank=pl.lit(2, pl.Int64))])},
        TWICE,
    ),
    "lengths that do not ascend": ({"ks": [10, 3]}, "found .10, 3., expected ascending lengths within 1 and 100"),
    "a length beyond 100": ({"ks": [101]}, "found .101., expected ascending lengths within 1 and 100"),
    "a test part without songs": (
        {"test": TEST.drop("song")},
        "test: found columns user, time, type, expected user and",
    ),
}


@pytest.mark.parametrize(("given", "said"), MISJUDGED.values(), ids=MISJUDGED)
def test_lists_that_cannot_be_evaluated_are_refused_by_name(given, said):
    with pytest.raises(ValueError, match=said):
        evaluate(**{"recommendations": LISTS, "test": TEST, "train": TRAIN, "songs": CATALOGUE} | given)


def test_what_was_heard_may_be_listed_where_it_counts():
    heard = HEARD.head(1).with_columns(rank=1)
    board = evaluate(heard, TEST, TRAIN, CATALOGUE, exclude_heard=False)
    assert board.filter(metric="novelty", k=10)["mean"].item() == 0


PUBLIC = sorted({f"ms_assets.{module}" for module in ms_assets._HOMES} | {"ms_assets", "ms_assets.interactions"})


@pytest.mark.parametrize("module", PUBLIC)
def test_the_examples_of_the_documentation_are_right(module):
    assert doctest.testmod(import_module(module)).failed == 0


def test_every_public_name_is_documented_and_listed_and_no_other_is_found():
    for name in ms_assets.__all__:
        assert getattr(ms_assets, name).__doc__.strip()
    assert set(ms_assets.__all__) <= set(dir(ms_assets))
    with pytest.raises(AttributeError, match="module 'ms_assets' has no attribute 'Recommender'; it has BPR, EASE, IA"):
        ms_assets.Recommender  # noqa: B018


# Third parties are loaded before: NumPy, Polars, torch and MLflow set filters of warnings and variables of their own.
PROGRAM = """
import json, os, signal, sys, threading, warnings
sys.modules["dagster"] = None
for third_party in json.loads(sys.argv[2]):
    __import__(third_party)

def state():
    found = {
        "environment": dict(os.environ), "folder": os.getcwd(), "threads": threading.active_count(),
        "signals": {int(number): repr(signal.getsignal(number)) for number in signal.valid_signals()},
        "standard error": [os.readlink("/proc/self/fd/2"), repr(sys.stderr)], "hook": repr(sys.excepthook),
        "warnings": [repr(rule) for rule in warnings.filters],
    }
    if "torch" in sys.modules:
        import faiss, threadpoolctl, torch
        pools = {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
        found["pools"] = [pools, torch.get_num_threads(), torch.get_num_interop_threads(), faiss.omp_get_max_threads()]
    return found

before = state()
for module in json.loads(sys.argv[1]):
    __import__(module)
after = state()
changed = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
print(json.dumps({"changed": changed, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def library_modules():
    """Every module of the library; the others are the platform's."""
    root = Path(ms_assets.__file__).parent
    paths = [path.relative_to(root.parent).with_suffix("") for path in sorted(root.rglob("*.py"))]
    names = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    platform = ("ms_assets.defs", "ms_assets.definitions", "ms_assets.__main__")
    return {name for name in names if not name.startswith(platform)}


def loaded(modules, *third_party):
    """What loading modules changes in a process without Dagster, and which packages it then has."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(sorted(modules)), json.dumps(third_party)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return json.loads(run.stdout)


def test_every_module_of_the_library_loads_without_dagster_and_changes_nothing_in_the_process():
    modules = library_modules()
    assert len(modules) > 50 and {"ms_assets", "ms_assets.retrieval.lightgcn"} <= modules
    assert loaded(modules, "numpy", "polars", "torch", "faiss", "threadpoolctl", "mlflow")["changed"] == {}


def test_the_public_names_alone_change_no_more_than_the_libraries_that_they_load():
    assert loaded(PUBLIC, "numpy", "polars")["changed"] == {}


def test_the_package_itself_loads_no_library():
    assert not {"polars", "duckdb", "torch", "numpy", "pandas", "pyarrow"} & set(loaded(["ms_assets"])["loaded"])


def test_the_public_names_load_no_heavy_library():
    heavy = {"torch", "torch_geometric", "faiss", "mlflow", "matplotlib", "sklearn", "implicit", "optuna", "pandas"}
    assert not heavy & set(loaded(PUBLIC)["loaded"])
