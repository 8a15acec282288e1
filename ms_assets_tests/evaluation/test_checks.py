"""The checks of the decision: a worse training warns, a champion that does not answer fails."""

import polars as pl
import pytest

from ms_assets.defs.evaluation import checks
from ms_assets.evaluation import champion as champions
from ms_assets_tests import planted
from ms_assets_tests.evaluation import tastes
from ms_assets_tests.planted import model


@pytest.fixture
def decided(store, duckdb):
    """Registers models one after the other; gives the table of the last decision, and the check of what serves."""
    registry = planted.new_registry(store)
    users = duckdb.connection.from_arrow(pl.DataFrame({"uid": planted.UID}).to_arrow())

    def decide(known):
        decision = champions.decide(registry, planted.register(registry, known).number, planted.holdout())
        table = pl.DataFrame([decision], champions.SCHEMA)
        return registry, duckdb.connection.from_arrow(table.to_arrow()), users

    return decide


def test_a_training_that_is_surely_worse_than_the_champion_warns_and_says_by_how_much(decided):
    for noise, passed in ((1.0, True), (0.3, True), (3.0, False), (0.3, True)):
        _, table, _ = decided(model(noise))
        result = checks.challenger_is_not_worse(table)
        assert result.passed == passed, noise
        assert result.severity.value == "WARN"
        if not passed:
            assert result.description.startswith("worse than the champion: -")
            assert result.metadata["ci_high"].value < 0


def test_a_champion_that_cannot_be_loaded_fails(decided, store):
    registry, table, users = decided(model(0.3))
    own = users.project("uid, 'nobody' AS user").filter("false")
    assert checks.champion_answers(table, users, own, store).passed
    with registry.files(registry.champion()) as folder:
        (folder / "artifacts" / "index.faiss").write_bytes(b"no index")
    result = checks.champion_answers(table, users, own, store)
    assert not result.passed
    assert result.description.startswith("the champion does not answer: ")


def test_a_method_at_chance_level_blocks_by_its_name():
    known = tastes.world()
    assert checks.methods_beat_chance(*known.tables()).passed
    known.lists["ials"] = tastes.renumbered(known.lists["ials"])
    result = checks.methods_beat_chance(*known.tables())
    assert not result.passed and result.severity.value == "ERROR"
    assert result.description.startswith("ials: no better than random lists")
