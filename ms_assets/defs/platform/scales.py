"""Scales, the sizes of the data: partitions, settings whose defaults differ, and run config of assets."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import dagster as dg
from pydantic.fields import FieldInfo

from ms_assets.defs.platform import lineage
from ms_assets.defs.platform.schemas import columns
from ms_assets.raw.own import OWN, Import, folder_in
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

SCALES = dg.StaticPartitionsDefinition(["sample", "50m", "500m", "5b", OWN])
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
        TrainingSettings: {"song_residual": False, "temperature": 0.1, "epochs": 4},
    },
    "50m": {},
    # Costs that grow with the data are limited (docs/design.md, "Scales"): by large batches, because every step
    # propagates over the whole graph; by fewer epochs, because each has more steps; and by fewer dimensions.
    "500m": {TrainingSettings: {"embedding_dim": 64, "batch_size": 1_048_576, "epochs": 8}},
    "5b": {TrainingSettings: {"embedding_dim": 64, "batch_size": 2_097_152, "epochs": 4}},
    OWN: {SongSettings: {"require_audio": False}},
}

LIKE = {"50m": 150_000_000, "500m": 1_500_000_000}
"""Number of events below which imported data are trained like a size of Yambda; above, like `5b`."""


def own_defaults(own: Import) -> dict[type[Settings], dict[str, Any]]:
    """Defaults for imported data: those of the size of Yambda nearest to theirs, and what follows from themselves.

    Users take part who have five events, or half as many as the median user, where that is less; nobody with ten times
    as many as a hundredth of users is a person. The test part of `global_temporal` is the last day.
    """
    report = own.report
    typical, many = report["events_per_user_median"], report["events_per_user_p99"]
    return {
        **SCALE_DEFAULTS[like(own)],
        **SCALE_DEFAULTS[OWN],
        UserSettings: {"min_events": min(max(typical // 2, 1), 5), "max_events": max(10 * many, 1_000)},
        SplitSettings: {"test_start": max(report["last_second"] - 86_400, 0)},
    }


def like(own: Import) -> str:
    """Size of Yambda that is nearest to imported data."""
    return next((scale for scale, least in LIKE.items() if own.report["n_events"] < least), "5b")


FOUND_OUT = ("min_events", "max_events", "test_start")
"""Settings whose default for imported data follows from the data."""

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
    return scale_settings(model, context.partition_key, {**(found or {}), **given}, import_of(context))


def scale_settings(model: type[S], scale: str, given: Mapping[str, Any], own: Import | None = None) -> S:
    """Settings of a scale: its defaults, which follow from the import for imported data, overridden by given values."""
    defaults = own_defaults(own) if own else SCALE_DEFAULTS[scale]
    return validated(model, {**defaults.get(model, {}), **given})


def import_of(context: dg.AssetExecutionContext) -> Import | None:
    """Import that a step's scale is made from; None for other scales."""
    if context.partition_key != OWN:
        return None
    return Import.read(folder_in(lineage.of_run(context.run_id).base.parent))


def scale_of(context: dg.AssetCheckExecutionContext) -> str:
    """Scale of the run that a check belongs to.

    Raises:
        ValueError: the run has none, because the check was launched alone.
    """
    if PARTITION_TAG not in context.run.tags:
        raise ValueError(NO_SCALE)
    return context.run.tags[PARTITION_TAG]


def check_run_config(run_config: Mapping[str, Any], scale: str, own: Import | None = None) -> None:
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
                scale_settings(CONFIGURED_OPS[op], scale, _without_nulls(config), own)
        except ValueError as error:
            raise ValueError(f"run config of {op}: {error}") from None


def _without_nulls(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value is not None}


def _config_field(model: type[Settings], name: str, field: FieldInfo) -> dg.Field:
    differing = {
        scale: changed[model][name] for scale, changed in SCALE_DEFAULTS.items() if name in changed.get(model, {})
    }
    differing |= {OWN: "by the data"} if name in FOUND_OUT else {}
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
