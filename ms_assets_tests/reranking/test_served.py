"""The served second stage beside the lists of `reranking/ranked`, and which stage answers whom."""

from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ms_assets.evaluation.champion import decide
from ms_assets.evaluation.comparison import Holdout, compare
from ms_assets.interactions import Interactions
from ms_assets.reranking import passes, pyfunc_model, served
from ms_assets.reranking.ranker import Ranker, learn
from ms_assets.reranking.served import SecondStage, TwoStages
from ms_assets.retrieval import served as retrieval
from ms_assets.retrieval.recommender import VIEWS
from ms_assets.retrieval.served import ModelData, Question
from ms_assets_tests import planted
from ms_assets_tests.reranking.tastes import N_SILENT, N_SONGS, N_USERS, Tastes, knowledge, material, tables
from ms_assets_tests.training.graphs import unit_rows

UID, ITEM_ID = 10 * np.arange(N_USERS) + 3, 7 * np.arange(N_SONGS) + 1
UNSEEN = np.arange(N_USERS - N_SILENT, N_USERS)
POPULAR = pa.table({"item_id": ITEM_ID[::-1], "score": np.linspace(9, 1, N_SONGS).astype(np.float32)})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder of a model in two stages, the lists of its ranker by view and user, tastes, and what it was made of."""
    import duckdb

    con, tastes, folder = duckdb.connect(), Tastes.of(), tmp_path_factory.mktemp("model")
    train, ground_truth, lists = tables(con, tastes)
    rng = np.random.default_rng(5)
    vectors = unit_rows(rng, N_USERS, 8), unit_rows(rng, N_SONGS, 8)
    known = replace(knowledge(train), embeddings=vectors, audio=unit_rows(rng, N_SONGS, 4))
    lists = {**lists, "ials": None}
    rows = pa.concat_tables(material(known, lists, train, ground_truth))
    materials = passes.read(con.from_arrow(rows))
    learned = {view: learn(one) for view, one in materials.items()}
    ranker = Ranker(
        {view: found.models for view, found in learned.items()}, materials["all"].names,
        {view: found.start for view, found in learned.items()},
    )  # fmt: skip
    heard = Interactions.of_table(train.project("user_id, song_id").distinct().to_arrow_table(), N_USERS, N_SONGS)
    data = ModelData(UID, ITEM_ID, *vectors, heard=heard)
    retrieval.write(folder, data, POPULAR, planted.index(data))
    served.write(folder, known, lists, ranker)
    wanted = {}
    for row in pa.concat_tables(passes.ranked(known, lists, train, ranker, UID, ITEM_ID)).to_pylist():
        wanted.setdefault((row["view"], row["user_id"]), []).append((row["item_id"], row["score"]))
    return folder, wanted, tastes, (data, known, lists, ranker)


@pytest.fixture(scope="module")
def service(world):
    return TwoStages.read(world[0])


def ask(service, uid, k=100, exclude_heard=True, is_ranked=True):
    n = len(uid)
    asked = (np.broadcast_to(value, n) for value in (k, exclude_heard, is_ranked))
    return service.answer(np.asarray(uid), *asked)


def found_later(tastes):
    """Test part: users who do not validate go on to a new song of their favourite artist."""
    new, heard = (pl.DataFrame({"uid": UID[UNSEEN], "item_id": ITEM_ID[songs[UNSEEN]]})
                  for songs in (tastes.new, tastes.recent))  # fmt: skip
    return Holdout(new.with_columns(relevance=pl.lit(1.0)), heard)


@pytest.mark.parametrize("view", VIEWS)
def test_answers_in_two_stages_are_the_ranked_lists(world, service, view):
    _, wanted, *_ = world
    answers = ask(service, UID, exclude_heard=view == "discovery")
    for user, answer in enumerate(answers):
        assert answer.kind == "ranked"
        assert list(zip(answer.items.tolist(), answer.scores.tolist(), strict=True)) == wanted[view, user]


def test_users_together_are_ordered_as_each_alone(service):
    together = service.second.order("all", 3, 9)
    for user in range(3, 10):
        alone, mine = service.second.order("all", user, user), together.user == user - 3
        assert np.array_equal(alone.song, together.song[mine]) and np.array_equal(alone.score, together.score[mine])


def test_retrieval_answers_whoever_asks_for_it_and_strangers_get_what_is_popular(world, service):
    uid = [int(UID[4]), int(UID[4]), 1]
    ranked, plain, stranger = ask(service, uid, k=5, is_ranked=np.array([True, False, True]))
    [alone] = service.retrieval.answer(np.array(uid[:1]), np.array([5]), np.array([True]))
    assert (ranked.kind, plain.kind, stranger.kind) == ("ranked", "personal", "popular")
    assert plain.items.tolist() == alone.items.tolist()
    assert ranked.items.tolist() == [item for item, _ in world[1]["discovery", 4]][:5]
    assert stranger.items.tolist() == ITEM_ID[::-1][:5].tolist()


def test_a_users_list_among_allowed_songs_keeps_the_order_of_the_second_stage_and_says_why(world, service):
    ranked = [item for item, _ in world[1]["discovery", 4]]
    question = Question(k=3, uid=int(UID[4]), only_songs=ranked[1::2], why=True)
    answer = service.ask(question, True)
    assert (answer.kind, answer.items.tolist()) == ("ranked", ranked[1:6:2])
    assert [len(because) for because in answer.because] == [3, 3, 3]
    assert service.ask(question, False).kind == "personal"
    assert service.ask(Question(k=3, recent=ranked[:2]), True).kind == "recent"


def test_where_the_second_stage_has_too_few_candidates_retrieval_answers(service, monkeypatch):
    whole = SecondStage.order
    monkeypatch.setattr(SecondStage, "order", lambda *asked: passes.Order(*(column[:2] for column in whole(*asked))))
    kinds = [service.ask(Question(k=k, uid=int(UID[4]), why=True), True).kind for k in (2, 3)]
    assert kinds == ["ranked", "personal"]


def test_a_view_for_which_nothing_was_learned_is_answered_by_retrieval(world, tmp_path):
    _, _, _, (data, known, lists, ranker) = world
    for models in ({"all": ranker.models["all"]}, {}):
        retrieval.write(tmp_path, data, POPULAR, planted.index(data))
        served.write(tmp_path, known, lists, replace(ranker, models=models))
        service = TwoStages.read(tmp_path)
        kinds = [ask(service, UID[:1], exclude_heard=flag)[0].kind for flag in (False, True)]
        assert kinds == ["ranked" if models else "personal", "personal"]
        for file in tmp_path.iterdir():
            file.unlink()


def test_models_are_compared_by_what_they_would_serve(world):
    """The ranker has learned whose new songs users like; the vectors are random."""
    folder, wanted, tastes, (data, *_) = world
    holdout = found_later(tastes)
    second = SecondStage.read(folder)
    found = compare(second, data, holdout)
    places = [[item for item, _ in wanted["discovery", user]].index(ITEM_ID[tastes.new[user]]) for user in UNSEEN]
    gains = [1 / np.log2(place + 2) if place < 10 else 0 for place in places]
    assert found.challenger_mean == pytest.approx(np.mean(gains))
    assert found.ci_low > 0 and found.n_users == N_SILENT
    assert compare(data, second, holdout).ci_high < 0


def test_a_registered_model_answers_in_the_stage_that_is_asked_for_and_becomes_champion_by_both(world, store, tmp_path):
    folder, _, tastes, (data, *_) = world
    retrieval.write(tmp_path, data, POPULAR, planted.index(data))
    registry = planted.new_registry(store)
    versions = [
        registry.register(pyfunc_model.candidate(each, int(UID[0]), planted.TRAINING, run_id=None))[0].number
        for each in (tmp_path, folder)
    ]
    decisions = [decide(registry, number, found_later(tastes)) for number in versions]
    assert [decision["promoted"] for decision in decisions] == [True, True]
    assert decisions[1]["reason"].startswith("better than the champion")
    frame = pd.DataFrame({"uid": UID[0], "k": 3, "exclude_heard": True, "stage": ["ranked", "retrieval", None]})
    model = mlflow.pyfunc.load_model(f"models:/{registry.name}@champion")
    answers = model.predict(frame)
    assert answers["answer"].tolist() == ["ranked", "personal", "ranked"]
    assert answers["item_ids"][0] == answers["item_ids"][2] == [item for item, _ in world[1]["discovery", 0]][:3]
