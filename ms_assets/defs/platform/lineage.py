"""Lineage of artefacts, from the event log: versions of their inputs, and the trainings behind them.

A data version is the SHA-256 of an artefact's content, so that an artefact made again with equal content makes nothing
after it stale; for a source file that is only linked, it is the source's `SourceFile.content` (`raw/source.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

INPUTS, ORIGINS, MLFLOW_RUN = "inputs", "origins", "mlflow_run"
"""Metadata of a materialisation: its inputs; the versions of these and of all artefacts before them; and the page of
the training behind it, if there is one."""
DATA_VERSION_TAG = "dagster/data_version"


@dataclass(frozen=True)
class Made:
    """Materialisation of an asset for a scale."""

    data_version: str
    run_id: str
    at: datetime
    metadata: Mapping[str, Any]
    """Metadata as plain values, by name."""


def history(
    instance: dg.DagsterInstance, key: dg.AssetKey, scale: str, limit: int = 1, before: float | None = None
) -> list[Made]:
    """Materialisations of an asset for a scale, the latest first; before: POSIX seconds."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[scale], before_timestamp=before)
    made = []
    for record in instance.fetch_materializations(wanted, limit=limit).records:
        event = record.asset_materialization
        assert event is not None
        values = {name: entry.value for name, entry in event.metadata.items()}
        version = (event.tags or {}).get(DATA_VERSION_TAG, "unknown")
        made.append(Made(version, record.run_id, datetime.fromtimestamp(record.timestamp, UTC), values))
    return made


def inputs_of(context: dg.OutputContext | dg.AssetExecutionContext) -> dict[str, Made]:
    """Materialisations of an asset's inputs when its step began, by key, because another run may replace them later."""
    if isinstance(context, dg.OutputContext):
        step, deps = context.step_context, context.asset_spec.deps
    else:
        step, deps = context.get_step_execution_context(), context.assets_def.get_asset_spec(context.asset_key).deps
    [statistics] = step.instance.get_run_step_stats(step.run_id, [step.step.key])
    keys = sorted(dep.asset_key for dep in deps)
    made = {
        key.to_user_string(): history(step.instance, key, context.partition_key, before=statistics.start_time)
        for key in keys
    }
    return {key: found[0] for key, found in made.items() if found}


def described(inputs: Mapping[str, Made], given: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of an artefact's inputs and the trainings behind them; given: metadata that its asset has set."""
    origins: dict[str, set[str]] = {}
    for key, made in inputs.items():
        for origin, versions in {**made.metadata.get(ORIGINS, {}), key: [made.data_version]}.items():
            origins.setdefault(origin, set()).update(versions)
    runs = {run for made in inputs.values() for run in str(made.metadata.get(MLFLOW_RUN, "")).split()}
    named = dg.MetadataValue.url if len(runs) == 1 else dg.MetadataValue.text
    return {
        INPUTS: dg.MetadataValue.json(
            {
                key: {"data_version": made.data_version, "run_id": made.run_id, "at": made.at.isoformat()}
                for key, made in inputs.items()
            }
        ),
        ORIGINS: dg.MetadataValue.json({key: sorted(versions) for key, versions in sorted(origins.items())}),
        **({MLFLOW_RUN: named(" ".join(sorted(runs)))} if runs and MLFLOW_RUN not in given else {}),
    }
