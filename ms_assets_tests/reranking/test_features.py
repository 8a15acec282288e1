"""Features by hand, and the proof that they know the past of their phase alone."""

import numpy as np
import pyarrow as pa
import pytest

from ms_assets.interactions import Interactions
from ms_assets.reranking import features, passes
from ms_assets.reranking.candidates import pool
from ms_assets.reranking.features import FEATURES, Facts, Feature, Knowledge
from ms_assets.reranking.leaks import leaking
from ms_assets.reranking.past import Past
from ms_assets.vectors import Ragged
from ms_assets_tests.reranking.tastes import DAY, EVENT, Tastes, knowledge, material, table, tables


def event(user, song, time, kind="listen", ratio=1.0, organic=1):
    return {"user_id": user, "song_id": song, "timestamp": time, "event_type": kind, "played_ratio": ratio,
            "is_organic": organic}  # fmt: skip


EVENTS = [
    event(0, 0, 0, ratio=0.5),
    event(0, 0, DAY),
    event(0, 0, DAY, "like", None, 0),
    event(0, 1, 3 * DAY, ratio=0.25, organic=0),
    event(1, 2, 4 * DAY),
]
"""Song 0 is by artists 0 and 1, song 1 by 1, song 2 by nobody, song 3 by 0; all but song 2 are on one album."""


@pytest.fixture(scope="module")
def found():
    import duckdb

    con = duckdb.connect()
    disliked = con.sql("SELECT 0::INTEGER AS user_id, 3::INTEGER AS song_id, 'dislike' AS event_type")
    past = Past.of(3, 4, table(con, EVENTS), disliked)
    artists = Ragged(np.array([0, 1, 1, 0]), np.array([0, 2, 3, 3, 4]))
    albums = Ragged(np.array([0, 0, 0]), np.array([0, 1, 2, 2, 3]))
    audio = np.array([[1, 0], [0, 1], [0, 0], [0.6, 0.8]], np.float32)
    embeddings = np.array([[2, 0], [0, 1], [1, 1]], np.float32), np.array([[1, 0], [0, 3], [0, 0], [2, 2]], np.float32)
    known = Knowledge.of(past, artists, albums, embeddings, audio)
    lists = {"ials": con.sql("SELECT 'all' AS view, 0 AS user_id, 3 AS song_id, 2 AS rank, .5 AS score"), "bpr": None}
    nobody = Interactions.of(np.empty(0, np.int64), np.empty(0, np.int64), 3, 4)
    everything = pool(lists, "all", (0, 2), 4, nobody, known.of_late)
    values = features.table(Facts(known.histories(0, 2), everything.pairs), everything)
    rows = list(zip(everything.pairs.user.tolist(), everything.pairs.song.tolist(), strict=True))
    return {row: {name: column[n] for name, column in values.items()} for n, row in enumerate(rows)}


def test_features_of_the_own_song_count_its_events_and_their_ages_from_the_users_last(found):
    mine = found[0, 0]
    assert [mine[f"own_{name}"] for name in ("n", "likes", "dislikes", "skips", "age")] == [3, 1, 0, 0, 2 * DAY]
    assert mine["own_faded_day"] == pytest.approx(1 / 8 + 2 / 4)
    assert mine["own_activation"] == pytest.approx((3 * 1440 + 1) ** -0.5 + 2 * (2 * 1440 + 1) ** -0.5)
    assert (mine["own_ratio"], mine["own_organic"]) == (0.75, pytest.approx(2 / 3))
    assert found[0, 1]["own_skip_rate"] == 1


def test_features_of_a_song_never_met_are_0_or_unknown(found):
    theirs = found[1, 0]
    assert [theirs[f"own_{name}"] for name in ("n", "likes", "faded_day")] == [0, 0, 0]
    assert np.isnan([theirs["own_age"], theirs["own_ratio"], theirs["own_skip_rate"]]).all()


def test_features_of_artists_are_those_of_the_artist_known_best(found):
    assert [found[0, 3][f"artist_{name}"] for name in ("n", "songs", "dislikes", "age")] == [3, 1, 1, 2 * DAY]
    assert [found[0, 1][f"artist_{name}"] for name in ("n", "songs", "skips", "age")] == [4, 2, 1, 0]
    assert found[0, 2]["artist_n"] == 0
    assert found[0, 3]["album_songs"] == 2


def test_features_of_a_song_over_all_users_count_ages_from_the_last_event_of_all(found):
    song = found[2, 0]
    assert [song[f"song_{name}"] for name in ("n", "listeners", "replays", "age")] == [3, 1, 3, 4 * DAY]
    assert song["song_late_day"] == pytest.approx(1 / 16 + 2 / 8)
    assert found[2, 3]["song_n"] == 0
    assert np.isnan([found[2, 3]["song_age"], found[2, 3]["song_trend"]]).all()


def test_features_of_the_user_are_the_same_for_all_candidates(found):
    for song in range(4):
        mine = found[0, song]
        assert [mine[f"user_{name}"] for name in ("n", "songs", "replays", "idle")] == [4, 2, 2, DAY]
    assert found[2, 0]["user_n"] == 0


def test_similarities_are_cosines_with_the_users_recent_songs(found):
    first, second = 2 ** (-2 / 30) * 2 + 2 ** (-3 / 30), 1.0
    recent = np.array([first, second]) / np.hypot(first, second)
    assert found[0, 3]["sound"] == pytest.approx(recent @ [0.6, 0.8])
    assert found[0, 3]["lightgcn_nearness"] == pytest.approx(recent @ np.sqrt([0.5, 0.5]))
    assert found[1, 1]["lightgcn_affinity"] == 3


def test_a_source_gives_its_rank_and_score_and_a_missing_one_nothing(found):
    assert [found[0, 3][name] for name in ("n_sources", "ials_rank", "ials_score")] == [1, 2, 0.5]
    assert found[0, 0]["n_sources"] == 0
    assert np.isnan([found[0, 0]["ials_rank"], found[0, 3]["bpr_rank"], found[0, 3]["bpr_score"]]).all()


def test_every_feature_has_a_sentence():
    told = {name: feature.sentence for name, feature in FEATURES.items()} | features.of_sources(["ials"])
    assert all(text.endswith(".") and text[0].isupper() for text in told.values())
    assert len(set(told.values())) == len(told)


def test_no_feature_depends_on_the_range_of_users_that_it_is_computed_in(con):
    past = Past.of(2, 4, table(con, EVENTS))
    tags = Ragged(np.array([0, 1, 1, 0]), np.array([0, 2, 3, 3, 4]))
    vectors = np.array([[1, 0], [0, 1], [0, 0], [0.6, 0.8]], np.float32)
    known = Knowledge.of(past, tags, tags, (vectors[:2], vectors), vectors)

    def facts(first, last):
        return Facts(known.histories(first, last), Interactions(np.arange(4 * (last - first + 1)), last - first + 1, 4))

    both, *each = facts(0, 1), facts(0, 0), facts(1, 1)
    for feature in FEATURES.values():
        alone = np.concatenate([feature.of(one) for one in each])
        assert np.array_equal(feature.of(both), alone, equal_nan=True), feature.sentence


@pytest.fixture
def phases(con):
    """Tastes, their tables, and the events of the 30 days after the cut of train."""
    tastes = Tastes.of()
    train, ground_truth, lists = tables(con, tastes)
    later = [
        {"user_id": user, "song_id": int(tastes.new[user]), "timestamp": 430 * DAY, **EVENT}
        for user in range(len(tastes.new))
    ]
    return train, ground_truth, lists, table(con, later)


def stored(con, known, lists, train, ground_truth):
    return con.from_arrow(pa.concat_tables(material(known, lists, train, ground_truth)))


def test_no_feature_changes_with_events_after_the_cut(con, phases):
    train, ground_truth, lists, later = phases
    before, users = stored(con, knowledge(train), lists, train, ground_truth), passes.learners(ground_truth)
    whole = train.union(later)
    divided = whole.filter(f"timestamp < {430 * DAY}")
    assert leaking(before, knowledge(divided), users) == []
    moved = {"own_n", "artist_n", "artist_faded_day", "song_listeners", "song_late_day", "user_n"}
    assert moved <= set(leaking(before, knowledge(whole), users))


def test_features_of_events_after_the_cut_are_refused_by_name(con, phases):
    train, ground_truth, lists, later = phases
    leaky = stored(con, knowledge(train, later), lists, train, ground_truth)
    found = leaking(leaky, knowledge(train), passes.learners(ground_truth))
    assert {"own_n", "artist_n", "song_late_week"} <= set(found)
    assert set(found).isdisjoint({"sound", "lightgcn_affinity", "own_dislikes"})


def test_a_planted_feature_of_the_future_is_refused_alone(con, phases, monkeypatch):
    train, ground_truth, lists, later = phases
    ahead = knowledge(later)

    def plays_to_come(facts):
        known = ahead.histories(facts.histories.first, facts.histories.first + facts.histories.pairs.n_users - 1)
        return Facts(known, facts.candidates).own["n"]

    monkeypatch.setitem(FEATURES, "sound", Feature("Plays to come.", plays_to_come))
    planted = stored(con, knowledge(train), lists, train, ground_truth)
    monkeypatch.undo()
    assert leaking(planted, knowledge(train), passes.learners(ground_truth)) == ["sound"]
