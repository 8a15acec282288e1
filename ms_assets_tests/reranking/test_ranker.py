"""The learned ranker in a world whose right order is known, and the bounds of what it learns from."""

from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from ms_assets.machine import NotEnoughMemoryError
from ms_assets.reranking import cold, passes, ranker
from ms_assets.reranking.ranker import Material, Ranker, learn
from ms_assets_tests.reranking.tastes import N_SILENT, N_SONGS, N_USERS, Tastes, knowledge, material, tables

UID, ITEM_ID = 10 * np.arange(N_USERS) + 3, 7 * np.arange(N_SONGS) + 1


@pytest.fixture(scope="module")
def world():
    con, tastes = duckdb.connect(), Tastes.of()
    train, ground_truth, lists = tables(con, tastes)
    known = knowledge(train)
    table = con.from_arrow(pa.concat_tables(material(known, lists, train, ground_truth)))
    learned = {view: learn(material) for view, material in passes.read(table).items()}
    names = passes.read(table)["all"].names
    starts = {view: found.start for view, found in learned.items()}
    model = Ranker({view: found.models for view, found in learned.items()}, names, starts)
    return con, tastes, train, ground_truth, lists, known, table, model


def listed(known, lists, train, model):
    rows = pa.concat_tables(passes.ranked(known, lists, train, model, UID, ITEM_ID)).to_pylist()
    found = {}
    for row in rows:
        found.setdefault((row["view"], row["user_id"]), []).append(row["song_id"])
    return found


def test_a_recent_favourite_comes_before_an_old_one_and_that_before_a_new_song_of_the_favourite_artist(world):
    _, tastes, train, _, lists, known, _, model = world
    found = listed(known, lists, train, model)
    unseen = range(N_USERS - N_SILENT, N_USERS)
    wanted = [[tastes.recent[user], tastes.old[user], tastes.new[user]] for user in unseen]
    first = [[song for song in found["all", user] if song in songs] for user, songs in zip(unseen, wanted, strict=True)]
    assert first == wanted
    assert [found["all", user][:2] for user in unseen] == [songs[:2] for songs in wanted]


def test_in_discovery_songs_of_the_favourite_artist_come_first_and_no_heard_song_comes_at_all(world):
    _, tastes, train, _, lists, known, _, model = world
    found = listed(known, lists, train, model)
    for user in range(N_USERS):
        songs = found["discovery", user]
        assert set(songs).isdisjoint({tastes.recent[user], tastes.old[user], *tastes.others[user]})
        assert {song // 4 for song in songs[:2]} == {tastes.new[user] // 4}


def test_cold_songs_of_which_validation_taught_nothing_keep_their_places_and_others_are_ranked(world, monkeypatch):
    _, _, train, _, lists, known, _, model = world
    monkeypatch.setattr(cold, "PLACED_BY", ("item_knn",))
    met = np.where(np.arange(N_SONGS) < 4, 0.0, known.of_songs["met"])
    unmet = replace(known, of_songs={**known.of_songs, "met": met})
    ranked = listed(unmet, lists, train, model)
    kept = listed(unmet, lists, train, replace(model, unmet_cold=["discovery"]))
    for user in range(N_USERS):
        songs = (
            lists["item_knn"].filter(f"view = 'discovery' AND user_id = {user}").order("rank").fetchnumpy()["song_id"]
        )
        for place, song in enumerate(songs):
            assert song >= 4 or kept["discovery", user][place] == song
        assert kept["all", user] == ranked["all", user]
        others = [[song for song in found["discovery", user] if song >= 4] for found in (ranked, kept)]
        assert others[0] == others[1]


def test_each_user_is_held_out_from_the_model_that_scores_them(world):
    *_, table, model = world
    material = passes.read(table)["all"]
    scores, fold = model.held_out("all", material), material.folds()
    start = material.start(model.starts["all"])
    for n, one in enumerate(model.models["all"]):
        assert np.array_equal(scores[fold == n], start[fold == n] + one.predict(material.features[fold == n]))
    users_of = [set(material.user[fold == n]) for n in range(ranker.FOLDS)]
    assert sum(map(len, users_of)) == len(set().union(*users_of)) == N_USERS - N_SILENT
    assert material.ndcg(scores)[:, 0].mean() > 0.9


def test_a_ranker_is_the_same_after_it_is_written_and_read_and_when_it_is_learned_again(world):
    *_, table, model = world
    material, files = passes.read(table)["discovery"], model.to_files()
    again = Ranker.of_files(files)
    assert again.names == list(model.names)
    assert np.array_equal(again.scores("discovery", material.features), model.scores("discovery", material.features))
    assert again.to_files() == files
    twice = Ranker({**model.models, "discovery": learn(material).models}, model.names, model.starts)
    assert twice.to_files() == files


def test_a_ranker_of_another_format_is_refused(world):
    *_, model = world
    files = model.to_files()
    with pytest.raises(ValueError, match="reranking/ranker: found format 9, expected 2; materialise it again"):
        Ranker.of_files({**files, "ranker.json": files["ranker.json"].replace(b'"format": 2', b'"format": 9')})


def test_ndcg_is_that_of_a_list_of_candidates_against_the_best_list_of_all_targets():
    relevance = np.array([1.0, 0.0, 0.5, 0.0, 0.2])
    ideal = np.array([[1 + 0.5 / np.log2(3), 2.0]] * 3 + [[0.4, 0.4]] * 2)
    material = Material(np.array([4, 4, 4, 7, 7]), relevance, ideal, np.zeros((5, 1), np.float32), ["n"])
    found = material.ndcg(np.array([1.0, 3.0, 2.0, 1.0, 0.0]))
    best = 0.5 / np.log2(3) + 1 / np.log2(4)
    assert found == pytest.approx(np.array([[best / (1 + 0.5 / np.log2(3)), best / 2], [0.2 / np.log2(3) / 0.4] * 2]))


def test_shap_values_sum_to_the_scores_less_their_base(world):
    *_, table, model = world
    features = passes.read(table)["all"].features[:50]
    start = passes.read(table)["all"].start(model.starts["all"])[:50]
    rest = model.scores("all", features) - start - model.contributions("all", features).sum(axis=1)
    assert np.ptp(rest) == pytest.approx(0, abs=1e-9)


def test_where_nobody_validates_there_is_nothing_to_learn_and_no_list(world):
    con, _, train, ground_truth, lists, known, _, model = world
    nobody = ground_truth.filter("split = 'test'")
    table = con.from_arrow(pa.concat_tables(material(known, lists, train, nobody)))
    assert len(table) == 0
    assert learn(passes.read(table)["all"]) is None
    assert listed(known, lists, train, Ranker({}, model.names, {})) == {}


def test_a_missing_source_has_features_without_values(world):
    con, _, train, ground_truth, lists, known, *_ = world
    table = con.from_arrow(pa.concat_tables(material(known, {**lists, "item_knn": None}, train, ground_truth)))
    names = "count(item_knn_rank), count(item_knn_score), count(replay_rank) > 0"
    assert table.aggregate(names).fetchall() == [(0, 0, True)]


def test_a_user_without_candidates_gets_songs_that_are_popular_of_late(world):
    _, _, train, _, lists, known, _, model = world
    found = listed(known, {name: rows.filter("user_id <> 5") for name, rows in lists.items()}, train, model)
    heard = {song for (song,) in train.filter("user_id = 5").project("song_id").distinct().fetchall()}
    assert set(found["all", 5]) == set(range(N_SONGS))
    assert set(found["discovery", 5]) == set(range(N_SONGS)) - heard


def test_candidates_that_do_not_fit_are_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr(ranker, "free_memory", lambda: 200 << 20)
    with duckdb.connect() as connection:
        table = connection.sql("SELECT 'all' AS view, 0 AS user_id, 1 AS one, 2 AS two FROM range(20_000_000)")
        with pytest.raises(NotEnoughMemoryError, match=r"20,000,000 candidates with 2 features needs .*views? 153 MiB"):
            passes.read(table)
