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
