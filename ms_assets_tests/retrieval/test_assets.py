"""The tuned recommenders over a small world: what they say of their settings, with and without a validation part."""

import json
from dataclasses import replace

import pytest

from ms_assets.retrieval.baselines import DECAYS, HALF_LIVES, SVD_GRID
from ms_assets.retrieval.implicit_models import BPR_GRID, IALS_GRID, ITEM_KNN_GRID
from ms_assets.retrieval.linear_models import EASE_GRID, FILTER_GRID, SESSION_GRID, TRANSITIONS_GRID
from ms_assets.retrieval.recommender import VIEWS
from ms_assets_tests.worlds import random_case

GRIDS = {
    "replay": DECAYS,
    "decayed_popularity": HALF_LIVES,
    "item_knn": ITEM_KNN_GRID,
    "ials": IALS_GRID,
    "session_knn": SESSION_GRID,
    "transitions": TRANSITIONS_GRID,
    "bpr": BPR_GRID,
    "graph_filter": FILTER_GRID,
    "ease": EASE_GRID,
    "collaborative_filtering": SVD_GRID,
}


@pytest.fixture(scope="module", params=["0", "0.2"])
def run(request, platform_at, tmp_path_factory):
    """The materialisations of a world whose events divide by this validation ratio, and the checks of them."""
    platform = platform_at(tmp_path_factory.mktemp("tuned"))
    world, rules = random_case(4)
    world.write(platform.source)
    rules = replace(rules, validation_ratio=request.param)
    result = platform.materialise(*(f"retrieval/{method}" for method in GRIDS), config=rules.config())
    return request.param, result


def metadata_of(result):
    events = result.get_asset_materialization_events()
    return {
        event.asset_key.path[-1]: {name: value.value for name, value in event.materialization.metadata.items()}
        for event in events
        if event.asset_key.path[0] == "retrieval"
    }


@pytest.mark.parametrize("method", GRIDS)
def test_a_tuned_recommender_states_its_setting_how_it_was_chosen_and_its_seconds(run, method):
    ratio, result = run
    found = metadata_of(result)[method]
    for view in VIEWS:
        setting = {name: found[f"{name}_{view}"] for name in GRIDS[method][0]}
        assert json.dumps(setting) in map(json.dumps, GRIDS[method])
        if ratio == "0":
            assert setting == GRIDS[method][0]
    if ratio == "0":
        assert found["chosen_by"] == "default, because there are no validation users"
    else:
        assert "validation users in each view" in found["chosen_by"]
        assert found["tuning"].count("\n") == len(GRIDS[method]) + 1
    assert all(found[f"{stage}_seconds"] >= 0 for stage in ("tuning", "fit", "recommend"))


def test_their_recommendations_are_complete(run):
    checks = [check for check in run[1].get_asset_check_evaluations() if check.asset_key.path[0] == "retrieval"]
    assert len(checks) == len(GRIDS)
    assert all(check.passed for check in checks), [check.description for check in checks]
