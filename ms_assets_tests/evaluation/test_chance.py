"""Methods at chance level: found where lists or targets name the wrong songs, and never where nothing can be told."""

from dataclasses import replace

import numpy as np
import pytest

from ms_assets.evaluation import chance
from ms_assets_tests.evaluation.tastes import METHODS, N_SONGS, N_TASTES, exchanged, renumbered, world

SILENT = "the audio vectors of this data say nothing of who listens, or are those of other songs"
UNRELATED = "test events are of another division than the lists: materialise splits and all that follows again"


def fault(known):
    per_user, songs, train, ground_truth = known.tables()
    found = chance.fault(per_user, train, ground_truth, len(songs))
    assert found is None or found.of_data == (found.said == f"content_based: no better than random lists; {SILENT}")
    return found and found.said


def test_methods_that_know_something_pass():
    assert fault(world()) is None


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"random"}))
def test_a_method_whose_songs_have_other_numbers_fails_by_its_name(method):
    known = world()
    found = fault(replace(known, lists=known.lists | {method: renumbered(known.lists[method])}))
    if method == "content_based":
        assert found == f"content_based: no better than random lists; {SILENT}"
        return
    assert found.startswith(f"{method}: no better than random lists, while most methods are.")
    assert f"materialise retrieval/{method} and what they are made of again" in found


@pytest.mark.parametrize("harm", [renumbered, exchanged])
def test_targets_of_another_division_fail(harm):
    known = world()
    found = fault(replace(known, test=harm(known.test)))
    assert found.endswith(UNRELATED)


def test_all_lists_of_another_division_fail_and_are_named():
    known = world()
    found = fault(replace(known, lists={m: renumbered(f) for m, f in known.lists.items()}))
    named = "content_based, ials, item_knn, lightgcn, popular, replay, transitions"
    assert found == f"{named}: no better than random lists, though songs differ in train; {UNRELATED}"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("repeats", [True, False])
def test_events_drawn_at_random_pass(seed, repeats):
    alike = np.full((N_TASTES, N_SONGS), 1 / N_SONGS)
    assert fault(world(likes=alike, repeats=repeats, seed=seed)) is None


def test_songs_that_are_popular_with_all_users_alike_pass():
    popular = np.tile(1 / np.arange(1, N_SONGS + 1), (N_TASTES, 1))
    known = world(likes=popular / popular.sum(axis=1, keepdims=True))
    known.lists["content_based"] = renumbered(known.lists["content_based"])  # as from audio that means nothing
    assert fault(known) is None


def test_few_users_pass_whatever_their_lists_are():
    known = world(n_users=99)
    assert fault(replace(known, lists={m: renumbered(f) for m, f in known.lists.items()})) is None


def test_a_method_that_has_nothing_to_show_passes():
    known = world()
    assert fault(replace(known, lists=known.lists | {"content_based": known.lists["content_based"].clear()})) is None


def test_replay_passes_where_nobody_plays_a_song_twice():
    assert fault(world(repeats=False)) is None


@pytest.mark.parametrize("pause", [0, 86_400])
def test_transitions_pass_where_no_song_follows_another_within_a_session(pause):
    known = world(pause=pause)
    assert fault(replace(known, lists=known.lists | {"transitions": renumbered(known.lists["transitions"])})) is None
