"""The checks of the raw tables pass on good data, and fail on data broken in the way that they name."""

import dagster as dg
import pytest

from ms_assets.defs.raw import checks as raw
from ms_assets.raw import published
from ms_assets.raw.reports import SPREAD
from ms_assets_tests.conftest import metadata
from ms_assets_tests.worlds import World, listen


def test_events_need_a_time_and_a_type(table):
    check, names = raw.events_have_a_time_and_a_type, "uid timestamp event_type"
    good = [(1, 5, "listen"), (None, 5, "like")]
    assert check(table(names, *good)).passed
    for broken in [*good, (1, None, "like")], [*good, (1, 5, None)], []:
        result = check(table(names, *broken))
        assert not result.passed
        assert result.severity == dg.AssetCheckSeverity.WARN


def test_a_missing_event_type_is_named(table):
    types = ["listen", "like", "dislike", "unlike", "undislike"]
    assert raw.every_event_type_occurs(table("event_type", *((name,) for name in types))).passed
    found = raw.every_event_type_occurs(table("event_type", *((name,) for name in types if name != "unlike")))
    assert not found.passed
    assert metadata(found)["missing"] == "unlike"


def test_audio_vectors_that_are_not_finite_are_worth_a_warning():
    assert raw.audio_vectors_are_finite(10, 0).passed
    found = raw.audio_vectors_are_finite(10, 2)
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN


# What the authors publish of multi_event at 50m, typed here once more.
EVENTS_50M = {
    "n_events": 47_790_449, "n_users": 10_000, "n_songs": 934_057,
    "per_user_mean": 4779.0449, "per_user_std": 5560.81, "per_user_min": 1.0, "per_user_q25": 687.0,
    "per_user_median": 2653.5, "per_user_q75": 6856.5, "per_user_max": 27_699.0,
    "per_song_mean": 51.164381, "per_song_std": 123.4, "per_song_min": 1.0, "per_song_q25": 1.0,
    "per_song_median": 3.0, "per_song_q75": 12.0, "per_song_max": 42_960.0,
}  # fmt: skip
LIKES_50M = dict.fromkeys(EVENTS_50M, None) | {"n_events": 881_456, "n_users": 9_000, "n_songs": 300_000}


def report(**changed):
    """The report of a true 50m, with some figures changed."""
    return [{"file": "multi_event", **EVENTS_50M, **changed}, {"file": "likes", **LIKES_50M}]


def test_figures_that_round_to_the_published_ones_agree():
    differing, n_equal = published.differences("50m", report())
    assert differing == {}
    assert n_equal == 14


def test_a_figure_that_is_off_by_one_is_shown_with_the_published_one():
    differing, n_equal = published.differences("50m", report(n_users=10_001, per_song_max=42_959.0))
    assert differing == {
        "multi_event.n_users": "found 10001, published 10000",
        "multi_event.per_song_max": "found 42959.0, published 42960",
    }
    assert n_equal == 12


@pytest.mark.parametrize(("std", "agrees"), [(5560.76, True), (5560.84, True), (5560.74, False), (5560.86, False)])
def test_a_mean_with_one_decimal_agrees_when_it_rounds_to_it(std, agrees):
    differing, _ = published.differences("50m", report(per_user_std=std))
    assert (differing == {}) == agrees


def test_a_figure_that_is_not_there_differs():
    differing, _ = published.differences("50m", report(per_user_median=None))
    assert differing == {"multi_event.per_user_median": "found None, published 2653.5"}


@pytest.mark.parametrize("scale", ["sample", "", "1b"])
def test_of_a_scale_that_nobody_published_nothing_is_said(scale):
    assert published.differences(scale, report()) == ({}, 0)


def test_of_files_that_are_not_here_nothing_is_said():
    assert published.differences("50m", []) == ({}, 0)
    assert published.differences("50m", report()[1:]) == ({}, 1)
    assert published.differences("50m", [{"file": "own_file", "n_events": 1}]) == ({}, 0)


def test_published_figures_are_figures_of_the_report():
    names = {"n_events", "n_users", "n_songs", *(f"per_{label}_{key}" for label in ("user", "song") for key in SPREAD)}
    files = {"multi_event", "listens", "likes", "dislikes", "unlikes", "undislikes"}
    for figures in published.STATISTICS.values():
        assert figures.keys() <= files
        assert set().union(*figures.values()) <= names
    assert published.STATISTICS.keys() == {"50m", "500m", "5b"}


def test_other_statistics_than_the_published_ones_are_a_warning(platform):
    World([listen(1, 0, 10)], [10]).write(platform.source)
    results = {}
    for scale in ("50m", "sample"):
        platform.materialise("raw/multi_event", scale=scale)
        run = platform.materialise("raw/statistics_report", scale=scale, alone=True)
        [results[scale]] = [
            evaluation
            for evaluation in run.get_asset_check_evaluations()
            if evaluation.check_name == raw.statistics_are_the_published_ones.check_key.name
        ]
    assert results["sample"].passed
    assert results["50m"].severity == dg.AssetCheckSeverity.WARN
    assert not results["50m"].passed
    found = metadata(results["50m"])
    assert (found["n_equal"], found["n_different"]) == (0, 13)
    assert found["multi_event.n_events"] == "found 1, published 47790449"
