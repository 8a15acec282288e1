"""Ranking metrics the slow way: one user at a time, straight from what the metrics promise. None: undefined."""

from math import log2


def ndcg(recommended: list[int], relevance: dict[int, float]) -> float | None:
    """The list's DCG over that of the best list of the same length; −1 is a rank left empty."""
    gains = [relevance.get(song, 0.0) if song >= 0 else 0.0 for song in recommended]
    best = sorted((worth for worth in relevance.values() if worth > 0), reverse=True)[: len(recommended)]
    return _dcg(gains) / _dcg(best) if best else None


def _dcg(gains: list[float]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def recall(recommended: list[int], targets: set[int]) -> float | None:
    return len(targets & set(recommended)) / len(targets) if targets else None


def precision(recommended: list[int], targets: set[int]) -> float | None:
    return len(targets & set(recommended)) / len(recommended) if targets else None


def reciprocal_rank(recommended: list[int], targets: set[int]) -> float | None:
    ranks = [rank for rank, song in enumerate(recommended, start=1) if song in targets]
    return (1 / ranks[0] if ranks else 0.0) if targets else None


def hit(recommended: list[int], targets: set[int]) -> float | None:
    return float(any(song in targets for song in recommended)) if targets else None


def auc(recommended: list[int], targets: set[int], candidates: set[int]) -> float | None:
    """Every pair of a target and another candidate: 1 when the target stands above, ½ when neither is listed."""
    last = len(recommended)
    place = {song: recommended.index(song) if song in recommended else last for song in candidates}
    pairs = [(place[target], place[other]) for target in targets for other in candidates - targets]
    won = sum(1.0 if target < other else 0.5 * (target == other) for target, other in pairs)
    return won / len(pairs) if pairs else None


def novelty(recommended: list[int], heard: set[int]) -> float | None:
    shown = [song for song in recommended if song >= 0]
    return sum(song not in heard for song in shown) / len(shown) if shown else None


def popularity_lift(recommended: list[int], heard: set[int], n_plays: list[int]) -> float | None:
    shown = [n_plays[song] for song in recommended if song >= 0]
    usual = sum(n_plays[song] for song in heard) / len(heard) if heard else 0
    return sum(shown) / len(shown) / usual - 1 if shown and usual else None


def artist_diversity(recommended: list[int], artists: list[list[int]]) -> float | None:
    known, above, fresh = 0, set(), 0
    for song in recommended:
        if song >= 0 and artists[song]:
            known += 1
            fresh += not above & set(artists[song])
            above |= set(artists[song])
    return fresh / known if known else None


def share(recommended: list[int], songs: set[int]) -> float | None:
    shown = [song for song in recommended if song >= 0]
    return sum(song in songs for song in shown) / len(shown) if shown else None


def gini(amounts: list[int]) -> float:
    """The mean difference between any two amounts, over twice the mean amount."""
    n = len(amounts)
    return sum(abs(a - b) for a in amounts for b in amounts) / (2 * n * sum(amounts))


def official(lists: list[list[int]], targets: list[list[int]], trained: list[bool], k: int) -> dict[str, float]:
    """NDCG and recall as Yambda's authors have them; targets: of each user an entry for every event."""
    users = [u for u in range(len(lists)) if targets[u] and trained[u]]
    gains = [[float(song in targets[u]) for song in lists[u][:k]] for u in users]
    ideals = [[1.0] * min(len(targets[u]), k) for u in users]
    recalls = [sum(gain) / len(targets[u]) for gain, u in zip(gains, users, strict=True)]
    return {"ndcg": sum(map(_dcg, gains)) / sum(map(_dcg, ideals)), "recall": sum(recalls) / len(users)}
