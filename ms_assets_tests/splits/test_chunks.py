"""Nothing that is written tells how many rows were held at a time, or how many threads computed them."""

import hashlib
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from ms_assets.graph.edges import edges
from ms_assets.settings import SplitSettings
from ms_assets.splits import parts, protocols, relevance
from ms_assets.splits.id_map import IdMap
from ms_assets.streams import TableWriter, in_user_ranges
from ms_assets_tests.conftest import TABLES, Platform, blocks_of
from ms_assets_tests.worlds import published_order, random_case

PROTOCOLS = ("per_user", "global_temporal")


def digests(platform):
    return {key: hashlib.sha256(platform.file(key, "sample").read_bytes()).hexdigest() for key in TABLES.values()}


def test_tables_have_the_same_bytes_for_any_memory_and_number_of_threads(sample, tmp_path):
    small = Platform(tmp_path, memory="300MB")
    small.duckdb.connection.execute("SET threads = 1")
    with blocks_of(20_000):  # of 1 GiB, so some 5,600 rows of the 300,000 at a time
        small.materialise(*TABLES.values(), scale="sample", config={"split_events": {"protocol": "per_user"}})
    assert digests(small) == digests(sample("per_user"))


def test_a_second_run_writes_the_same_bytes(sample):
    platform = sample("per_user")
    earlier = digests(platform)
    platform.materialise(*TABLES.values(), scale="sample", config={"split_events": {"protocol": "per_user"}})
    assert digests(platform) == earlier


class Divided:
    """A world of several blocks, divided by the plain functions into files."""

    def __init__(self, con, folder, protocol):
        self.con, self.folder = con, folder
        world, rules = random_case(PROTOCOLS.index(protocol), n_users=1_000)
        events = sorted((e for e in world.events if e.uid is not None), key=published_order)
        self.multi_event = con.from_arrow(replace(world, events=events).multi_event())
        self.uids = np.array(sorted({event.uid for event in events}))
        self.songs = np.array(sorted({event.item_id for event in events if event.item_id is not None}))
        self.settings = SplitSettings(protocol=protocol, test_start=rules.test_start)

    def blocks(self, rows, columns=()):
        return protocols.parted_events(self.multi_event, self.uids, IdMap(self.songs), self.settings, rows, columns)

    def write(self, rows):
        """Parts, negatives, ground truth and edges from as many rows at a time; their digests."""
        tally = parts.tally(self.blocks(rows), len(self.songs))
        tables = list(parts.tables(self.blocks(rows, parts.EVENT_COLUMNS), tally))
        files = {name: self._write(name, rows, [block[name] for block in tables]) for name in tables[0]}
        train, validation, test = (self.con.read_parquet(str(files[name])) for name in protocols.PARTS)
        ground_truth = partial(relevance.ground_truth, self.con)
        streams = {
            "ground_truth": in_user_ranges(ground_truth, train, validation, test, rows=rows),
            "edges": in_user_ranges(partial(edges, self.con), train, rows=rows),
        }
        files |= {name: self._write(name, rows, stream.tables) for name, stream in streams.items()}
        return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}

    def _write(self, name, rows, tables):
        with TableWriter(self.folder / f"{name}.{rows}.parquet") as writer:
            return writer.fill(tables)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tables_have_the_same_bytes_for_any_number_of_rows_at_a_time(con, tmp_path, protocol):
    divided = Divided(con, tmp_path, protocol)
    whole = divided.write(1_000_000)
    for rows in (150, 1_000, 3_000):
        assert divided.write(rows) == whole, rows
    con.execute("SET threads = 1")
    assert divided.write(999) == whole


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("rows", [1, 7, 1_000])
def test_blocks_hold_whole_users_and_together_what_one_would(con, tmp_path, protocol, rows):
    divided = Divided(con, tmp_path, protocol)
    blocks = list(divided.blocks(rows, ("timestamp",)))
    assert len(blocks) > 3, "this world is larger than a block"
    users = [set(block.user_id.tolist()) for block in blocks]
    assert sum(map(len, users)) == len(set().union(*users))
    at_once = list(divided.blocks(1_000_000, ("timestamp",)))
    for name in ("user_id", "song", "kind", "part"):
        found, wanted = (np.concatenate([getattr(block, name) for block in some]) for some in (blocks, at_once))
        assert np.array_equal(found, wanted)
    found, wanted = (pa.Table.from_batches([block.published for block in some]) for some in (blocks, at_once))
    assert found.equals(wanted)


def test_a_user_longer_than_many_blocks_is_divided_as_one(con):
    n = 10_000
    multi_event = con.sql(f"""
        SELECT 1 + (i >= {n - 1})::INTEGER AS uid, i AS timestamp, i % 3 AS item_id, 'listen' AS event_type
        FROM range({n}) t(i) ORDER BY i
    """).materialize()  # 9,999 events of the first user, one of the second
    blocks = protocols.parted_events(multi_event, np.array([1, 2]), IdMap(np.arange(3)), SplitSettings(), 1)
    parted = [np.bincount(block.part, minlength=3).tolist() for block in blocks]
    assert parted == [[7_999, 1_000, 1_000], [0, 0, 1]]
