"""Every table of splits/ and graph/edges once more, slowly: loops and exact fractions, from the definitions.

Nothing here is shared with the code under test. Numbers stay fractions until `rounded` compares them.
"""

from collections import Counter, defaultdict
from fractions import Fraction
from itertools import count
from math import floor
from typing import NamedTuple

from ms_assets_tests.worlds import DAY, GAP, Event, Rules, World

POSITIVE = ("listen", "like", "undislike")
Row = dict
Tables = dict[str, list[Row]]


class Kept(NamedTuple):
    """An event that takes part, and its place in the file."""

    place: int
    event: Event


def compute(world: World, rules: Rules) -> Tables:
    """All tables by name, each a list of rows."""
    catalogue = {e.item_id for e in world.events} - {None}
    if rules.require_audio:
        catalogue &= set(world.audio)
    raw_rows = Counter(event.uid for event in world.events)
    kept = [
        Kept(place, event)
        for place, event in enumerate(world.events)
        if event.uid is not None
        and rules.min_events <= raw_rows[event.uid] <= rules.max_events
        and event.item_id in catalogue
    ]
    kept_rows = Counter(k.event.uid for k in kept)
    users = [
        {"user_id": user_id, "uid": uid, "n_events": kept_rows[uid]} for user_id, uid in enumerate(sorted(kept_rows))
    ]
    parts = divide(kept, rules)
    songs = catalogue_rows(world, catalogue, parts["train"])
    user_ids = {row["uid"]: row["user_id"] for row in users}
    song_ids = {row["item_id"]: row["song_id"] for row in songs}
    in_graph = {row["song_id"]: row["in_graph"] for row in songs}
    rows = {name: [event_row(k, user_ids, song_ids) for k in part] for name, part in parts.items()}
    train = [row for row in rows["train"] if row["event_type"] in POSITIVE]
    disliked = {
        (row["user_id"], row["song_id"], row["event_type"])
        for row in rows["train"]
        if row["event_type"] in ("dislike", "unlike")
    }
    return {
        "users": users,
        "songs": songs,
        "train": train,
        "validation": rows["validation"],
        "test": rows["test"],
        "negatives": [
            {"user_id": user, "song_id": song, "event_type": kind, "in_graph": in_graph[song]}
            for user, song, kind in sorted(disliked)
        ],
        "ground_truth": ground_truth(train, {part: rows[part] for part in ("validation", "test")}),
        "edges": edges(train),
    }


def divide(kept: list[Kept], rules: Rules) -> dict[str, list[Kept]]:
    """The kept events of each part, in the order of user, time and file."""
    timeless = [k for k in kept if k.event.timestamp is None]
    timed = sorted((k for k in kept if k.event.timestamp is not None), key=lambda k: (k.event.timestamp, k.place))
    ordered = sorted(timed + timeless, key=lambda k: k.event.uid)
    parts = {"train": [], "validation": [], "test": []}
    if rules.protocol == "per_user":
        train, validation = Fraction(rules.train_ratio), Fraction(rules.validation_ratio)
        n_events, seen = Counter(k.event.uid for k in kept), Counter()
        for k in ordered:
            uid = k.event.uid
            seen[uid] += 1
            if seen[uid] <= floor(train * n_events[uid]):
                parts["train"].append(k)
            elif seen[uid] <= floor((train + validation) * n_events[uid]):
                parts["validation"].append(k)
            else:
                parts["test"].append(k)
        return parts
    test_start = rules.test_start
    for k in ordered:
        time = k.event.timestamp
        if time is None:
            continue
        if time >= test_start:
            parts["test"].append(k)
        elif test_start - GAP - DAY <= time < test_start - GAP:
            parts["validation"].append(k)
        elif time < test_start - GAP - DAY - GAP:
            parts["train"].append(k)
    trained = {k.event.uid for k in parts["train"] if k.event.event_type in POSITIVE}
    for name in ("validation", "test"):
        parts[name] = [k for k in parts[name] if k.event.uid in trained]
    return parts


def catalogue_rows(world: World, catalogue: set[int], train: list[Kept]) -> list[Row]:
    """The songs: those with a positive train event first, then the others, each by item_id."""
    graph = {k.event.item_id for k in train if k.event.event_type in POSITIVE}
    plays = Counter(k.event.item_id for k in train if k.event.event_type == "listen")
    artists, albums = dense_owners(world.artists, catalogue), dense_owners(world.albums, catalogue)
    song_id = count()
    return [
        {
            "song_id": next(song_id),
            "item_id": item_id,
            "artist_ids": artists[item_id],
            "album_ids": albums[item_id],
            "in_graph": item_id in graph,
            "n_train_plays": plays[item_id],
        }
        for item_id in (*sorted(graph), *sorted(catalogue - graph))
    ]


def dense_owners(pairs: list[tuple[int, int]], catalogue: set[int]) -> dict[int, list[int]]:
    """Of each song the ascending indices of its artists (or albums) among those of the catalogue's songs."""
    there = {(owner, song) for owner, song in pairs if song in catalogue}
    index = {owner: i for i, owner in enumerate(sorted({owner for owner, _ in there}))}
    lists = defaultdict(list)
    for owner, song in sorted(there):
        lists[song].append(index[owner])
    return lists


def event_row(kept: Kept, user_ids: dict[int, int], song_ids: dict[int, int]) -> Row:
    event = kept.event
    return {
        "user_id": user_ids[event.uid],
        "song_id": song_ids[event.item_id],
        "timestamp": event.timestamp,
        "event_type": event.event_type,
        "played_ratio": None if event.played_ratio_pct is None else share(event.played_ratio_pct),
        "is_organic": event.is_organic,
    }


def share(percent: float) -> Fraction:
    return min(Fraction(percent), Fraction(100)) / 100


def ground_truth(train: list[Row], held_out: Tables) -> list[Row]:
    """One row per part, user and song that met there."""
    plays = Counter((row["user_id"], row["song_id"]) for row in train if row["event_type"] == "listen")
    result = []
    for part, rows in held_out.items():
        for (user, song), met in grouped(rows, "user_id", "song_id").items():
            kinds = Counter(row["event_type"] for row in met)
            ratios = [row["played_ratio"] or Fraction(0) for row in met if row["event_type"] == "listen"]
            base = Fraction(7, 10) * sum(ratios) + kinds["like"] + Fraction(3, 10) * kinds["undislike"]
            bonus = 1 + Fraction(5, 100) * min(plays[user, song], 20) / 20
            result.append(
                {
                    "split": part,
                    "user_id": user,
                    "song_id": song,
                    "base_relevance": base,
                    "adjusted_relevance": min(base * bonus, Fraction(1)),
                    "listen_plus": sum(ratio > Fraction(1, 2) for ratio in ratios),
                    "likes": kinds["like"],
                    "dislikes": kinds["dislike"],
                    "n_events": len(met),
                    "n_train_plays": plays[user, song],
                }
            )
    return result


def edges(train: list[Row]) -> list[Row]:
    """One row per user, song and event type of the train part."""
    result = []
    for (user, song, kind), met in grouped(train, "user_id", "song_id", "event_type").items():
        known = [row["played_ratio"] for row in met if row["played_ratio"] is not None]
        heard = sum(known) / len(known) if known else Fraction(1, 2)
        ratio = {"listen": heard, "like": Fraction(1), "undislike": Fraction(1, 2)}[kind]
        weight = {"listen": Fraction(7, 10), "like": Fraction(1), "undislike": Fraction(3, 10)}[kind]
        key = {"user_id": user, "song_id": song, "event_type": kind}
        result.append({**key, "n_events": len(met), "played_ratio": ratio, "weight": weight})
    return result


def grouped(rows: list[Row], *names: str) -> dict[tuple, list[Row]]:
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return groups


def rounded(rows: list[Row]) -> list[Row]:
    """The rows with fractions and floats to nine digits, so that both ways to compute agree exactly."""
    return [
        {name: round(float(v), 9) if isinstance(v, Fraction | float) else v for name, v in row.items()} for row in rows
    ]
