"""Ranker: gradient-boosted trees by LambdaRank (Burges, 2010; LightGBM), which learn to weigh all features together.

One ranker for each view. Scores begin with the order of the source that is best alone, and trees add what else is
known, so that little data is enough to be no worse than that source. Users are dealt into folds; each of FOLDS models
learns from the users of the other folds and is stopped on those of its own, and what the ranker adds is the mean of
theirs. So every user is held out from one model, whose scores tell what the ranker is worth without a look at the test
part.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.machine import IN_FLIGHT, free_memory, refuse_beyond
from ms_assets.retrieval.memory import LIBRARY

if TYPE_CHECKING:
    from lightgbm import Booster, Dataset

FOLDS = 3
LEAVES = (7, 15, 31)
"""Sizes of trees that are tried, on the first fold."""
MOST_TREES, PATIENCE = 500, 25
NEGATIVES = 100
"""Number of candidates without relevance that a user gives to learn from, drawn at random."""
SMALLEST_LEAF = 100
"""Number of candidates in a leaf of a tree, at least."""
GRADES = 20
"""Number of grades above 0 into which relevance is divided."""
START = 0.1
"""Weight of −log2(rank + 1) in the best source's list, with which scores begin."""
NOT_LISTED = 200
"""Rank of songs that a source does not list, for their start."""
FEW = 4_096
"""Number of candidates below which one thread computes scores: those of one user wait longer for several."""
JUDGED_AT = (10, 100)
SEED = 0
ABOUT = "ranker.json"
FORMAT = 2
"""Version of a ranker's files."""


def estimate(n_candidates: int, n_features: int) -> dict[str, int]:
    """Estimate the bytes of learning rankers by purpose; n_candidates: those of both views together."""
    row = 4 * n_features
    return {
        "candidates": row * n_candidates,
        # As they are read; later those of a view that each fold is stopped on, and others that it learns from.
        "candidates of a view": row * n_candidates,
        # A byte of each feature, and grades, scores and gradients.
        "candidates as LightGBM holds them": (n_features + 24) * n_candidates,
        "tables in flight and library": IN_FLIGHT + LIBRARY,
    }


def refuse_without_room(n_candidates: int, n_features: int) -> None:
    """Check that candidates fit into free memory while rankers learn from them.

    Raises:
        NotEnoughMemoryError: they do not; names the parts' sizes and what to change.
    """
    refuse_beyond(
        free_memory(),
        f"learning from {n_candidates:,} candidates with {n_features} features",
        estimate(n_candidates, n_features),
        "learn on a machine with more memory",
    )


@dataclass(frozen=True)
class Material:
    """Candidates of one view to learn from, user after user, in the phase that precedes the validation part."""

    user: NDArray[np.int64]
    """User of each candidate, ascending, [n]."""
    relevance: NDArray[np.float64]
    """Relevance in the validation part, [n]."""
    ideal: NDArray[np.float64]
    """DCG of the best possible list of the candidate's user, at each of JUDGED_AT, [n, 2]."""
    features: NDArray[np.float32]
    """Features, [n, n_features]; NaN where unknown."""
    names: Sequence[str]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Position of each user's first candidate, [n_users]."""
        return np.unique(self.user, return_index=True)[1]

    def of(self, rows: NDArray[np.bool_]) -> Self:
        """Keep some rows."""
        kept = {name: getattr(self, name)[rows] for name in ("user", "relevance", "ideal", "features")}
        return replace(self, **kept)

    def without(self, *left_out: str) -> Self:
        """Leave out features."""
        kept = [n for n, name in enumerate(self.names) if name not in left_out]
        names = [self.names[n] for n in kept]
        return replace(self, features=self.features[:, kept], names=names)

    def folds(self) -> NDArray[np.int64]:
        """Fold of each candidate, that of its user, [n]."""
        users, row = np.unique(self.user, return_inverse=True)
        return (np.random.default_rng(SEED).permutation(len(users)) % FOLDS)[row]

    @property
    def meets_cold(self) -> bool:
        """True if relevant candidates that are cold, songs without a listener before, would fill a leaf of a tree."""
        listeners = self.features[self.relevance > 0, self.names.index("song_listeners")]
        return bool(np.count_nonzero(listeners == 0) >= SMALLEST_LEAF)

    def start(self, source: str) -> NDArray[np.float64]:
        """Scores with which the candidates begin, by their rank in the list of a source, [n]."""
        return started(self.features[:, self.names.index(f"{source}_rank")])

    def listed(self) -> dict[str, NDArray[np.bool_]]:
        """Flags of the candidates that a source lists, [n], by source."""
        ranks = {name.removesuffix("_rank"): n for n, name in enumerate(self.names) if name.endswith("_rank")}
        return {source: ~np.isnan(self.features[:, n]) for source, n in ranks.items()}

    def by_source(self) -> dict[str, NDArray[np.float64]]:
        """NDCG of each source's own order of the candidates at each of JUDGED_AT, [n_users, 2], by source."""
        return {source: self.ndcg(self.start(source)) for source in self.listed()}

    def ndcg(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """NDCG of each user's candidates ranked by scores, at each of JUDGED_AT, [n_users, 2]."""
        starts = self.starts
        order = np.lexsort((-scores, self.user))
        place = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
        gain = self.relevance[order] / np.log2(place + 2)
        found = [np.add.reduceat(np.where(place < k, gain, 0.0), starts) for k in JUDGED_AT]
        return ranking.ratio(np.stack(found, axis=1), self.ideal[starts])


@dataclass(frozen=True)
class Ranker:
    """Models of each view; no model where nobody validates, or where a view has no target among the candidates."""

    models: Mapping[str, Sequence["Booster"]]
    names: Sequence[str]
    """Features by name, in the order of the models' columns."""
    starts: Mapping[str, str]
    """Source whose order scores begin with, by view."""
    unmet_cold: Collection[str] = ()
    """Views in which too few relevant candidates were cold for trees to learn of such songs."""

    def scores(self, view: str, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores of candidates, the start and the mean of the view's models; features float32 [n, n_features]."""
        ranks = features[:, self.names.index(f"{self.starts[view]}_rank")]
        threads: dict[str, Any] = {"num_threads": 1} if len(features) < FEW else {}
        return started(ranks) + np.mean([model.predict(features, **threads) for model in self.models[view]], axis=0)

    def contributions(self, view: str, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """SHAP values: what each feature adds to the start of candidates, [n, n_features]."""
        found = [model.predict(features, pred_contrib=True) for model in self.models[view]]
        return np.mean(found, axis=0)[:, :-1]

    def held_out(self, view: str, material: Material) -> NDArray[np.float64]:
        """Scores of the material that the ranker learned from, each by the model that did not learn from its user."""
        fold, scores = material.folds(), material.start(self.starts[view])
        for n, model in enumerate(self.models[view]):
            if (rows := fold == n).any():
                scores[rows] += model.predict(material.features[rows])
        return scores

    def to_files(self) -> dict[str, bytes]:
        """Files by name: the models as LightGBM's text, and what they are."""
        about = {
            "format": FORMAT,
            "features": list(self.names),
            "models": {view: len(models) for view, models in self.models.items()},
            "starts": dict(self.starts),
            "unmet_cold": list(self.unmet_cold),
        }
        files = {
            f"{view}_{n}.txt": model.model_to_string().encode()
            for view, models in self.models.items()
            for n, model in enumerate(models)
        }
        return {ABOUT: json.dumps(about, indent=1).encode(), **files}

    @classmethod
    def of_files(cls, files: Mapping[str, bytes]) -> Self:
        """Read a ranker from its files.

        Raises:
            ValueError: they are of another format.
        """
        from lightgbm import Booster

        about = json.loads(files[ABOUT])
        if about["format"] != FORMAT:
            raise ValueError(
                f"reranking/ranker: found format {about['format']}, expected {FORMAT}; materialise it again"
            )
        models = {
            view: [Booster(model_str=files[f"{view}_{n}.txt"].decode()) for n in range(n_models)]
            for view, n_models in about["models"].items()
        }
        return cls(models, about["features"], about["starts"], about["unmet_cold"])


@dataclass(frozen=True)
class Learned:
    """Models of one view, and how they were found."""

    models: Sequence["Booster"]
    start: str
    """Source that is best alone, with whose order scores begin."""
    leaves: int
    """Leaves of a tree, the best of LEAVES for the users of the first fold."""
    tried: Mapping[int, float]
    """NDCG@10 of these users by leaves, of the candidates alone."""

    @property
    def n_trees(self) -> list[int]:
        """Number of trees of each model."""
        return [model.num_trees() for model in self.models]


def learn(material: Material) -> Learned | None:
    """Learn the models of one view; None if no fold is without a relevant candidate to learn from, or to stop on."""
    if not len(material.user):
        return None
    fold = material.folds()
    relevant = np.bincount(fold[material.relevance > 0], minlength=FOLDS)
    if not relevant.all():
        return None
    rows = _drawn(material) & _has_target(material)
    alone = {source: float(np.nanmean(ndcg[:, 0])) for source, ndcg in material.by_source().items()}
    start = max(alone, key=lambda source: alone[source])
    parts = [(material.of(rows & (fold != n)), material.of((fold == n) & _has_target(material))) for n in range(FOLDS)]
    sets = _sets(*parts[0], start)
    first = {leaves: _model(*sets, leaves) for leaves in LEAVES}
    tried = {leaves: ndcg for leaves, (_, ndcg) in first.items()}
    leaves = max(LEAVES, key=lambda size: tried[size])
    others = [_model(*_sets(*part, start), leaves)[0] for part in parts[1:]]
    return Learned([first[leaves][0], *others], start, leaves, tried)


def started(ranks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores that put candidates in the order of a source, those that it does not list (NaN) last."""
    return -START * np.log2(np.where(np.isnan(ranks), NOT_LISTED, ranks.astype(np.float64)) + 1)


def _drawn(material: Material) -> NDArray[np.bool_]:
    """Flags of relevant candidates, and of about NEGATIVES others of each user, drawn at random."""
    n_others = np.add.reduceat(material.relevance <= 0, material.starts).astype(np.float64)
    share = NEGATIVES / np.maximum(n_others, NEGATIVES)
    counts = np.diff(material.starts, append=len(material.user))
    chance = np.random.default_rng(SEED).random(len(material.user))
    return (material.relevance > 0) | (chance < np.repeat(share, counts))


def _has_target(material: Material) -> NDArray[np.bool_]:
    """Flags of the candidates of users with a relevant candidate: others teach nothing of an order."""
    counts = np.diff(material.starts, append=len(material.user))
    return np.repeat(np.add.reduceat(material.relevance > 0, material.starts) > 0, counts)


def _parameters(leaves: int) -> dict[str, Any]:
    return {
        "objective": "lambdarank",
        "metric": "ndcg",
        "eval_at": JUDGED_AT[0],
        "label_gain": [grade / GRADES for grade in range(GRADES + 1)],
        "learning_rate": 0.05,
        "num_leaves": leaves,
        "min_data_in_leaf": SMALLEST_LEAF,
        "feature_fraction": 0.5,
        "max_bin": 63,
        "feature_pre_filter": False,
        "deterministic": True,
        "force_row_wise": True,
        "seed": SEED,
        "verbose": -1,
    }


def _sets(learned_from: Material, stopped_on: Material, start: str) -> tuple["Dataset", "Dataset"]:
    from lightgbm import Dataset

    sets: list[Dataset] = []
    for part in (learned_from, stopped_on):
        # A relevance above 0, however small, is worth more than none.
        grade = np.ceil(GRADES * part.relevance.clip(0, 1))
        sizes = np.diff(part.starts, append=len(part.user))
        about: dict[str, Any] = {"group": sizes, "init_score": part.start(start), "feature_name": list(part.names)}
        about |= {"params": _parameters(LEAVES[0]), "free_raw_data": False, "reference": sets[0] if sets else None}
        sets.append(Dataset(part.features, grade, **about))
    return sets[0], sets[1]


def _model(learned_from: "Dataset", stopped_on: "Dataset", leaves: int) -> tuple["Booster", float]:
    """Model at its best number of trees, and its NDCG@10 of the candidates that it was stopped on."""
    import lightgbm

    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    model = lightgbm.train(
        _parameters(leaves),
        learned_from,
        MOST_TREES,
        valid_sets=[stopped_on],
        valid_names=["held out"],
        callbacks=[stop],
    )
    best = lightgbm.Booster(model_str=model.model_to_string(num_iteration=model.best_iteration))
    return best, model.best_score["held out"][f"ndcg@{JUDGED_AT[0]}"]
