"""Who becomes champion: models of planted quality in a real MLflow store, judged on the same users."""

import re
import shutil
from dataclasses import replace

import mlflow
import numpy as np
import polars as pl
import pytest

from ms_assets import registry as registries
from ms_assets.__main__ import main
from ms_assets.evaluation import champion
from ms_assets.evaluation.champion import by_hand, decide, history, roll_back
from ms_assets.evaluation.comparison import Holdout
from ms_assets.interactions import Interactions
from ms_assets.registry import DATA, ChampionError
from ms_assets_tests import planted
from ms_assets_tests.planted import model, part

GOOD, MIDDLING, BAD = model(0.3), model(1.0), model(3.0)
AS_GOOD = model(0.3, seed=1)


@pytest.fixture
def registry(store):
    return planted.new_registry(store)


def compete(registry, *models):
    """The decisions about models that are registered one after the other."""
    return [decide(registry, planted.register(registry, known).number, planted.holdout()) for known in models]


def champion_of(registry):
    version = registry.champion()
    return version.number if version else None


def damage(registry, number):
    with registry.files(registry.version(number)) as folder:
        file = folder / DATA / "users.parquet"
        file.write_bytes(file.read_bytes()[:-100])


def test_the_first_model_becomes_champion(registry):
    [decision] = compete(registry, BAD)
    assert (decision["promoted"], decision["champion_before"], decision["champion"]) == (True, None, 1)
    assert decision["reason"] == "there was no champion"
    assert champion_of(registry) == 1


def test_a_better_challenger_becomes_champion_and_a_worse_one_does_not(registry):
    _, better, worse = compete(registry, MIDDLING, GOOD, BAD)
    assert better["promoted"] and better["ci_low"] > 0
    assert better["reason"].startswith("better than the champion: +")
    assert not worse["promoted"] and worse["ci_high"] < 0
    assert worse["reason"].startswith("worse than the champion: -")
    assert (worse["champion_before"], worse["champion"], champion_of(registry)) == (2, 2, 2)


def test_a_tie_keeps_the_champion(registry):
    _, tie = compete(registry, GOOD, AS_GOOD)
    assert tie["ci_low"] <= 0 <= tie["ci_high"]
    assert tie["reason"].startswith("not surely better than the champion: ")
    assert not tie["promoted"]
    assert champion_of(registry) == 1


def test_the_decision_is_a_row_of_the_declared_columns_and_kept_with_the_version(registry):
    decisions = compete(registry, MIDDLING, GOOD)
    table = pl.DataFrame(decisions, champion.SCHEMA)
    assert table.to_dicts() == decisions
    assert [version.decision for version in registry.versions()] == decisions
    assert decisions[1]["difference"] == pytest.approx(decisions[1]["challenger_mean"] - decisions[1]["champion_mean"])
    assert (decisions[1]["n_users"], decisions[1]["n_users_dropped"]) == (planted.N_USERS, 0)


def test_deciding_again_about_the_champion_gives_the_decision_that_made_it_so(registry):
    _, first = compete(registry, BAD, GOOD)
    assert decide(registry, 2, planted.holdout()) == first
    assert champion_of(registry) == 2


def test_a_champion_whose_alias_was_set_by_hand_is_said_to_be_so(registry, store):
    compete(registry, GOOD, BAD)
    mlflow.MlflowClient(store.tracking_uri).set_registered_model_alias(registry.name, "champion", "2")
    decision = decide(registry, 2, planted.holdout())
    assert (decision["champion"], decision["promoted"], decision["reason"]) == (2, False, "set by hand")


def test_where_nobody_found_anything_today_the_champion_stays(registry):
    compete(registry, BAD)
    known = planted.holdout()
    nobody = Holdout(known.targets.clear(), known.heard.clear())
    decision = decide(registry, planted.register(registry, GOOD).number, nobody)
    assert not decision["promoted"] and decision["n_users"] == 0
    assert champion_of(registry) == 1


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_a_champion_whose_files_are_gone_or_damaged_is_an_error_that_promotes_nothing(registry, harm):
    compete(registry, GOOD)
    harmed = registry.version(1)
    with registry.files(harmed) as folder:
        if harm == "gone":
            shutil.rmtree(folder)
        else:
            damage(registry, 1)
    scale = registry.name.removeprefix("ms_assets-")
    said = rf"version 1 .* champion, are gone or damaged, .* Restore {folder} .* promote {scale} 2$"
    with pytest.raises(ChampionError, match=said):
        compete(registry, BAD)
    assert champion_of(registry) == 1 and registry.version(2).decision is None
    [again] = compete(registry, GOOD)
    assert (again["promoted"], again["champion_before"], again["champion"]) == (True, 1, 3), "the same model heals it"
    assert again["reason"] == "it is the champion, whose files were gone or damaged, made again"


def test_a_person_may_choose_another_when_the_champions_files_are_gone(registry):
    compete(registry, BAD, GOOD)
    damage(registry, 2)
    planted.register(registry, MIDDLING)
    assert by_hand(registry, 3)["champion"] == champion_of(registry) == 3
    by_hand(registry, 1)
    damage(registry, 1)
    assert roll_back(registry)["champion"] == champion_of(registry) == 3


@pytest.mark.parametrize(
    ("known", "share"),
    [({"users": slice(0, 29)}, "48% of today's users"), ({"songs": slice(0, 90)}, r"100% .* \d\d% of their targets")],
    ids=["users", "songs"],
)
def test_a_champion_that_knows_less_than_half_of_today_gives_way(registry, known, share):
    _, decision = compete(registry, part(GOOD, **known), BAD)
    assert decision["promoted"]
    assert re.search(f"the champion was trained on different data: it knows .*{share}", decision["reason"])


def test_a_champion_that_knows_more_than_half_of_today_is_judged_by_that(registry):
    _, decision = compete(registry, part(GOOD, users=slice(0, 31), songs=slice(0, 150)), BAD)
    assert not decision["promoted"] and decision["ci_high"] < 0
    assert decision["n_users"] == 31 and decision["n_users_dropped"] == planted.N_USERS - 31
    assert decision["n_songs"] == 150 and decision["n_songs_dropped"] == 50


@pytest.mark.parametrize("failing", ["compare", "_served"])
def test_a_comparison_that_fails_loses_no_champion(registry, failing, monkeypatch):
    compete(registry, MIDDLING)

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(champion, failing, fail)
    with pytest.raises(OSError, match="no space"):
        compete(registry, GOOD)
    assert champion_of(registry) == 1
    monkeypatch.undo()
    assert compete(registry, GOOD)[0]["promoted"], "the next run heals"
    assert champion_of(registry) == 2


def test_a_champion_whose_files_may_not_be_read_is_not_taken_for_gone(registry, monkeypatch):
    compete(registry, MIDDLING)
    planted.register(registry, GOOD)

    def forbidden(*_):
        raise PermissionError("users.parquet")

    monkeypatch.setattr(registries, "sha256_of_all", forbidden)
    with pytest.raises(PermissionError):
        decide(registry, 2, planted.holdout())
    assert champion_of(registry) == 1


def test_a_challenger_whose_files_are_damaged_does_not_become_champion(registry):
    compete(registry, BAD)
    planted.register(registry, GOOD)
    damage(registry, 2)
    with pytest.raises(Exception, match=r"version 2|[Pp]arquet"):
        decide(registry, 2, planted.holdout())
    assert champion_of(registry) == 1


def test_a_champion_that_changed_during_the_comparison_is_left_alone(registry, monkeypatch):
    compete(registry, BAD, MIDDLING)
    planted.register(registry, GOOD)
    compared = champion.compare

    def meanwhile(*models):
        by_hand(registry, 1)
        return compared(*models)

    monkeypatch.setattr(champion, "compare", meanwhile)
    with pytest.raises(ChampionError, match="changed meanwhile: materialise evaluation/champion again"):
        decide(registry, 3, planted.holdout())
    assert champion_of(registry) == 1


def test_a_rollback_returns_to_the_champion_before_and_another_to_the_one_before_that(registry):
    compete(registry, BAD, MIDDLING, AS_GOOD, GOOD)
    assert champion_of(registry) == 3
    assert roll_back(registry)["champion"] == champion_of(registry) == 2
    assert roll_back(registry)["champion"] == champion_of(registry) == 1
    with pytest.raises(ChampionError, match="has no former champion to return to; nothing was changed"):
        roll_back(registry)
    assert champion_of(registry) == 1


def test_what_a_person_rolled_back_no_decision_promotes_but_a_person_may(registry):
    compete(registry, BAD, GOOD)
    roll_back(registry)
    decision = decide(registry, 2, planted.holdout())
    assert not decision["promoted"] and champion_of(registry) == 1
    assert decision["reason"] == "a person rolled it back, so only a person can promote it again"
    assert by_hand(registry, 2)["reason"] == "a person promoted it"
    assert champion_of(registry) == 2
    assert roll_back(registry)["champion"] == 1


def test_a_damaged_version_is_neither_promoted_nor_returned_to(registry):
    compete(registry, BAD, GOOD)
    damage(registry, 1)
    for order in (lambda: by_hand(registry, 1), lambda: roll_back(registry)):
        with pytest.raises(ChampionError, match="version 1 are gone or not those that were registered"):
            order()
    assert champion_of(registry) == 2
    assert decide(registry, 2, planted.holdout())["champion"] == 2, "and it is not marked as rolled back"


def test_the_history_says_who_is_champion_and_why(registry):
    compete(registry, BAD, GOOD, MIDDLING)
    roll_back(registry)
    rows = {row["version"]: row for row in history(registry).to_dicts()}
    assert list(rows) == [3, 2, 1]
    assert [rows[n]["status"] for n in (3, 2, 1)] == ["", "rolled back", "champion"]
    assert rows[3]["decision"].startswith("worse than the champion")
    assert rows[1]["decision"] == "a person rolled version 2 back"
    assert rows[2]["champion since"] and not rows[3]["champion since"]


def test_a_champion_that_answers_has_no_fault_and_one_that_does_not_is_told(registry):
    uid = int(planted.UID[0])
    assert "has no champion" in champion.fault(registry, uid)
    compete(registry, GOOD)
    assert champion.fault(registry, uid) is None
    damage(registry, 1)
    assert champion.fault(registry, uid).startswith("the champion does not answer: ")
    speechless = replace(GOOD, users=np.full_like(GOOD.users, np.nan))
    by_hand(registry, planted.register(registry, speechless).number)
    assert champion.fault(registry, uid).startswith("a personal answer has ")


def test_a_champion_has_no_fault_where_the_user_has_heard_every_song(registry):
    known = part(GOOD, users=slice(0, 2), songs=slice(0, 5))
    known = replace(known, heard=Interactions(np.arange(10), 2, 5))
    registry.promote(planted.register(registry, known), {})
    assert champion.fault(registry, int(known.uid[0])) is None


def run(capsys, *arguments):
    """A command's exit status, and what it prints."""
    with pytest.raises(SystemExit) as end:
        main([*arguments])
    printed = capsys.readouterr()
    # Python itself prints a status that is text, and exits with 1.
    return (1, end.value.code) if isinstance(end.value.code, str) else (end.value.code, printed.out + printed.err)


def test_one_command_rolls_back_and_others_show_and_promote(store, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri)
    registry = store.registry("50m")
    compete(registry, BAD, GOOD)
    status, said = run(capsys, "rollback", "50m")
    assert status == 0
    assert "models:/ms_assets-50m@champion" in said and "a person rolled version 2 back" in said
    assert champion_of(registry) == 1
    status, said = run(capsys, "promote", "50m", "2")
    assert status == 0
    assert champion_of(registry) == 2
    assert "A rollback returns to version 1." in said
    assert run(capsys, "champion", "50m")[0] == 0
    assert run(capsys, "promote", "50m", "7") == (1, "ms_assets-50m has no version 7; registered versions: 1, 2")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["promote", "50m", "two"], "'two' is not a valid integer"),
        (["promote", "50m"], "Missing argument 'VERSION'"),
        (["promote", "50m", "2", "3"], "unexpected extra argument (3)"),
        (["rollback", "51m"], "'51m' is not one of 'sample', '50m', '500m', '5b', 'own'"),
        (["51m"], "No such command '51m'"),
        (["demote", "50m"], "No such command 'demote'"),
        ([], "Make the former champion the champion again."),
    ],
)
def test_a_command_that_is_not_known_or_not_complete_is_refused_with_its_usage(capsys, arguments, named):
    status, said = run(capsys, *arguments)
    assert status == 2
    assert named in said and "Usage: python -m ms_assets" in said


def test_help_lists_every_command_and_scale(capsys):
    status, said = run(capsys, "--help")
    assert status == 0
    of_scales = ("champion", "promote", "rollback", "export", "recommend", "publish")
    for command in (*of_scales, "sample", "50m", "500m", "5b", "own", "import", "metrics"):
        assert f"\n  {command} " in said
