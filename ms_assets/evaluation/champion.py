"""Champion of the registered models: a challenger replaces it if surely better, or if it knows too little of today.

A champion whose files are gone or damaged is an error: nothing can be compared with it, and whatever came next would
take its place, however bad. Servers that have loaded it go on meanwhile.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from ms_assets.evaluation.comparison import Comparison, Holdout, K, Model, compare
from ms_assets.registry import ALIAS, CONTENT, DATA, ROLLED_BACK, SINCE, ChampionError, Registry, Version
from ms_assets.reranking.served import SecondStage
from ms_assets.retrieval.served import ModelData

KNOWN_AT_LEAST = 0.5
"""Least share of users with targets, and of their targets, that a champion must know; below, its data are too old."""

SCHEMA = pl.Schema(
    {
        "name": pl.String,
        **dict.fromkeys(("challenger", "champion_before", "champion"), pl.Int64),
        "promoted": pl.Boolean,
        "reason": pl.String,
        **dict.fromkeys(("challenger_mean", "champion_mean", "difference", "ci_low", "ci_high"), pl.Float64),
        **dict.fromkeys(("n_users", "n_users_dropped", "n_songs", "n_songs_dropped"), pl.Int64),
        **dict.fromkeys(("users_known", "targets_known"), pl.Float64),
    }
)
"""Columns of the decision, with type and description; null where nothing was compared."""


def decide(registry: Registry, number: int, holdout: Holdout) -> dict[str, Any]:
    """Compare a version with the champion and move the alias if it wins; returns the decision as a row of SCHEMA.

    An error leaves the alias where it is. A version that is champion already keeps the decision that promoted it.

    Raises:
        ChampionError: the champion changed during the comparison, or the files of either are gone or damaged.
    """
    challenger, champion = registry.version(number), registry.champion()
    before = champion.number if champion else None
    if before == number:
        made_so = challenger.decision or {}
        return made_so if made_so.get("champion") == number else _row(registry, number, before, before, "set by hand")
    promoted, reason, found = _judged(registry, challenger, champion, holdout)
    now = registry.champion()
    if (now.number if now else None) != before:
        raise ChampionError(f"the champion of {registry.name} changed meanwhile: materialise evaluation/champion again")
    decision = _row(registry, number, before, number if promoted else before, reason, found)
    (registry.promote if promoted else registry.note)(challenger, decision)
    return decision


def by_hand(registry: Registry, number: int) -> dict[str, Any]:
    """Promote a version to champion by a person's decision, which is returned as a row of SCHEMA."""
    version, champion = registry.version(number), registry.champion()
    decision = _row(registry, number, champion.number if champion else None, number, "a person promoted it")
    registry.promote(version, decision)
    return decision


def roll_back(registry: Registry) -> dict[str, Any]:
    """Roll back to the former champion by a person's decision, which is returned as a row of SCHEMA.

    Raises:
        ChampionError: there is no former champion, or its files are damaged.
    """
    champion, former = registry.champion(), registry.former()
    if champion is None or former is None:
        raise ChampionError(f"{registry.name} has no former champion to return to; nothing was changed")
    reason = f"a person rolled version {champion.number} back"
    decision = _row(registry, former.number, champion.number, former.number, reason)
    registry.return_to(former, decision)
    return decision


def _row(
    registry: Registry, challenger: int, before: int | None, after: int | None, reason: str,
    found: Comparison | None = None,
) -> dict[str, Any]:  # fmt: skip
    numbers = {name: None if value != value else value for name, value in asdict(found).items()} if found else {}
    versions = {"challenger": challenger, "champion_before": before, "champion": after, "promoted": before != after}
    return dict.fromkeys(SCHEMA) | {"name": registry.name, **versions, "reason": reason} | numbers


def _judged(
    registry: Registry, challenger: Version, champion: Version | None, holdout: Holdout
) -> tuple[bool, str, Comparison | None]:
    """Judge if the challenger takes over: verdict, reason, and the comparison if there was one."""
    if ROLLED_BACK in challenger.tags:
        return False, "a person rolled it back, so only a person can promote it again", None
    if champion is None:
        return True, "there was no champion", None
    if not registry.intact(champion):
        if challenger.tags[CONTENT] == champion.tags.get(CONTENT):
            return True, "it is the champion, whose files were gone or damaged, made again", None
        number, scale = challenger.number, registry.name.partition("-")[2]
        raise ChampionError(
            f"the files of version {champion.number} of {registry.name}, the champion, are gone or damaged, so that "
            f"version {number} cannot be compared with it; nothing was promoted. Restore {registry.location(champion)} "
            "from a backup and materialise evaluation/champion again, or choose a version by hand, such as the new "
            f"one: python -m ms_assets promote {scale} {number}"
        )
    found = compare(_served(registry, challenger), _served(registry, champion), holdout)
    if found.users_known < KNOWN_AT_LEAST or found.targets_known < KNOWN_AT_LEAST:
        shares = f"{found.users_known:.0%} of today's users and {found.targets_known:.0%} of their targets"
        return True, f"the champion was trained on different data: it knows {shares}", found
    interval = f"{found.difference:+.4f} ({found.ci_low:+.4f} to {found.ci_high:+.4f})"
    if found.ci_low > 0:
        return True, f"better than the champion: {interval}", found
    word = "worse than the champion" if found.ci_high < 0 else "not surely better than the champion"
    return False, f"{word}: {interval}", found


def _served(registry: Registry, version: Version) -> Model:
    with registry.files(version) as folder:
        return SecondStage.read(folder / DATA) or ModelData.read(folder / DATA)


def metrics_of(leaderboard: pl.DataFrame) -> dict[str, float]:
    """Means of LightGCN's metrics in the test part, by names that MLflow accepts."""
    rows = leaderboard.filter(method="lightgcn").drop_nulls("mean")
    names = rows.select(pl.format("test {} {} at {}", "view", "metric", "k"))
    return dict(zip(names.to_series(), rows["mean"], strict=True))


def history(registry: Registry) -> pl.DataFrame:
    """History of a registered model, one row per version, the latest first: status, since when, and why."""
    champion = registry.champion()
    rows = []
    for version in reversed(registry.versions()):
        is_champion = champion is not None and version.number == champion.number
        status = "champion" if is_champion else "rolled back" if ROLLED_BACK in version.tags else ""
        reason = (version.decision or {}).get("reason", "not compared yet")
        registered = f"{version.registered:%Y-%m-%d %H:%M}"
        rows.append((version.number, status, registered, version.tags.get(SINCE, ""), reason))
    columns = ("version", "status", "registered", "champion since", "decision")
    return pl.DataFrame(rows, dict.fromkeys(columns, pl.String) | {"version": pl.Int64}, orient="row")


def fault(registry: Registry, uid: int | str) -> str | None:
    """Fault in the champion's answers to a known and an unknown user, loaded as in a server; None if there is none."""
    import mlflow
    import pandas as pd

    if registry.champion() is None:
        return f"{registry.name} has no champion"
    questions = pd.DataFrame({"uid": [uid, uid, -1], "k": K, "exclude_heard": [False, True, True]})
    try:
        answers = mlflow.pyfunc.load_model(f"models:/{registry.name}@{ALIAS}").predict(questions)
    except Exception as error:
        return f"the champion does not answer: {error}"
    # To a user who has heard every song nothing else can be recommended.
    for fewest, (kind, items, scores) in zip(
        (1, 0, 1), answers[["answer", "item_ids", "scores"]].to_numpy(), strict=True
    ):
        if not fewest <= len(items) == len(set(items)) == len(scores) <= K or (np.diff(scores) > 0).any():
            return f"a {kind} answer has songs {items} with scores {scores}, expected up to {K} distinct, best first"
    return None
