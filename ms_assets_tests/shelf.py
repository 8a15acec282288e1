"""One asset over each I/O manager, and the files that it leaves."""

import dagster as dg

from ms_assets.defs.platform.io_managers import (
    FaissIOManager,
    FolderIOManager,
    GraphIOManager,
    JsonIOManager,
    ModelIOManager,
    TableIOManager,
    TorchIOManager,
)
from ms_assets.defs.platform.lineage import RECORD
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import SCALES
from ms_assets.defs.platform.schemas import as_metadata

COLUMNS = as_metadata({"song_id": ("INTEGER", "song"), "score": ("DOUBLE", "score")})


class Shelf:
    """One asset `room/value` with an I/O manager, and its files."""

    def __init__(self, folder, bucket=""):
        self.folder = folder
        self.duckdb = DuckDB(temp_directory=str(folder / "tmp"))
        place = {"base_dir": str(folder / "data"), "bucket": bucket}
        self.managers = {
            "io_manager": TableIOManager(**place, duckdb=self.duckdb),
            "torch": TorchIOManager(**place),
            "model": ModelIOManager(**place),
            "graph": GraphIOManager(**place),
            "faiss": FaissIOManager(**place),
            "folder": FolderIOManager(**place),
            "json": JsonIOManager(**place),
        }

    @property
    def con(self):
        return self.duckdb.connection

    def put(self, value, manager="io_manager", scale="50m"):
        run = dg.materialize(
            [self._asset(value, manager)],
            resources=self.managers,
            partition_key=scale,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        return run.get_asset_materialization_events()[0]

    def get(self, manager="io_manager", scale="50m"):
        definitions = dg.Definitions([self._asset(None, manager)], resources=self.managers)
        return definitions.load_asset_value(dg.AssetKey(["room", "value"]), partition_key=scale)

    def files(self):
        return {
            str(path.relative_to(self.folder / "data")): path.read_bytes()
            for path in (self.folder / "data").rglob("*")
            if path.is_file() and not path.name.endswith(RECORD)
        }

    @staticmethod
    def _asset(value, manager):
        @dg.asset(key=["room", "value"], partitions_def=SCALES, io_manager_key=manager, metadata=COLUMNS)
        def produce():
            return value

        return produce
