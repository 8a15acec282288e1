"""I/O managers that write a value into a partition's file, atomically, and read it back.

No other module knows the paths of artefacts: `<base>/<room>/<asset>/<scale>.<extension>`. A file is written beside
its target, flushed to disk and renamed, so that a reader sees either the earlier version or the new one, whole.
"""

import json
import os
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from uuid import uuid4

import dagster as dg
import polars as pl
import pyarrow.parquet as pq

from ms_assets.defs.platform import runs
from ms_assets.defs.platform.lineage import INPUTS, MLFLOW_RUN, ORIGINS, RECORD, SECONDS, Lineage, Made, opened
from ms_assets.defs.platform.locks import FileLocks, Locks
from ms_assets.defs.platform.objects import Bucket
from ms_assets.defs.platform.resources import DuckDB, YambdaSource
from ms_assets.defs.platform.scales import NO_SCALE, OPTIONAL, PARTITION_TAG
from ms_assets.defs.platform.schemas import LINEAGE, SCHEMA, declared, described, difference
from ms_assets.defs.platform.sessions import SessionLocks
from ms_assets.defs.platform.shared import SharedLineage
from ms_assets.files import DamagedFileError, always, published, reading, remove, sha256, writing
from ms_assets.machine import peak_memory
from ms_assets.raw.schema import TABLES
from ms_assets.raw.source import SourceFile
from ms_assets.streams import ROW_GROUP, Relation, TableStream, TableWriter, stored_table

if TYPE_CHECKING:
    import faiss
    from torch_geometric.data import HeteroData

    from ms_assets.training.trained import TrainedModel


class MissingPartitionError(FileNotFoundError):
    """An input of an asset was not materialised for this scale."""


class ArtefactIOManager(dg.ConfigurableIOManager):
    """Base class of I/O managers with one file per asset and scale; subclasses write and read it."""

    extension: ClassVar[str]
    base_dir: str
    locks_database: str = ""
    """PostgreSQL that has the locks of runs; files of the home have them by default."""
    bucket: str = ""
    """Address of the bucket in which a shared home lies; this machine's folder is then a cache of it."""

    @property
    def home(self) -> Path:
        """Folder of the artefacts, of the locks that protect them, and of everything else that is generated."""
        return Path(self.base_dir).parent

    @property
    def locks(self) -> Locks:
        """Locks that protect the artefacts."""
        return SessionLocks(self.locks_database) if self.locks_database else FileLocks(self.home)

    @property
    def lineage(self) -> Lineage:
        """Records of all artefacts."""
        base = Path(self.base_dir)
        return SharedLineage(base, Bucket(self.bucket)) if self.bucket else Lineage(base)

    def refresh(self, scale: str) -> None:
        """Take over what other machines have published, unless a run here is reading what it began with."""
        if not self.bucket:
            return
        # In files, whatever locks runs have: one on a cluster has its turn everywhere, and writes its records once.
        with runs.unless_taken(FileLocks(self.home), scale) as is_free:
            if is_free:
                self.lineage.refresh(scale)

    def fetch(self, key: dg.AssetKey, scale: str) -> None:
        """Bring a stored artefact to this machine."""
        self.lineage.fetch(key, scale)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Hold the scale's lock for the run; every process comes here before it reads or writes an artefact."""
        run = context.run
        scale = run.tags.get(PARTITION_TAG) if run else None
        if run is None or scale is None:
            yield self
            return
        with runs.writing_turn(self.locks, scale, run.run_id) as begins, opened(self.lineage, run.run_id) as is_open:
            if begins:  # the executor has prepared its runs
                self.lineage.begin(scale)
            elif self.locks_database and not is_open:
                self.lineage.join(scale, run.run_id)
            yield self

    @abstractmethod
    def write(self, context: dg.OutputContext, value: Any, path: Path) -> dict[str, Any]:
        """Write the value to a path that nobody reads yet; returns metadata that only the writer knows."""

    @abstractmethod
    def read(self, path: Path) -> Any:
        """Read a value that `write` wrote."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Publish the value atomically and attach its metadata."""
        started, key, scale = time.monotonic(), context.asset_key, context.partition_key
        path = self._path(key, scale)
        with published(path) as unfinished:
            known = self.write(context, obj, unfinished) | _seconds(context.step_context)
            made = Made.of(
                unfinished,
                self.inputs_of(context.asset_spec, scale),
                scale,
                {**context.output_metadata, **known},
                name=path.name,
                version=self.version(obj, unfinished),
                run_id=context.run_id,
            )
            self.lineage.publish(key, scale, made, unfinished)
        # By its content, so that an equal artefact made again makes nothing after it stale.
        context.step_context.set_data_version(key, dg.DataVersion(made.version))
        behind = str(made.metadata.get(MLFLOW_RUN, ""))
        named = dg.MetadataValue.text if " " in behind else dg.MetadataValue.url
        context.add_output_metadata(
            {
                INPUTS: dg.MetadataValue.json(dict(made.inputs)),
                ORIGINS: dg.MetadataValue.json(dict(made.origins)),
                **({MLFLOW_RUN: named(behind)} if behind and MLFLOW_RUN not in context.output_metadata else {}),
                **known,
                "path": dg.MetadataValue.path(str(path)),
                "dagster/uri": self.lineage.address(key, scale, path),
                "size_bytes": made.size,
                "write_seconds": round(time.monotonic() - started, 3),
                "peak_memory_mib": peak_memory() >> 20,
            }
        )

    def version(self, value: Any, path: Path) -> str:
        """Version of a written artefact: the SHA-256 of its content."""
        return sha256(path)

    def inputs_of(self, spec: dg.AssetSpec, scale: str) -> dict[str, Made]:
        """Stored materialisations of an asset's inputs, by key; refused if they do not belong together."""
        return self.lineage.inputs((dep.asset_key for dep in spec.deps), scale)

    def stored(self, key: dg.AssetKey, scale: str) -> Any:
        """Stored artefact of an asset that is not an input of the step; None if there is none."""
        self.fetch(key, scale)
        return self.read(self._path(key, scale)) if self.lineage.history(key, scale) else None

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the artefact of the run's scale; if it is missing, the error names the asset to materialise.

        Raises:
            InconsistentInputsError: the step's inputs do not belong together, or one failed a blocking check.
        """
        key = context.asset_key.to_user_string()
        if not context.has_partition_key:
            raise ValueError(f"{key}: {NO_SCALE}")
        scale = context.partition_key
        try:
            step = context.step_context.assets_def
        except dg.DagsterInvariantViolationError:  # read by `load_asset_value`, in no step
            self.refresh(scale)
        else:
            if step:
                checked = {check.asset_key for check in step.check_keys}
                self.lineage.inputs(step.keys_by_input_name.values(), scale, checked)
        self.fetch(context.asset_key, scale)
        path = self._path(context.asset_key, scale)
        if not path.exists():
            if (context.definition_metadata or {}).get(OPTIONAL, False):
                return None
            gone = f" (its source {path.readlink()} is gone)" if path.is_symlink() else ""
            raise MissingPartitionError(f"materialise {key} for {scale} first: {path} is missing{gone}")
        if not self.lineage.history(context.asset_key, scale):
            raise DamagedFileError(
                f"{path}: found no record of its origin beside it (version 0.1 wrote none); expected {scale}{RECORD}: "
                f"copy it from where the file comes from, or materialise {key} again"
            )
        with reading(path, f"materialise {key} for {scale} again"):
            return self.read(path)

    def _path(self, key: dg.AssetKey, scale: str) -> Path:
        return Path(self.base_dir, *key.path, f"{scale}{self.extension}")


def _seconds(step: dg.StepExecutionContext) -> dict[str, float]:
    """Metadata with the seconds since a step began; none where the history has not kept its beginning."""
    [*stats] = step.instance.get_run_step_stats(step.run_id, [step.step.key])
    if not stats or stats[0].start_time is None:
        return {}
    return {SECONDS: round(max(time.time() - stats[0].start_time, 0), 3)}


class TableIOManager(ArtefactIOManager):
    """I/O manager of tables in Parquet: writes relations, Arrow tables, frames, streams and drafts; reads relations."""

    extension: ClassVar[str] = ".parquet"
    duckdb: dg.ResourceDependency[DuckDB]

    def write(self, context: dg.OutputContext, value: Any, path: Path) -> dict[str, Any]:
        """Write the table; a table whose columns are not the declared ones is an error."""
        if isinstance(value, TableWriter):
            value.finish().rename(path)
        elif isinstance(value, TableStream):
            with TableWriter(path) as writer:
                writer.fill(value.tables)
        elif isinstance(value, Relation):
            value.write_parquet(str(path), compression="zstd")
        else:
            # Arrow's writer keeps fixed-size lists, which Parquet itself does not know.
            table = value.to_arrow() if isinstance(value, pl.DataFrame) else value
            pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)
        wanted = declared(context.definition_metadata)
        schema = described(self.read(path), wanted)
        if wrong := difference(schema.columns, wanted):
            raise TypeError(f"{context.asset_key.to_user_string()}: {wrong}")
        return self._known(context, path, schema)

    def _known(self, context: dg.OutputContext, path: Path, schema: dg.TableSchema) -> dict[str, Any]:
        lineage = (context.definition_metadata or {}).get(LINEAGE)
        return {
            "dagster/row_count": pq.read_metadata(path).num_rows,
            SCHEMA: schema,
            **({LINEAGE: lineage} if lineage else {}),
        }

    def read(self, path: Path) -> Relation:
        """Read the table as a relation, lazily."""
        return stored_table(self.duckdb.connection, path)

    @contextmanager
    def drafts(self, keys: dict[str, dg.AssetKey], scale: str) -> Iterator[dict[str, TableWriter]]:
        """Writers, by name, for tables that one pass over the data fills together.

        A writer that is returned as an output's value inside this context is published; the others are removed.
        """
        with writing(Path(self.base_dir)), ExitStack() as stack:
            writers = {}
            for name, key in keys.items():
                path = self._path(key, scale).with_name(f".{scale}.draft.{uuid4().hex}.unfinished")
                path.parent.mkdir(parents=True, exist_ok=True)
                always(stack, remove, path)
                writers[name] = stack.enter_context(TableWriter(path))
            yield writers


class LinkedTableIOManager(TableIOManager):
    """I/O manager of source files: links to them instead of copies; rows get their position in the file as a column."""

    yambda: dg.ResourceDependency[YambdaSource]

    def fetch(self, key: dg.AssetKey, scale: str) -> None:
        """Bring a stored table to this machine; one that another machine has linked is linked to the same source."""

        def link(made: Made, path: Path) -> None:
            path.symlink_to(self.yambda.found_again(made, TABLES[key.path[-1]], scale).path.resolve())

        self.lineage.fetch(key, scale, link)

    def write(self, context: dg.OutputContext, value: Any, path: Path) -> dict[str, Any]:
        """Link a source file into place; write a draft or a relation that a source had to be converted to."""
        if isinstance(value, SourceFile):
            target = value.path.resolve()
            # A home can be moved with what it holds.
            inside = target.is_relative_to(self.home.resolve())
            path.symlink_to(os.path.relpath(target, path.parent.resolve()) if inside else target)
        elif isinstance(value, TableWriter):
            value.finish().rename(path)
        else:
            value.write_parquet(str(path), compression="zstd", row_group_size=ROW_GROUP)
        table = stored_table(self.duckdb.connection, path)
        return self._known(context, path, described(table, declared(context.definition_metadata)))

    def version(self, value: Any, path: Path) -> str:
        """Version of a linked source, which is not read for that; of a written file, the SHA-256 of its content."""
        return value.content if isinstance(value, SourceFile) else super().version(value, path)

    def read(self, path: Path) -> Relation:
        """Read the table as a relation with the published columns and `file_row_number`, which orders equal times."""
        return stored_table(self.duckdb.connection, path, file_row_number=True)


class TorchIOManager(ArtefactIOManager):
    """I/O manager of containers of tensors and plain values, which load without running code from the file."""

    extension: ClassVar[str] = ".pt"

    def write(self, context: dg.OutputContext, value: Any, path: Path) -> dict[str, Any]:
        """Save with torch."""
        import torch

        # If given a path, torch writes the file's name into the file, and files of equal values would differ.
        with path.open("wb") as file:
            torch.save(value, file)
        return {}

    def read(self, path: Path) -> Any:
        """Load with torch; anything but tensors and plain values is refused."""
        import torch

        return torch.load(path, weights_only=True)


class ModelIOManager(TorchIOManager):
    """I/O manager of trained models, with the checkpoints of an unfinished training beside each."""

    def write(self, context: dg.OutputContext, value: "TrainedModel", path: Path) -> dict[str, Any]:
        """Save the model's dictionary."""
        return super().write(context, value.to_dict(), path)

    def read(self, path: Path) -> "TrainedModel":
        """Build the model from its dictionary."""
        from ms_assets.training.trained import TrainedModel

        return TrainedModel.from_dict(super().read(path))

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Publish the model and remove its checkpoints, which are no longer needed."""
        super().handle_output(context, obj)
        checkpoints = self.checkpoint(context.asset_key, context.partition_key, "*").path
        for checkpoint in checkpoints.parent.glob(checkpoints.name):
            checkpoint.unlink()

    def checkpoint(self, key: dg.AssetKey, scale: str, stage: str) -> "CheckpointOnDisk":
        """Checkpoint of a stage of an asset's training."""
        return CheckpointOnDisk(self._path(key, scale).with_name(f".{scale}.{stage}.checkpoint"))


@dataclass(frozen=True)
class CheckpointOnDisk:
    """Checkpoint file of tensors and plain values, replaced as a whole."""

    path: Path

    def load(self) -> dict[str, Any] | None:
        """Read the checkpoint; None if there is none."""
        import torch

        with reading(self.path, "remove it, and the training begins anew"):
            return torch.load(self.path, weights_only=True, map_location="cpu") if self.path.exists() else None

    def save(self, value: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        import torch

        # If given a path, torch does not report that the disk is full.
        with published(self.path) as unfinished, unfinished.open("wb") as file:
            torch.save(value, file)


class GraphIOManager(TorchIOManager):
    """I/O manager of PyG graphs, stored as the dictionary that `HeteroData.from_dict` takes."""

    def write(self, context: dg.OutputContext, value: "HeteroData", path: Path) -> dict[str, Any]:
        """Save the graph's dictionary."""
        return super().write(context, value.to_dict(), path)

    def read(self, path: Path) -> "HeteroData":
        """Build the graph from its dictionary."""
        from torch_geometric.data import HeteroData

        return HeteroData.from_dict(super().read(path))


@dataclass(frozen=True)
class IndexOfOrigin:
    """Faiss index with its origin: what it was built from, by name."""

    index: "faiss.Index"
    origin: dict[str, str]


class FaissIOManager(ArtefactIOManager):
    """I/O manager of Faiss indices with their origin, which follows the index in the file, unread by Faiss."""

    extension: ClassVar[str] = ".faiss"

    def write(self, context: dg.OutputContext, value: IndexOfOrigin, path: Path) -> dict[str, Any]:
        """Write a CPU index and its origin."""
        import faiss

        faiss.write_index(value.index, str(path))
        origin = json.dumps(value.origin).encode()
        with path.open("ab") as file:
            file.write(origin + len(origin).to_bytes(8, "little"))
        return dict(value.origin)

    def read(self, path: Path) -> IndexOfOrigin:
        """Read a CPU index and its origin."""
        import faiss

        with path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            length = int.from_bytes(file.read(8), "little")
            file.seek(-8 - length, os.SEEK_END)
            origin = json.loads(file.read(length))
        return IndexOfOrigin(faiss.read_index(str(path)), origin)


class FolderIOManager(ArtefactIOManager):
    """I/O manager of several files that belong together, in a folder for each scale."""

    extension: ClassVar[str] = ""

    def write(self, context: dg.OutputContext, value: dict[str, bytes], path: Path) -> dict[str, Any]:
        """Write the files, given as content by name."""
        path.mkdir()
        for name, content in value.items():
            (path / name).write_bytes(content)
        return {"files": sorted(value)}

    def read(self, path: Path) -> dict[str, bytes]:
        """Read all files, as content by name."""
        return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


class JsonIOManager(ArtefactIOManager):
    """I/O manager of tables as JSON, for programs that cannot read Parquet: a list of rows, each an object."""

    extension: ClassVar[str] = ".json"

    def write(self, context: dg.OutputContext, value: Relation, path: Path) -> dict[str, Any]:
        """Write the rows as JSON."""
        literal = str(path).replace("'", "''")  # the statement takes no parameters here
        value.query("rows", f"COPY rows TO '{literal}' (FORMAT json, ARRAY true)")
        return {"n_rows": len(value)}

    def read(self, path: Path) -> list[dict[str, Any]]:
        """Read the rows as a list of dictionaries."""
        return json.loads(path.read_text())
