"""Histories are made for some users at a time, and do not show where the ranges end."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from ms_assets.machine import NotEnoughMemoryError
from ms_assets.retrieval import dataset
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.memory import NEEDS, Needs, Taken, estimate
from ms_assets.retrieval.methods import METHODS

RNG = np.random.default_rng(0)
N = 400
EVENTS = pl.DataFrame(
    {
        "user": RNG.integers(30, size=N),
        "song": RNG.integers(20, size=N),
        "time": [None if n % 9 == 0 else 1_000 + int(n) for n in RNG.integers(10_000, size=N)],
    }
)


@pytest.fixture(scope="module")
def whole():
    return Dataset.of_frames(EVENTS)


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_histories_made_for_some_users_at_a_time_are_those_of_all_at_once(rows, whole, monkeypatch):
    monkeypatch.setattr(dataset, "ROWS", rows)
    found = Dataset.of_frames(EVENTS)
    assert np.array_equal(found.heard.keys, whole.heard.keys)
    for name in ("n_events", "last"):
        assert np.array_equal(found.heard.values[name], whole.heard.values[name])
    weight = "pow(2, age / -3600.0)"
    assert np.array_equal(found.aged(weight), whole.aged(weight))


def test_histories_hold_the_events_and_the_last_time_of_every_pair(whole):
    pairs = EVENTS.group_by("user", "song").agg(n=pl.len(), last=pl.col("time").max()).sort("user", "song")
    assert whole.user_ids[whole.heard.user].tolist() == pairs["user"].to_list()
    assert whole.song_ids[whole.heard.song].tolist() == pairs["song"].to_list()
    assert whole.heard.values["n_events"].tolist() == pairs["n"].to_list()
    assert whole.heard.values["last"].tolist() == pairs["last"].fill_null(-1).to_list()


def test_histories_that_do_not_fit_are_refused_after_the_first_range(whole, monkeypatch):
    gib, ranges = 2**30, []
    monkeypatch.setattr(dataset, "free_memory", lambda: 2 * gib)
    # Four events for three pairs: 6 M events are 4.5 M pairs, of 20 bytes each; 600 M do not fit.
    histories = [pa.table({"n_events": [1, 2, 1]}), pa.table({"n_events": [9]})]
    assert list(dataset._within_memory(histories, 6_000_000, 1_000, 1_000)) == histories
    with pytest.raises(NotEnoughMemoryError, match="1,000 users with 600,000,000 train events needs") as refusal:
        ranges.extend(dataset._within_memory(histories, 600_000_000, 1_000, 1_000))
    assert ranges == []
    for word in ("histories 8.38 GiB", "only 2.00 GiB", "min_events"):
        assert word in str(refusal.value)


def test_needs_are_those_of_recommenders_and_no_method_takes_less_than_the_least():
    assert set(NEEDS) < set(METHODS)
    for users, songs, pairs in ((60, 1_800, 60_000), (60_000, 1_800_000, 60_000_000)):
        least = sum(estimate(users, songs, pairs).values())
        assert all(sum(estimate(users, songs, pairs, 0, needs).values()) >= least for needs in NEEDS.values())


def test_a_method_that_takes_more_of_each_pair_is_refused_where_others_fit(monkeypatch):
    monkeypatch.setattr(dataset, "free_memory", lambda: 2**30)
    histories = [pa.table({"n_events": [1]})]  # 20 M pairs: 381 MiB of histories
    assert list(dataset._within_memory(histories, 20_000_000, 1_000, 1_000)) == histories
    with pytest.raises(
        NotEnoughMemoryError, match="learning and tables in flight 935 MiB"
    ):  # 44 bytes a pair, and more
        needs = Needs(learning=Taken(pair=44, fixed=40 << 20))
        list(dataset._within_memory(histories, 20_000_000, 1_000, 1_000, needs=needs))
    with pytest.raises(NotEnoughMemoryError, match="validation part 916 MiB"):  # 60 M pairs, 16 bytes each
        list(dataset._within_memory(histories, 20_000_000, 1_000, 1_000, n_validated=60_000_000))
