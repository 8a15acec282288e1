"""Chance: methods whose lists are no better than random ones, though the data have something to learn.

Methods are compared with `random`, and with `popular`, by NDCG at the smallest k, where lists of a few songs count like
long ones, over the same users, in both views. One method beats another if the 99 % interval of their paired difference
lies above 0 in a view.

    all methods     fewer than half of them beat chance, although songs differ; or all personal ones are surely worse
                    than `popular` in both views, although users differ: targets of another division
    some methods    the others beat chance, this one does not, and gains surely less than a tenth of their median: ids
                    of another version, or a training that has learned nothing

On the sample (963 users) methods gain between .009 and .40 in `all`; with their songs numbered anew, .000 ± .002. Among
fewer than 100 users nothing is concluded: among 12, differences of .1 are chance. Nor is it where there is nothing to
learn, as from events drawn at random: songs differ if two listeners share a song oftener than in a catalogue of songs
all alike, and users if two events of one user are of one song oftener than any two. Methods that are the same for all
users are judged if songs differ, personal ones if half of them beat `popular`, `replay` if users return to songs,
`transitions` if songs follow one another within sessions, and each where it shows something to half of the users.
"""

from typing import NamedTuple

import numpy as np

from ms_assets.certainty import intervals
from ms_assets.evaluation.leaderboard import MEANS, Pane, pane
from ms_assets.interactions import Flags, Floats
from ms_assets.retrieval.dataset import ROWS
from ms_assets.retrieval.linear_models import followed
from ms_assets.retrieval.recommender import VIEWS
from ms_assets.streams import Relation, in_user_ranges

CHANCE, POPULAR, REPLAY, CONTENT, TRANSITIONS = "random", "popular", "replay", "content_based", "transitions"
SAME_FOR_ALL = (POPULAR, "decayed_popularity")
FEWEST_USERS = 100
SURE = 0.99
HARDLY = 0.1
"""Share of the median method's gain that a method must possibly reach, if it does not beat chance."""
UNEVEN, OWN = 1.25, 2.0
"""Least ratios by which songs and users differ in train."""
RETURNING, FOLLOWING = 0.1, 0.1
"""Least share of test pairs that were heard in train, and of train events that another one follows in a session."""
NDCG = {name: MEANS[name] for name in ("ndcg", "novelty")}
"""Metrics that are read; novelty is known for users to whom something was shown."""
Differences = tuple[Floats, Floats, Floats, Flags]
"""Difference of each method's mean NDCG, low and high end of its interval, and flags of methods with enough lists."""


class Fault(NamedTuple):
    """Fault in lists that are no better than chance."""

    said: str
    """Methods, and the next step."""
    of_data: bool = False
    """True if the data alone may explain it, and nothing need be wrong."""


def fault(per_user: Relation, train: Relation, ground_truth: Relation, n_songs: int) -> Fault | None:
    """Find the fault in lists that are no better than chance; None if there is none.

    Args:
        per_user: evaluation/user_metrics.
        train: splits/train.
        ground_truth: splits/ground_truth.
        n_songs: number of songs in the catalogue.
    """
    [(k, n_users)] = per_user.aggregate("min(k), count(DISTINCT uid)").fetchall()
    if n_users < FEWEST_USERS:
        return None
    views = [pane(per_user.filter(f"view = '{view}' AND k = {k}"), NDCG) for view in VIEWS]
    names = np.array(views[0].methods)
    over_chance, over_popular = ([_differences(view, other) for view in views] for other in (CHANCE, POPULAR))
    judged = np.any([enough for *_, enough in over_chance], axis=0) & (names != CHANCE)
    judged &= (names != REPLAY) | (_returning(train, ground_truth) >= RETURNING)
    judged &= (names != TRANSITIONS) | (_following(train) >= FOLLOWING)
    beats = judged & _better(over_chance)
    pairs = train.aggregate("user_id, song_id, count(*)::DOUBLE AS n")
    shared = _of_one_song(pairs.project("song_id, 1.0 AS n"))
    songs_differ, personal = n_songs * shared >= UNEVEN, judged & ~np.isin(names, SAME_FOR_ALL)
    if 2 * beats.sum() < judged.sum():
        said = f"{', '.join(names[judged & ~beats])}: no better than random lists, though songs differ in train"
        return Fault(f"{said}; {UNRELATED}") if songs_differ else None
    worse = np.all([~enough | (high < 0) for _, _, high, enough in over_popular], axis=0)
    if worse[personal].all() and _of_one_song(pairs, "user_id") >= OWN * shared:
        return Fault(
            f"no list made for a user is as good as {POPULAR}'s for all, though users differ in train; {UNRELATED}"
        )
    users_differ = 2 * (personal & _better(over_popular)).sum() >= personal.sum()
    judged &= np.where(personal, users_differ, songs_differ)
    lost = names[judged & ~beats & np.any([_hardly_gain(view, beats) for view in over_chance], axis=0)]
    if not len(lost):
        return None
    again = ", ".join(f"retrieval/{name}" for name in lost)
    if list(lost) == [CONTENT]:
        return Fault(f"{CONTENT}: no better than random lists; {SILENT}", of_data=True)
    return Fault(
        f"{', '.join(lost)}: no better than random lists, while most methods are. Ids are of another version, or a "
        f"training has learned nothing: materialise {again} and what they are made of again"
    )


SILENT = "the audio vectors of this data say nothing of who listens, or are those of other songs"
UNRELATED = "test events are of another division than the lists: materialise splits and all that follows again"


def _differences(found: Pane, other: str) -> Differences:
    """Differences of all methods from another one in one view."""
    ndcg, (n_users, n_shown) = found.samples[..., 0], found.known.sum(axis=0).T
    return *intervals(ndcg - ndcg[:, [found.methods.index(other)]], n_users, SURE), 2 * n_shown >= len(found.known)


def _better(views: list[Differences]) -> Flags:
    """Flags of methods that are surely better in a view."""
    return np.any([enough & (low > 0) for _, low, _, enough in views], axis=0)


def _hardly_gain(view: Differences, beats: Flags) -> Flags:
    """Flags of methods that gain surely less than a share of the median gain of those that beat chance in the view."""
    gain, low, high, enough = view
    better = beats & enough & (low > 0)
    return enough & (high < HARDLY * np.median(gain[better])) if better.any() else better


def _of_one_song(counted: Relation, *within: str) -> float:
    """Chance that two events, of all or of one user, are of one song; counted: pairs or songs with n events."""
    of_songs, of_all = (
        table.aggregate("sum(n * (n - 1))").fetchall()[0][0] or 0.0
        for table in (counted.aggregate(", ".join([*within, "song_id", "sum(n) AS n"])),
                      counted.aggregate(", ".join([*within, "sum(n) AS n"])))
    )  # fmt: skip
    return float(of_songs / of_all) if of_all else 0.0


def _following(train: Relation) -> float:
    """Share of the train events that another one follows within a session."""
    counted = in_user_ranges(lambda part: followed(part).aggregate("sum(n)::BIGINT AS n"), train, rows=ROWS).tables
    return sum(table["n"][0].as_py() or 0 for table in counted) / max(len(train), 1)


def _returning(train: Relation, ground_truth: Relation) -> float:
    """Share of the test part's pairs that the user has heard in train."""
    test = ground_truth.filter("split = 'test' AND base_relevance > 0").set_alias("test")
    heard = test.join(train.set_alias("train"), "user_id, song_id", how="semi")
    return len(heard) / max(len(test), 1)
