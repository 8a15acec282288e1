"""A clock that is put back by an hour between two materialisations of the same scale."""

import time
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.test_utils import create_run_for_test, freeze_time

from ms_assets.defs.platform import runs
from ms_assets.defs.platform.locks import FileLocks
from ms_assets.defs.platform.scales import PARTITION_TAG
from ms_assets_tests.worlds import World, listen

TABLE = dg.AssetKey(["raw", "artist_item_mapping"])


def materialise(platform, instance, artists):
    World([listen(1, 0, 10)], [10], artists).write(platform.source)
    job = platform.definitions.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, partition_key="50m", asset_selection=[TABLE])


def test_the_later_materialisation_counts_though_its_time_is_earlier(platform, monkeypatch):
    real = time.time
    with dg.instance_for_test() as instance:
        with monkeypatch.context() as patch, freeze_time(datetime.now(UTC) + timedelta(hours=1)):
            patch.setattr(time, "time", lambda: real() + 3600)
            materialise(platform, instance, [(1, 10)])
        assert platform.rows("raw/artist_item_mapping") == [{"artist_id": 1, "item_id": 10}]
        second = materialise(platform, instance, [(2, 10)])
        assert platform.rows("raw/artist_item_mapping") == [{"artist_id": 2, "item_id": 10}]
        latest, former = instance.fetch_materializations(TABLE, limit=2).records
        assert latest.run_id == second.run_id
        assert latest.timestamp < former.timestamp
        assert 0 <= latest.asset_materialization.metadata["write_seconds"].value < 60


def test_a_run_of_a_later_hour_is_not_lost_before_its_time(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        with freeze_time(datetime.now(UTC) + timedelta(hours=1)):
            run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTING, tags={PARTITION_TAG: "50m"})
        runs.mark_lost(instance, FileLocks(tmp_path))
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTING
