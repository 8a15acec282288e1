"""Hyper-parameter study: Optuna proposes settings, and trainings measure their validation NDCG."""

import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import optuna
import polars as pl
import sqlalchemy
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from ms_assets import pictures
from ms_assets.machine import NotEnoughMemoryError
from ms_assets.settings import LARGEST_SEED, StudySettings, TrainingSettings
from ms_assets.training.experiments import Fit
from ms_assets.training.trained import Epoch
from ms_assets.training.trainer import DivergedError
from ms_assets.training.validation import VALIDATION_K

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

SEARCH_SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(3e-4, 1e-1, log=True),
    "layers": IntDistribution(1, 5),
    "neutral_negatives": CategoricalDistribution((16, 32, 64, 128, 256)),
    "neutral_weight": FloatDistribution(0.05, 2.0, log=True),
    "hard_weight": FloatDistribution(0.0, 2.0),
    "temperature": FloatDistribution(0.03, 1.0, log=True),
    "margin": FloatDistribution(0.0, 0.5),
    "weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
}
"""Searched settings of `TrainingSettings`, with their ranges."""
RANDOM_TRIALS = 8
"""Random trials before Optuna models good settings (tree-structured Parzen estimator), and before any is pruned."""
FIRST_PRUNED_EPOCH = 2
HEARTBEAT_SECONDS = 30
LOCK_SECONDS = 120
"""Seconds to wait for another process that writes to the study's file."""

COLUMNS = {
    "number": pl.Int64,
    "state": pl.String,
    "validation_ndcg": pl.Float64,
    "is_best": pl.Boolean,
    "n_epochs": pl.Int64,
    "seconds": pl.Float64,
    "parameters": pl.String,
    "mlflow_run_id": pl.String,
    "remark": pl.String,
}


def name_of(scale: str, identity: dict[str, str]) -> str:
    """Name of a study, which differs by data, fixed settings and search space, so that their trials are kept apart."""
    fixed = {name: value for name, value in identity.items() if name not in SEARCH_SPACE}
    described = json.dumps([fixed, {name: repr(space) for name, space in SEARCH_SPACE.items()}], sort_keys=True)
    return f"{scale} {hashlib.sha256(described.encode()).hexdigest()[:12]}"


def open_study(url: str, name: str, base: TrainingSettings) -> optuna.Study:
    """Open the study of this name in a database; a new one begins with the base's own settings as first trial.

    Trials that a killed process left behind are queued again once their heartbeat has been silent for a minute.
    """
    storage = _storage(url)
    pruner = optuna.pruners.MedianPruner(RANDOM_TRIALS, FIRST_PRUNED_EPOCH)
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
    )
    defaults = {name: getattr(base, name) for name in SEARCH_SPACE} | {"temperature": base.sharpness}
    study.enqueue_trial(defaults, skip_if_exists=True)
    return study


def _storage(url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage in a database, in which only one process at a time can claim a queued trial."""
    is_file = url.startswith("sqlite:")
    with _experimental():
        storage = optuna.storages.RDBStorage(
            url,
            engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}} if is_file else {"pool_pre_ping": True},
            heartbeat_interval=HEARTBEAT_SECONDS,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
        )
    # Optuna claims a trial by reading its state and then writing it. SQLite locks no row between the two as other
    # databases do, so each transaction takes the file's lock for writing when it begins.
    if is_file:
        sqlalchemy.event.listen(
            storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
    return storage


def search(study: optuna.Study, settings: StudySettings, base: TrainingSettings, fit: Fit) -> None:
    """Run trials until the study has as many as wanted, including those of earlier runs and of other processes."""

    def objective(trial: optuna.Trial) -> float:
        # Draws depend on the trial's number, so that processes side by side never draw the same settings.
        with _experimental():
            trial.study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=RANDOM_TRIALS,
                seed=(settings.seed + trial.number) % (LARGEST_SEED + 1),
                constant_liar=True,
            )
        return _run_trial(trial, base, fit)

    while n_finished(study) < settings.trials:
        study.optimize(objective, n_trials=1)


def n_finished(study: optuna.Study) -> int:
    """Number of trials that ended, by completion or by pruning."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _run_trial(trial: optuna.Trial, base: TrainingSettings, fit: Fit) -> float:
    """Run one trial; returns the validation NDCG of its best epoch.

    Raises:
        optuna.TrialPruned: an epoch was worse than the median of the other trials; or the settings need more memory
            than there is, or diverge, however good the epochs before were: whoever took them would diverge again.
    """
    settings = TrainingSettings(**{**base.model_dump(), **_suggested(trial)})

    def is_hopeless(epoch: Epoch) -> bool:
        trial.report(epoch.validation_ndcg, epoch.number)
        return trial.should_prune()

    try:
        trained = fit(f"trial {trial.number}", settings, is_hopeless)
    except (NotEnoughMemoryError, torch.OutOfMemoryError, DivergedError) as error:
        trial.set_user_attr("remark", str(error))
        raise optuna.TrialPruned from error
    trial.set_user_attr("mlflow_run_id", trained.mlflow_run_id)
    trial.set_user_attr("remark", trained.diverged)
    if trained.diverged or trial.should_prune():
        raise optuna.TrialPruned
    return trained.best.validation_ndcg


def _suggested(trial: optuna.Trial) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, space in SEARCH_SPACE.items():
        if isinstance(space, FloatDistribution):
            values[name] = trial.suggest_float(name, space.low, space.high, log=space.log)
        elif isinstance(space, IntDistribution):
            values[name] = trial.suggest_int(name, space.low, space.high)
        elif isinstance(space, CategoricalDistribution):
            values[name] = trial.suggest_categorical(name, space.choices)
    return values


def trials(study: optuna.Study) -> pl.DataFrame:
    """One row per trial: state, best validation NDCG, parameters as JSON, and the other columns of COLUMNS."""
    finished = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    best = _best(study)
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "validation_ndcg": max(trial.intermediate_values.values(), default=None),
            "is_best": trial.number == best,
            "n_epochs": len(trial.intermediate_values),
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "parameters": json.dumps(trial.params, sort_keys=True),
            "mlflow_run_id": trial.user_attrs.get("mlflow_run_id"),
            "remark": trial.user_attrs.get("remark") or None,
        }
        for trial in finished
    ]
    return pl.DataFrame(rows, schema=COLUMNS)


def _best(study: optuna.Study) -> int | None:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial.number if complete else None


def importances(study: optuna.Study) -> dict[str, float]:
    """Importance of each parameter, its share in the trials' variance, largest first (fANOVA over a random forest).

    Empty while fewer than two trials with different results are complete.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < 2:
        return {}
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))


def history_picture(table: pl.DataFrame) -> "Figure":
    """Picture of every trial's validation NDCG in sequence, and the best so far."""
    figure = pictures.figure(9, 3.5)
    pane = figure.subplots()
    shown = table.drop_nulls("validation_ndcg")
    for state, marker in (("complete", "o"), ("pruned", "x"), ("fail", "v")):
        some = shown.filter(pl.col("state") == state)
        pane.scatter(some["number"], some["validation_ndcg"], marker=marker, label=f"{state}: {len(some)}")
    complete = shown.filter(pl.col("state") == "complete")
    pane.step(complete["number"], complete["validation_ndcg"].cum_max(), where="post", label="best so far")
    pane.set(xlabel="trial", ylabel=f"validation NDCG@{VALIDATION_K}")
    pane.grid(alpha=0.3)
    pane.legend()
    return figure


def importance_picture(shares: dict[str, float]) -> "Figure":
    """Picture of every parameter's importance, the largest on top."""
    figure = pictures.figure(9, 0.8 + 0.35 * max(len(shares), 1))
    pane = figure.subplots()
    pane.barh(list(shares)[::-1], list(shares.values())[::-1], color=pictures.PALETTE[0])
    pane.set(xlabel="importance" if shares else "importance (two complete trials with different results are needed)")
    pane.grid(alpha=0.3, axis="x")
    return figure


@contextmanager
def _experimental() -> "Iterator[None]":
    """Silence Optuna's warnings that heartbeats and the constant liar are experimental, which nobody can act on."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
