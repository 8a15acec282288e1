"""The served model's answers beside the recommendations that evaluation judged."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

from ms_assets.interactions import Interactions
from ms_assets.retrieval import served
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.index import built
from ms_assets.retrieval.recommender import VIEWS, recommendations
from ms_assets.retrieval.served import ModelData, Service
from ms_assets_tests import planted
from ms_assets_tests.planted import HEARD, ITEM_ID, N_SONGS, POPULAR, SONGS, TASTES, UID, model, part
from ms_assets_tests.retrieval.histories import ByScores


@pytest.fixture(scope="module")
def known() -> ModelData:
    return part(model(0.4), users=np.random.default_rng(0).permutation(len(UID)))


@pytest.fixture(scope="module")
def service(known, tmp_path_factory) -> Service:
    folder = tmp_path_factory.mktemp("served")
    served.write(folder, known, POPULAR, planted.index(known))
    return Service.read(folder)


def ask(service, uid, k, exclude_heard):
    n = len(uid)
    return service.answer(np.asarray(uid), np.broadcast_to(k, n), np.broadcast_to(exclude_heard, n))


def test_what_is_written_comes_back(known, tmp_path):
    served.write(tmp_path, known, POPULAR, planted.index(known))
    found = ModelData.read(tmp_path)
    for name in ("uid", "item_id", "users", "songs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(known, name))
    np.testing.assert_array_equal(found.heard.keys, known.heard.keys)
    assert (found.heard.n_users, found.heard.n_songs) == (known.heard.n_users, known.heard.n_songs)


@pytest.mark.parametrize("exclude_heard", [False, True])
def test_answers_are_the_recommendations_of_the_view(service, known, exclude_heard):
    user = np.searchsorted(UID, known.uid)
    heard = Interactions.of(np.repeat(np.arange(len(user)), HEARD.shape[1]), HEARD[user].ravel(), len(user), N_SONGS)
    dataset = Dataset(known.uid, known.item_id, N_SONGS, heard)
    table = recommendations(ByScores(known.users @ known.songs.T, dataset)).to_pylist()
    wanted = {}
    for row in table:
        if row["view"] == VIEWS[exclude_heard]:
            wanted.setdefault(row["uid"], []).append((row["item_id"], pytest.approx(row["score"], abs=1e-5)))
    for uid, answer in zip(known.uid, ask(service, known.uid, 100, exclude_heard), strict=True):
        assert answer.kind == "personal"
        assert list(zip(answer.items.tolist(), answer.scores.tolist(), strict=True)) == wanted[uid]


def test_a_user_whom_the_model_does_not_know_gets_what_is_popular_and_is_told_so(service):
    uid = [int(UID[0]) + 1, int(UID[3]), 2**63 - 1, -(2**63)]
    kinds = [answer.kind for answer in ask(service, uid, 3, True)]
    assert kinds == ["popular", "personal", "popular", "popular"]
    stranger = ask(service, uid, 3, False)[0]
    assert stranger.items.tolist() == ITEM_ID[[0, 2, 4]].tolist()
    assert stranger.scores.tolist() == POPULAR["score"].to_pylist()[:3]


def test_rows_of_one_question_do_not_touch_each_other(service, known):
    rng = np.random.default_rng(1)
    uid = rng.choice(np.append(known.uid, [1, 2, 3]), 300)
    k, exclude_heard = rng.integers(1, 101, 300), rng.random(300) < 0.5
    together = service.answer(uid, k, exclude_heard)
    for row, answer in enumerate(together):
        [alone] = service.answer(uid[row : row + 1], k[row : row + 1], exclude_heard[row : row + 1])
        assert answer.kind == alone.kind and answer.items.tolist() == alone.items.tolist()
        assert len(answer.items) == k[row]


def test_cold_songs_are_answered_like_others(tmp_path):
    """A song that nobody heard, right where the first user's taste is."""
    songs = SONGS.copy()
    songs[-1] = 1.5 * TASTES[0]
    known = ModelData(UID, ITEM_ID, TASTES, songs, model(0).heard)
    served.write(tmp_path, known, POPULAR, planted.index(known))
    [answer] = ask(Service.read(tmp_path), UID[:1], 1, True)
    assert answer.items.tolist() == [ITEM_ID[-1]]


def test_who_heard_everything_is_answered_with_nothing_new(tmp_path):
    known = part(model(0), users=slice(0, 2), songs=slice(0, 5))
    everything = Interactions(np.arange(6), 2, 5)
    known = ModelData(known.uid, known.item_id, known.users, known.songs, everything)
    served.write(tmp_path, known, POPULAR, planted.index(known))
    found = ask(Service.read(tmp_path), known.uid, 10, True)
    assert [len(answer.items) for answer in found] == [0, 4]
    assert [len(answer.items) for answer in ask(Service.read(tmp_path), known.uid, 10, False)] == [5, 5]


def test_many_may_ask_at_once(tmp_path):
    rng = np.random.default_rng(2)
    songs = planted.unit(rng.standard_normal((4_000, 16)))
    item_id = rng.permutation(10_000)[:4_000]
    known = ModelData(UID, item_id, TASTES, songs, planted.heard(HEARD, len(songs)))
    lists, _ = built(songs, item_id, TASTES, "ivf_flat")
    served.write(tmp_path, known, POPULAR, lists)
    service = Service.read(tmp_path)
    wanted = [ask(service, [uid], 100, True)[0].items.tolist() for uid in UID]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda uid: ask(service, [uid], 100, True)[0].items.tolist(), np.tile(UID, 20)))
    assert found == wanted * 20


@pytest.mark.parametrize("n_users", [1, served.FEW + 1])
def test_answering_leaves_the_threads_of_the_program_as_they_are(service, known, n_users):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        ask(service, known.uid[:n_users], 5, True)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_the_code_of_models_that_version_0_1_registered_finds_what_it_imports():
    program = (
        "from ms_assets.registry import Candidate; from ms_assets.retrieval.recommendations import TOP_K; "
        "from ms_assets.retrieval.served import Service; print(TOP_K, Service.read.__name__, Service.answer.__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["100", "read", "answer"]
