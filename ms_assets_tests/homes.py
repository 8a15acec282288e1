"""Artefacts of a home without what names the run that made them, and Dagster's word on them."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import torch
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from ms_assets.definitions import defs
from ms_assets.defs.platform.lineage import RECORD
from ms_assets_tests.contract import CHECKPOINT, REPORT


def artefacts(home: Path) -> dict[str, bytes]:
    """The content of every file under the home's data by its path there, without records, which name runs and times."""
    data = home / "data"
    files = [path for path in sorted(data.rglob("*")) if path.is_file() and not path.name.endswith(RECORD)]
    return {str(path.relative_to(data)): path.read_bytes() for path in files}


def checkpoint(content: bytes) -> tuple[dict, bytes]:
    """A checkpoint in two parts: what names its run and measures its time, and everything else as bytes."""
    values = torch.load(io.BytesIO(content), weights_only=True)
    own = {"mlflow_run_id": values.pop("mlflow_run_id")}
    own["seconds"] = [epoch.pop("seconds") for epoch in (values["best"], *values["history"])]
    rest = io.BytesIO()
    torch.save(values, rest)
    return own, rest.getvalue()


def index(content: bytes) -> tuple[bytes, dict[str, str]]:
    """An index in two parts: what Faiss reads, and the origin that follows, without the run that it names."""
    end = len(content) - 8
    start = end - int.from_bytes(content[end:], "little")
    origin = json.loads(content[start:end])
    assert origin.pop("training_run")
    return content[:start], origin


def before_provenance(page: bytes) -> bytes:
    """A report without its last section, which names the runs that made it."""
    text, provenance = page.split(b"Provenance", 1)
    assert b"run " in provenance
    return text


MODEL = {
    f"{CHECKPOINT}/sample.pt": lambda content: checkpoint(content)[1],
    "retrieval/song_index/sample.faiss": index,
}
PAGES = {f"{REPORT}/sample/report.{kind}": before_provenance for kind in ("md", "html")}
"""What is compared of artefacts that name their run or measure its time."""


def comparable(home: Path, named: Mapping[str, Callable[[bytes], Any]] = MODEL | PAGES) -> dict[str, Any]:
    """Artefacts of the sample by their path, without what names the run that made them, or its times.

    named: of MODEL and PAGES, those that the home has to have.
    """
    found = artefacts(home)
    return found | {name: part(found[name]) for name, part in named.items()}


GRAPH = defs.resolve_asset_graph()
FRESH, STALE, MISSING = StaleStatus.FRESH, StaleStatus.STALE, StaleStatus.MISSING


def statuses(instance, *keys, scale="50m"):
    resolver = CachingStaleStatusResolver(instance, GRAPH, LoadingContextForTest(instance))
    return [resolver.get_status(dg.AssetKey.from_user_string(key), scale) for key in keys]


@dataclass(frozen=True)
class Told:
    """A materialisation as Dagster's event log tells it."""

    data_version: str
    run_id: str
    metadata: dict


def latest(instance, key, scale="50m"):
    """The latest materialisation in Dagster's event log."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey.from_user_string(key), asset_partitions=[scale])
    [record] = instance.fetch_materializations(wanted, limit=1).records
    event = record.asset_materialization
    metadata = {name: entry.value for name, entry in event.metadata.items()}
    return Told(event.tags["dagster/data_version"], record.run_id, metadata)


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()
