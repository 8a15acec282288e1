"""The served model asked for more than a user's list: similar songs, strangers, filters, reasons, and text ids."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.exceptions import MlflowException

from ms_assets.reranking import pyfunc_model
from ms_assets.reranking.pyfunc_model import SongsForUsers
from ms_assets.reranking.served import TwoStages
from ms_assets.retrieval import queries, served
from ms_assets.retrieval.served import ModelData, Question, Service
from ms_assets_tests import planted
from ms_assets_tests.planted import HEARD, ITEM_ID, N_SONGS, POPULAR, SONGS, UID, model

LENGTHS = np.random.default_rng(5).uniform(0.5, 3, N_SONGS).astype(np.float32)
VECTORS = SONGS * LENGTHS[:, None]
ARTISTS = [[song % 7, 50 + song % 3] for song in range(N_SONGS)]
WEIGHTS = {60: 0.5}
GRAM, DIM = queries.gram(VECTORS), VECTORS.shape[1]
NAMES = np.array([f"song {song}" for song in range(N_SONGS)])


def written(folder, text=False):
    """Files of a model whose songs differ in length, with numbers for ids or, but for artists, with text."""
    known = model(0.4)
    data = ModelData(known.uid, ITEM_ID, known.users, VECTORS, known.heard)
    index, popular = planted.index(data), POPULAR
    if text:
        data = ModelData(np.array([f"user {uid}" for uid in UID]), NAMES, known.users, VECTORS, known.heard)
        place = {item: song for song, item in enumerate(ITEM_ID.tolist())}
        popular = pa.table({"item_id": [NAMES[place[item]] for item in POPULAR["item_id"].to_pylist()],
                            "score": POPULAR["score"]})  # fmt: skip
    served.write(folder, data, popular, index, ITEM_ID, pa.array(ARTISTS), WEIGHTS)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="module")
def service(folder):
    return Service.read(folder)


def ids(songs):
    return ITEM_ID[np.asarray(songs)].tolist()


def best(query, vectors=VECTORS, without=(), k=10):
    """Songs by inner product with a query, by plain sorting."""
    order = np.argsort(-(vectors @ query), kind="stable")
    return order[~np.isin(order, list(without))][:k]


def test_similar_songs_are_the_nearest_by_direction_and_the_song_is_not_among_them(service):
    for song in (0, 17, 199):
        answer = service.ask(Question(k=10, similar_to=int(ITEM_ID[song])))
        wanted = best(SONGS[song], SONGS, without=[song])
        assert answer.kind == "similar"
        assert answer.items.tolist() == ids(wanted)
        np.testing.assert_allclose(answer.scores, SONGS[wanted] @ SONGS[song], atol=1e-6)


def test_similar_songs_for_a_user_are_none_that_the_user_has_heard(service):
    song = HEARD[0, 0]
    answer = service.ask(Question(k=10, uid=int(UID[0]), similar_to=int(ITEM_ID[song])))
    assert answer.items.tolist() == ids(best(SONGS[song], SONGS, without=HEARD[0]))


def test_somebody_whom_the_model_has_never_seen_is_answered_by_recent_songs(service):
    recent = HEARD[3]
    answer = service.ask(Question(k=10, recent=ids(recent)))
    query = queries.folded(VECTORS[recent], recent, np.zeros(len(recent)), WEIGHTS, GRAM)
    assert answer.kind == "recent"
    assert answer.items.tolist() == ids(best(query, without=recent))
    with_heard = service.ask(Question(k=10, recent=ids(recent), exclude_heard=False))
    assert with_heard.items.tolist() == ids(best(query))


def test_songs_that_the_model_does_not_know_are_left_out_of_the_recent_ones_with_their_ages(service):
    known = service.ask(Question(k=10, recent=ids([5, 9]), ages=[400, 20]))
    more = service.ask(Question(k=10, recent=[1, *ids([5]), 2, *ids([9])], ages=[0, 400, 7, 20]))
    assert more.items.tolist() == known.items.tolist()
    assert service.ask(Question(k=10, recent=[1, 2])).kind == "popular"
    assert service.ask(Question(k=10, uid=int(UID[0]), recent=[1, 2])).kind == "personal"


def test_what_was_heard_last_counts_more_if_ages_are_told(service):
    def first(*ages):
        query = queries.folded(VECTORS[[5, 9]], np.array([5, 9]), np.array(ages, float), {60: 50.0}, GRAM)
        return (SONGS @ query)[[5, 9]]

    late_nine, late_five = first(9_000, 0), first(0, 9_000)
    assert late_nine[1] > 0.99 > late_nine[0] and late_five[0] > 0.99 > late_five[1]
    np.testing.assert_allclose(first(10**9, 10**9), first(0, 0), atol=1e-6)


def test_a_folded_query_counts_each_song_once_but_for_what_fades(service):
    song = np.array([5, 9, 9, 9])
    once = queries.folded(VECTORS[[5, 9]], np.array([5, 9]), np.zeros(2), {}, GRAM)
    np.testing.assert_allclose(queries.folded(VECTORS[song], song, np.zeros(4), {}, GRAM), once, atol=1e-6)


@pytest.mark.parametrize(("n_songs", "share"), [(200, 1.0), (20_000, 200 * DIM / 20_000)])
def test_a_folded_query_is_that_of_least_squares_over_heard_and_other_songs_whose_sum_is_bounded(n_songs, share):
    songs = planted.unit(np.random.default_rng(3).normal(size=(n_songs, DIM))).astype(np.float32)
    heard = np.array([5, 9, 17])
    wanted = np.isin(np.arange(n_songs), heard).astype(float)
    of_all, of_heard, of_length = np.sqrt(share), np.sqrt(queries.HEARD), np.sqrt(queries.RIDGE)
    rows = np.concatenate([of_all * songs, of_heard * songs[heard], of_length * np.eye(DIM)])
    targets = np.concatenate([of_all * wanted, of_heard * np.ones(3), np.zeros(DIM)])
    solved, *_ = np.linalg.lstsq(rows, targets, rcond=None)
    found = queries.folded(songs[heard], heard, np.zeros(3), {}, queries.gram(songs))
    np.testing.assert_allclose(found, planted.unit(solved[None])[0], atol=1e-5)


@pytest.mark.parametrize("question", [
    {"uid": int(UID[2])}, {"recent": ids(HEARD[2])}, {"similar_to": int(ITEM_ID[4])}, {"uid": 3}
], ids=["known", "recent", "similar", "popular"])  # fmt: skip
def test_songs_of_artists_left_out_are_gone_and_the_next_ones_take_their_places(service, question):
    whole = service.ask(Question(k=N_SONGS, **question)).items
    kept = service.ask(Question(k=30, without_artists=[2, 51, 12345], **question))
    song = {item: place for place, item in enumerate(ITEM_ID.tolist())}
    assert kept.items.tolist() == [i for i in whole.tolist() if not {2, 51} & set(ARTISTS[song[i]])][:30]
    assert 0 < len(kept.items) < len(whole)


@pytest.mark.parametrize("question", [{"uid": int(UID[2])}, {"uid": 3}], ids=["known", "popular"])
def test_only_allowed_songs_are_answered_best_first(service, question):
    whole = service.ask(Question(k=N_SONGS, **question)).items.tolist()
    allowed = ids(range(3, 90, 4))
    kept = service.ask(Question(k=20, only_songs=[*allowed, 7], **question))
    assert kept.items.tolist() == [item for item in whole if item in set(allowed)][:20]
    assert list(kept.scores) == sorted(kept.scores, reverse=True)
    assert service.ask(Question(k=20, only_songs=[], **question)).items.tolist() == []


def test_an_answer_says_which_heard_songs_are_nearest_to_each_of_its_songs(service):
    answer = service.ask(Question(k=5, uid=int(UID[1]), why=True))
    place = {item: song for song, item in enumerate(ITEM_ID.tolist())}
    for item, because in zip(answer.items.tolist(), answer.because, strict=True):
        nearest = HEARD[1][np.argsort(-SONGS[HEARD[1]] @ SONGS[place[item]], kind="stable")[:3]]
        assert because.tolist() == ids(nearest)
    one = service.ask(Question(k=2, recent=ids([8]), why=True, exclude_heard=False))
    assert [because.tolist() for because in one.because] == [ids([8]) if i != ITEM_ID[8] else [] for i in one.items]


def test_a_question_for_a_users_list_alone_is_answered_as_ever(service):
    uid = [*UID[:5].tolist(), 3]
    lists = service.answer(np.array(uid), np.full(6, 10), np.full(6, True))
    for one, answer in zip(uid, lists, strict=True):
        asked = service.ask(Question(k=10, uid=one))
        assert (asked.kind, asked.items.tolist()) == (answer.kind, answer.items.tolist())


def test_ids_may_be_text_and_the_answers_are_the_same(service, tmp_path):
    other = Service.read(written(tmp_path, text=True))
    for numbers, text in (
        ({"uid": int(UID[4]), "why": True}, {"uid": f"user {UID[4]}", "why": True}),
        ({"recent": ids([3, 4])}, {"recent": ["song 3", "song 4"]}),
        ({"similar_to": int(ITEM_ID[9])}, {"similar_to": "song 9"}),
        ({"uid": 3, "only_songs": ids([4, 5, 6])}, {"uid": "nobody", "only_songs": ["song 4", "song 5", "song 6"]}),
    ):
        one, named = service.ask(Question(k=10, **numbers)), other.ask(Question(k=10, **text))
        place = [int(name.removeprefix("song ")) for name in named.items]
        assert (named.kind, ids(place)) == (one.kind, one.items.tolist())
        assert len(named.because) == len(one.because)
    [answer] = other.answer(np.array([f"user {UID[0]}"]), np.array([3]), np.array([True]))
    assert answer.kind == "personal" and answer.items[0].startswith("song ")


def test_files_of_former_versions_are_read_as_before(folder, service, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    songs = pq.read_table(folder / served.SONGS)
    pq.write_table(songs.select(["item_id", "embedding"]), tmp_path / served.SONGS)
    users = pq.read_table(folder / served.USERS)
    pq.write_table(users.replace_schema_metadata(None), tmp_path / served.USERS)
    former = Service.read(tmp_path)
    asked = former.answer(UID[:3], np.full(3, 10), np.full(3, True))
    wanted = service.answer(UID[:3], np.full(3, 10), np.full(3, True))
    assert [a.items.tolist() for a in asked] == [a.items.tolist() for a in wanted]
    assert former.ask(Question(k=3, uid=int(UID[0]), without_artists=[2])).kind == "personal"


# requests


@pytest.fixture(scope="module")
def predict(service):
    served_model = SongsForUsers()
    served_model.service = TwoStages(service, None)
    return lambda *rows: served_model.predict(None, pd.DataFrame(rows)).to_dict("records")


def test_rows_of_one_request_may_ask_for_different_things(predict, service):
    rows = predict(
        {"uid": int(UID[0]), "k": 3},
        {"k": 2, "recent": ids([3, 4]), "ages": [60, 0], "exclude_heard": False},
        {"k": 2, "similar_to": float(ITEM_ID[9]), "why": False},
        {"uid": str(UID[1]), "k": 4, "without_artists": [1], "only_songs": ids(range(40)), "why": True},
    )
    assert [row["answer"] for row in rows] == ["personal", "recent", "similar", "personal"]
    assert [row["uid"] for row in rows][::3] == UID[:2].tolist() and pd.isna(rows[1]["uid"])
    assert [len(row["item_ids"]) for row in rows] == [3, 2, 2, 4]
    assert [len(row["because"]) for row in rows] == [0, 0, 0, 4]
    [alone] = service.answer(UID[:1], np.array([3]), np.array([True]))
    assert rows[0]["item_ids"] == alone.items.tolist()
    json.dumps(rows)


def test_an_answer_without_reasons_has_the_columns_that_it_always_had(predict):
    [row] = predict({"uid": int(UID[0]), "k": 3, "exclude_heard": None})
    assert list(row) == ["uid", "answer", "item_ids", "scores"]


WRONG = {
    "recent as text": ({"recent": "[1, 2]"}, r"recent: found '\[1, 2\]' in row 1, expected a list of at most 10,000"),
    "an id of recent that is none": ({"recent": [1, "x"]}, r"recent: found \[1, 'x'\] in row 1, expected a list"),
    "too many recent": (
        {"recent": [1] * 10_001},
        "recent: found .* in row 1, expected a list of at most 10,000 val",
    ),
    "ages without recent": (
        {"uid": 1, "ages": [1]},
        r"ages: found \[1\] in row 1, expected as many as `recent`",
    ),
    "too few ages": ({"recent": [1, 2], "ages": [1]}, "in row 1, expected as many as `recent` has songs, 2"),
    "a negative age": ({"recent": [1], "ages": [-1]}, r"ages: found \[-1\] in row 1, .* a number of seconds from 0 on"),
    "an age that is none": ({"recent": [1], "ages": [float("nan")]}, r"ages: found \[nan\] in row 1"),
    "a song that is none": ({"similar_to": "x"}, "similar_to: found 'x' in row 1, expected -9223372036854775808 to"),
    "similar and recent": ({"similar_to": 1, "recent": [1]}, "similar_to: found 1 in row 1, expected null beside"),
    "artists as a number": ({"uid": 1, "without_artists": 5}, "without_artists: found 5.0 in row 1, expected a list"),
    "a song in place of songs": ({"uid": 1, "only_songs": 5}, "only_songs: found 5.0 in row 1, expected a list"),
    "a list in a list": ({"uid": 1, "only_songs": [[5]]}, r"only_songs: found \[\[5\]\] in row 1, expected a list"),
    "why as text": ({"uid": 1, "why": "yes"}, "why: found 'yes' in row 1, expected true or false, 1 or 0"),
    "nobody": ({}, "uid: found None in row 1, expected -9.* to .*, or `recent` or `similar_to` beside it"),
    "no k": ({"uid": 1, "k": None}, "k: found None in row 1, expected 1 to 100"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_malformed_request_is_refused_by_column_and_row_in_one_sentence(predict, case):
    row, said = WRONG[case]
    with pytest.raises(MlflowException, match=said) as refused:
        predict({"uid": int(UID[0]), "k": 3}, {"k": 3, **row})
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert "\n" not in refused.value.message


def test_text_ids_are_taken_as_numbers_too_and_nothing_else(tmp_path):
    named = SongsForUsers()
    named.service = TwoStages.read(written(tmp_path, text=True))
    rows = named.predict(None, pd.DataFrame({"uid": [f"user {UID[0]}", 12], "k": 2})).to_dict("records")
    assert [row["answer"] for row in rows] == ["personal", "popular"]
    assert [row["uid"] for row in rows] == [f"user {UID[0]}", "12"]
    with pytest.raises(MlflowException, match=r"uid: found 1\.5 in row 0, expected an id as the data have it"):
        named.predict(None, pd.DataFrame({"uid": [1.5], "k": 2}))


def test_the_signature_tells_numbers_from_text(folder, tmp_path):
    for files, kind in ((folder, "long"), (written(tmp_path, text=True), "string")):
        outputs = pyfunc_model._signature(files).outputs.to_dict()
        assert [column["type"] for column in outputs if column["name"] == "uid"] == [kind]
