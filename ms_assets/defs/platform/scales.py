"""Scales, the four sizes of the data: partitions, settings whose defaults differ, and run config of assets."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import dagster as dg
from pydantic.fields import FieldInfo

from ms_assets.defs.platform.schemas import columns
from ms_assets.settings import (
    AblationSettings,
    EvaluationSettings,
    IndexSettings,
    S,
    Settings,
    SongSettings,
    SplitSettings,
    StudySettings,
    TrainingSettings,
    UserSettings,
    validated,
)

SCALES = dg.StaticPartitionsDefinition(["sample", "50m", "500m", "5b"])
PARTITION_TAG = "dagster/partition"
"""Tag of a run that names its scale."""
NO_SCALE = (
    f"this run has no scale; a check runs with its asset, so materialise the asset for a scale: --partition "
    f"{' or '.join(SCALES.get_partition_keys())}, or a partition in the UI"
)
OWNERS = ["team:recommendations"]
OPTIONAL = "optional"
"""Metadata of an input: None is given instead of an error when its partition has not been materialised."""
FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=15), warn_window=timedelta(days=8))
"""Freshness of assets that are retrained weekly: a warning a day after one missed run, a failure a day after two."""

SCALE_DEFAULTS: dict[str, dict[type[Settings], dict[str, Any]]] = {
    # The sample has about 300 events a user where Yambda has about 4,800.
    "sample": {
        UserSettings: {"min_events": 40, "max_events": 2_000},
        # Few events for many songs: little is known of a song but its artist and its audio, and a residual vector
        # would only memorise who heard it (docs/design.md, "Decisions").
        TrainingSettings: {
            "embedding_dim": 128,
            "song_residual": False,
            "temperature": 0.05,
            "learning_rate": 0.003,
            "epochs": 4,
        },
    },
    "50m": {},
    # Costs that grow with the data are limited (docs/design.md, "Scales"): by large batches, because every step
    # propagates over the whole graph; by fewer epochs, because each has more steps; and by bf16, which halves the bytes
    # that a sparse product reads on a GPU.
    "500m": {TrainingSettings: {"batch_size": 1_048_576, "precision": "bf16", "epochs": 8}},
    "5b": {TrainingSettings: {"batch_size": 2_097_152, "precision": "bf16", "epochs": 4}},
}

CONFIGURED_OPS: dict[str, type[Settings]] = {
    "training__lightgcn": TrainingSettings,
    "training__hyperparameter_study": StudySettings,
    "training__ablation": AblationSettings,
    "retrieval__song_index": IndexSettings,
    "evaluation__user_metrics": EvaluationSettings,
    "splits__users": UserSettings,
    "splits__songs": SongSettings,
    "split_events": SplitSettings,
}
"""Settings of each op that takes run config."""


def room(name: str) -> Callable[..., Callable[[Callable[..., Any]], dg.AssetsDefinition]]:
    """Asset decorator for one room: `dg.asset` with its key prefix and group, and the scales as partitions."""
    return partial(dg.asset, key_prefix=name, group_name=name, partitions_def=SCALES, owners=OWNERS)


def assets_of(room: str, *names: str, optional: bool = False) -> dict[str, dg.AssetIn]:
    """Inputs that are called as the assets of a room are; of an optional one, None is given where it is missing."""
    return {name: dg.AssetIn([room, name], metadata={OPTIONAL: True} if optional else None) for name in names}


def outputs(room: str, described: Mapping[str, str], words: Mapping[str, str], **told: Any) -> dict[str, dg.AssetOut]:
    """Tables of a room that one step makes, by name: their descriptions, and the words of those of their columns.

    told: of each of them, as `dg.AssetOut` takes it.
    """
    return {
        name: dg.AssetOut(
            key=[room, name], description=text, metadata=columns(f"{room}/{name}", **words), owners=OWNERS, **told
        )
        for name, text in described.items()
    }


def config_schema(model: type[Settings]) -> dict[str, dg.Field]:
    """Config schema of settings in which every field is optional; the scale's default replaces a missing one."""
    return {name: _config_field(model, name, field) for name, field in model.model_fields.items()}


def settings_of(context: dg.AssetExecutionContext, model: type[S], found: Mapping[str, Any] | None = None) -> S:
    """Settings of a step: the scale's defaults, overridden by `found`, overridden by the run config."""
    given = _without_nulls(context.op_execution_context.op_config or {})
    return scale_settings(model, context.partition_key, {**(found or {}), **given})


def scale_settings(model: type[S], scale: str, given: Mapping[str, Any]) -> S:
    """Settings of a scale: its defaults, overridden by the given values."""
    return validated(model, {**SCALE_DEFAULTS[scale].get(model, {}), **given})


def scale_of(context: dg.AssetCheckExecutionContext) -> str:
    """Scale of the run that a check belongs to.

    Raises:
        ValueError: the run has none, because the check was launched alone.
    """
    if PARTITION_TAG not in context.run.tags:
        raise ValueError(NO_SCALE)
    return context.run.tags[PARTITION_TAG]


def check_run_config(run_config: Mapping[str, Any], scale: str) -> None:
    """Check the settings of every op that a run configures.

    Raises:
        ValueError: names the op, the setting, what was found and what was expected.
    """
    for op, given in run_config.get("ops", {}).items():
        config = given.get("config")
        if config and op not in CONFIGURED_OPS:
            raise ValueError(f"run config of {op}: expected settings of {', '.join(CONFIGURED_OPS)}")
        try:
            if config:
                scale_settings(CONFIGURED_OPS[op], scale, _without_nulls(config))
        except ValueError as error:
            raise ValueError(f"run config of {op}: {error}") from None


def _without_nulls(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value is not None}


def _config_field(model: type[Settings], name: str, field: FieldInfo) -> dg.Field:
    differing = {
        scale: changed[model][name] for scale, changed in SCALE_DEFAULTS.items() if name in changed.get(model, {})
    }
    default = "; ".join([f"default {field.default}", *(f"{s}: {v}" for s, v in differing.items())])
    return dg.Field(
        dg.Noneable(_config_type(model, name, field.annotation)),
        is_required=False,
        description=f"{field.description} ({default})",
    )


def _config_type(model: type[Settings], name: str, annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        choices = [dg.EnumValue(choice) for choice in get_args(annotation)]
        return dg.Enum(f"{model.__name__}_{name}", choices)
    if get_origin(annotation) is UnionType:  # X | None
        return _config_type(model, name, get_args(annotation)[0])
    if get_origin(annotation) is list:
        return dg.Array(get_args(annotation)[0])
    return annotation
