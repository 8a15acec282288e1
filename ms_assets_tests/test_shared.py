"""Homes in a bucket: what one machine publishes another one reads, whole or not at all, whatever is killed."""

import itertools
import os
import shutil
import socket
import sys
import threading
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch_geometric.data import HeteroData

from ms_assets.defs.platform import io_managers, objects, storage
from ms_assets.defs.platform.io_managers import FolderIOManager, IndexOfOrigin, JsonIOManager
from ms_assets.defs.platform.lineage import Made
from ms_assets.defs.platform.objects import KIND, Bucket, BucketError
from ms_assets.defs.platform.resources import Environment, MLflow, YambdaSource
from ms_assets.defs.platform.scales import PARTITION_TAG
from ms_assets.defs.platform.sessions import SessionLocks
from ms_assets.defs.platform.shared import SharedLineage
from ms_assets.files import published, sha256
from ms_assets.raw import hub
from ms_assets.raw.schema import TABLES as RAW
from ms_assets.raw.schema import SourceError
from ms_assets.retrieval import own_lists
from ms_assets_tests import planted, s3
from ms_assets_tests.conftest import TABLES
from ms_assets_tests.interruptions import cancelled
from ms_assets_tests.shelf import Shelf
from ms_assets_tests.training.graphs import trained_model
from ms_assets_tests.worlds import World, listen

KEY, SCALE = dg.AssetKey(["room", "value"]), "50m"
LONG_AGO = timedelta(0)
on_s3 = pytest.mark.parametrize("store", ["s3"], indirect=True, scope="module")
"""Tests of what s3fs itself answers, or of more than the records; moto's server takes too long for `make test`."""


@pytest.fixture(scope="module", autouse=True, params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def store(request):
    """Store in which homes lie: as S3 promises it, in memory; and moto's server, by s3fs."""
    pytest.importorskip("s3fs")
    if request.param == "memory":
        with pytest.MonkeyPatch.context() as patch:
            memory = s3.Memory()
            patch.setattr(objects, "_connect", lambda at_once: memory)
            yield
    else:
        with s3.connected(s3.endpoint()):
            yield


@pytest.fixture
def bucket():
    return s3.new_bucket()


class Machine:
    """A machine's cache of a home in a bucket, which publishes and reads an artefact of two files."""

    def __init__(self, folder, bucket):
        self.folder, self.records = folder, SharedLineage(folder / "data", bucket)

    def make(self, content, run="run"):
        """Publish an artefact, as an I/O manager does."""
        with published(self.records.base / "room/value" / SCALE) as unfinished:
            unfinished.mkdir()
            (unfinished / "a").write_text(content)
            (unfinished / "b").write_text(f"{content} again")
            made = Made.of(unfinished, {}, SCALE, {}, name=SCALE, version=sha256(unfinished), run_id=run)
            self.records.publish(KEY, SCALE, made, unfinished)

    def read(self):
        """What a run that begins now reads; None if there is nothing."""
        self.records.refresh(SCALE)
        return self.read_on()

    def read_on(self):
        """What a run reads that has begun."""
        self.records.fetch(KEY, SCALE)
        if not (made := self.records.history(KEY, SCALE)):
            return None
        folder = self.records.file(KEY, made[0])
        content = (folder / "a").read_text()
        assert (folder / "b").read_text() == f"{content} again", "a mixture"
        assert sha256(folder) == made[0].version
        return content


@pytest.fixture
def machine(tmp_path, bucket):
    """Machines of one team, by name."""
    return lambda name="one": Machine(tmp_path / name, bucket)


def test_what_one_machine_publishes_another_one_reads_and_keeps(machine, bucket):
    machine().make("first")
    other = machine("other")
    assert other.read() == "first"
    for name in s3.stored(bucket):
        if name.startswith("data/"):
            objects._connect(False).rm_file(bucket._key(name))
    assert other.read() == "first", "by now it is in its cache"
    shutil.rmtree(other.folder / "data/room/value" / SCALE)
    with pytest.raises(BucketError, match="files of room/value for 50m are gone; run the same again"):
        other.read()
    machine().make("first")
    assert other.read() == "first", "made again, although the version is on record already"


@pytest.mark.parametrize("before", [None, "former"])
def test_an_interruption_at_any_moment_leaves_the_former_artefact_or_the_new_one(machine, bucket, monkeypatch, before):
    monkeypatch.setattr(objects, "GRACE", LONG_AGO)
    if before:
        machine().make(before)
    found = []
    for number in itertools.count(1):
        content, name = f"made {number}", f"machine {number}"
        finished = []
        with suppress(KeyboardInterrupt), s3.at_call(number, cancelled):
            machine(name).make(content)
            finished.append(content)
        found.append(machine("reader").read())
        assert machine(name).read() == found[-1] in {content, before}
        before = found[-1]
        if finished:
            break
    assert found[-1] == content and number > 10
    machine().make("last")
    assert machine("reader").read() == "last"
    places = {name.rsplit("/", 1)[0] for name in s3.stored(bucket) if name.startswith("data/")}
    assert len(places) == 2, "of the one on record and the one before"


def test_a_reader_that_is_interrupted_at_any_moment_reads_the_whole_artefact_later(machine):
    machine().make("first")
    for number in itertools.count(1):
        reader, finished = machine(f"reader {number}"), []
        with suppress(KeyboardInterrupt), s3.at_call(number, cancelled):
            finished.append(reader.read())
        assert reader.read() == "first"
        if finished:
            break
    assert number > 5


@pytest.mark.slow
@pytest.mark.parametrize("what", ["make", "read"])
@on_s3
def test_a_process_that_is_killed_at_any_moment_leaves_the_former_artefact_or_the_new_one(machine, what):
    machine().make(before := "former")
    for number in itertools.count(1):
        content, worker = f"made {number}", machine("worker")
        shutil.rmtree(worker.folder, ignore_errors=True)
        if not (child := os.fork()):
            objects._connect.cache_clear()
            with s3.at_call(number, lambda: os._exit(9)):
                worker.make(content) if what == "make" else worker.read()
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert killed in (0, 9)
        assert worker.read() == machine("reader").read() in {before, content}
        before = machine("reader").read()
        if not killed:
            break
    assert number > 5


def test_of_two_writers_the_last_record_wins_and_the_other_stays_on_record(machine):
    one, other = machine("one"), machine("other")
    real, begun = objects._put_if, []

    def overtaken(*args):
        if not begun:
            begun.append(True)
            other.make("of the other", run="theirs")
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_put_if", overtaken)
        one.make("of the one", run="ours")
    for reader in (one, other, machine("third")):
        assert reader.read() == "of the one"
        assert [made.run_id for made in reader.records.history(KEY, SCALE)] == ["ours", "theirs"]


def test_a_put_whose_answer_was_lost_is_not_taken_for_another_writer(machine):
    real, lost = objects._put_if, []

    def answer_lost(*args):
        done = real(*args)
        if not lost:
            lost.append(done)
            return False
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_put_if", answer_lost)
        machine().make("once")
    assert machine("other").read() == "once"
    assert len(machine("other").records.recorded(KEY, SCALE)) == 1


def test_a_run_goes_on_with_what_it_began_with_when_another_machine_publishes_meanwhile(machine, monkeypatch):
    monkeypatch.setattr(objects, "GRACE", LONG_AGO)
    machine().make("old")
    with_file, without = machine("with"), machine("without")
    assert with_file.read() == "old"
    without.records.refresh(SCALE)
    machine().make("new")
    assert with_file.read_on() == without.read_on() == "old"
    assert with_file.read() == without.read() == "new"


def test_what_a_run_began_with_is_named_when_it_is_gone(machine, monkeypatch):
    monkeypatch.setattr(objects, "GRACE", LONG_AGO)
    machine().make("old")
    late = machine("late")
    late.records.refresh(SCALE)
    machine().make("new")
    machine().make("newer")
    with pytest.raises(BucketError, match="files of room/value for 50m are gone; run the same again if"):
        late.read_on()
    assert late.read() == "newer"


def test_an_upload_under_way_elsewhere_is_not_removed(machine, bucket, monkeypatch):
    with suppress(KeyboardInterrupt), s3.at_call(6, cancelled):
        machine("slow").make("slow")
    under_way = [name for name in s3.stored(bucket) if name.startswith("data/")]
    assert under_way
    machine().make("first")
    assert set(under_way) <= set(s3.stored(bucket))
    monkeypatch.setattr(objects, "GRACE", LONG_AGO)
    machine().make("second")
    assert not set(under_way) & set(s3.stored(bucket)), "a day later"


def test_an_equal_artefact_is_not_sent_again(machine, bucket):
    machine().make("same", run="one")
    before = s3.stored(bucket)
    machine("other").make("same", run="two")
    assert s3.stored(bucket) == before
    assert machine("third").read() == "same"
    assert [made.run_id for made in machine("third").records.recorded(KEY, SCALE)] == ["two", "one"]


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"\0"])
def test_bytes_that_change_on_their_way_into_the_bucket_are_not_published(machine, damage):
    machine().make("former")
    real = objects._connect(False)

    class Damaging:
        def __getattr__(self, name):
            return getattr(real, name)

        def put_file(self, file, key, **given):
            real.pipe_file(key, damage(Path(file).read_bytes()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_connect", lambda at_once: Damaging())
        with pytest.raises(BucketError, match=r"/50m/a: found other bytes than were sent; nothing was published"):
            machine().make("damaged")
    assert machine().read() == machine("other").read() == "former"


def test_bytes_that_changed_in_the_bucket_are_not_read(machine, bucket):
    machine().make("first")
    [name] = [name for name in s3.stored(bucket) if name.endswith("/b")]
    objects._connect(False).pipe_file(bucket._key(name), b"first agaiN")
    with pytest.raises(BucketError, match=r"/50m/b: found other bytes than were published; materialise it again"):
        machine("other").read()
    assert not (machine("other").folder / "data/room/value" / SCALE).exists()
    machine().make("first")
    assert machine("other").read() == "first"


@pytest.mark.slow
@on_s3
def test_a_file_in_several_parts_is_known_by_its_tag_and_one_of_an_unknown_tag_is_read_back(
    tmp_path, bucket, monkeypatch
):
    monkeypatch.setattr(objects, "PART", 5 << 20)
    file, back = tmp_path / "file", tmp_path / "back"
    file.write_bytes(np.random.default_rng(0).bytes(12 << 20))
    files = bucket.upload(file, "place", "file")
    store, key = objects._connect(False), bucket._key("place/file")
    assert objects._head(store, key)["ETag"] == f'"{objects._tag(file)}"' and objects._tag(file).endswith("-3")
    bucket.download(files, "place", "file", back)
    assert back.read_bytes() == file.read_bytes()
    monkeypatch.setattr(objects, "_tag", lambda file: "that of another encryption")
    assert objects._holds(store, key, file)
    back.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert not objects._holds(store, key, back)


def test_a_failed_check_stops_runs_on_other_machines_until_the_artefact_is_made_again(machine):
    one, other = machine(), machine("other")
    one.make("bad")
    one.records.note_check(KEY, SCALE, "is_good", "it is not")
    other.records.refresh(SCALE)
    assert other.records.history(KEY, SCALE)[0].failed == {"is_good": "it is not"}
    other.make("good")
    one.records.note_check(KEY, SCALE, "is_good", "of the former one")
    third = machine("third")
    assert third.read() == "good"
    assert [made.failed for made in third.records.history(KEY, SCALE)] == [{}, {"is_good": "it is not"}]


def test_an_artefact_that_was_removed_from_the_bucket_is_removed_here(machine, bucket):
    machine().make("first")
    assert machine("other").read() == "first"
    objects._connect(False).rm_file(bucket._key(f"records/{SCALE}/room/value.json"))
    assert machine("other").read() is None
    assert list((machine("other").folder / "data/room/value").iterdir()) == []


def test_a_record_that_cannot_be_read_stands_in_the_way_of_its_readers_alone(machine, bucket):
    machine().make("first")
    objects._connect(False).pipe_file(bucket._key(f"records/{SCALE}/room/value.json"), b"{")
    other = machine("other")
    with pytest.raises(Exception, match="materialise room/value for 50m again"):
        other.read()
    machine().make("second")
    assert other.read() == "second"


def values():
    graph = HeteroData()
    graph["user"].uid = torch.tensor([4, 9])
    yield "torch", {"weight": torch.arange(3)}, lambda value: value["weight"].tolist()
    yield "model", trained_model(), lambda value: value.to_dict()["best"]
    yield "graph", graph, lambda value: value["user"].uid.tolist()
    yield "folder", {"a.md": b"one", "b.png": b"two"}, dict
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(4)
    index.add(np.eye(4, dtype=np.float32))
    origin = {"training_run": "run"}
    yield "faiss", IndexOfOrigin(index, origin), lambda value: (value.index.ntotal, value.origin)


@pytest.mark.slow
@on_s3
def test_an_artefact_of_each_kind_that_one_machine_makes_another_one_reads(tmp_path, bucket):
    one, other = (Shelf(tmp_path / name, bucket.address) for name in ("one", "other"))
    for kind, value, shown in values():
        one.put(value, kind)
        assert shown(other.get(kind)) == shown(value), kind
    rows = "SELECT * FROM (VALUES (1::INTEGER, 0.25::DOUBLE)) AS t (song_id, score)"
    event = one.put(one.con.sql(rows))
    assert other.get().fetchall() == [(1, 0.25)]
    assert event.materialization.metadata["dagster/uri"].value.startswith(f"{bucket.address}/data/room/value/50m/")
    one.put(one.con.sql(rows), "json")
    assert other.get("json") == [{"song_id": 1, "score": 0.25}]


@pytest.mark.slow
@on_s3
def test_a_reader_leaves_the_records_alone_that_a_run_here_began_with(tmp_path, bucket):
    one, other = (Shelf(tmp_path / name, bucket.address) for name in ("one", "other"))
    one.put({"a": b"old"}, "folder")
    assert other.get("folder") == {"a": b"old"}
    one.put({"a": b"new"}, "folder")
    run = SimpleNamespace(run=SimpleNamespace(run_id="run", tags={PARTITION_TAG: SCALE}))
    with other.managers["folder"].yield_for_execution(run):
        one.put({"a": b"newer"}, "folder")
        assert other.get("folder") == {"a": b"new"}
    assert other.get("folder") == {"a": b"newer"}


TABLE = "artist_item_mapping"


@pytest.mark.slow
@on_s3
def test_a_source_outside_the_home_is_published_as_a_reference_that_leads_to_the_same_file(
    platform_at, tmp_path, bucket
):
    key = ("raw", TABLE)
    one, other = (platform_at(tmp_path / name, bucket=bucket.address) for name in ("one", "other"))
    World([listen(1, 1, 10)], [10], artists=[(7, 10)]).write(one.source)
    one.materialise(f"raw/{TABLE}")
    assert [name for name in s3.stored(bucket) if name.startswith("data/")] == []
    shutil.copytree(one.source, other.source, dirs_exist_ok=True)
    rows = other.definitions.load_asset_value(key, partition_key=SCALE).fetchall()
    assert rows == one.definitions.load_asset_value(key, partition_key=SCALE).fetchall() != []
    link = other.file(f"raw/{TABLE}")
    assert link.is_symlink() and link.resolve().is_relative_to(other.source)
    inode = link.lstat().st_ino
    other.definitions.load_asset_value(key, partition_key=SCALE)
    assert link.lstat().st_ino == inode, "it is here by now"
    os.utime(link, (1, 1))
    with pytest.raises(SourceError, match=f"expected .*, from which raw/{TABLE} was made for 50m elsewhere"):
        other.definitions.load_asset_value(key, partition_key=SCALE)


@pytest.mark.slow
@on_s3
def test_a_source_inside_the_home_is_published_with_its_content(platform_at, tmp_path, bucket):
    one, other = (platform_at(tmp_path / name, bucket=bucket.address) for name in ("one", "other"))
    key, file = dg.AssetKey(["raw", TABLE]), "sample.parquet"
    (one.home / "source").mkdir(parents=True)
    pq.write_table(pa.table({"artist_id": [1], "item_id": [2]}), one.home / "source" / file)
    with published(one.file(f"raw/{TABLE}", "sample")) as unfinished:
        unfinished.symlink_to(one.home / "source" / file)
        made = Made.of(unfinished, {}, "sample", {}, name=file, version="generated by 0", run_id="run")
        one.definitions.resources["linked_tables"].lineage.publish(key, "sample", made, unfinished)
    read = other.definitions.load_asset_value(key, partition_key="sample")
    assert read.project("artist_id, item_id").fetchall() == [(1, 2)]
    assert not other.file(f"raw/{TABLE}", "sample").is_symlink()


@pytest.mark.slow
@on_s3
def test_the_tables_of_the_sample_in_a_bucket_are_those_of_a_local_home(platform_at, sample, tmp_path, bucket):
    one, other = (platform_at(tmp_path / name, bucket=bucket.address) for name in ("one", "other"))
    one.materialise(*TABLES.values(), scale="sample", config={"split_events": {"protocol": "global_temporal"}})
    local = sample("global_temporal")
    for key in TABLES.values():
        other.definitions.load_asset_value(key.split("/"), partition_key="sample")
        found = other.file(key, "sample").read_bytes()
        assert found == one.file(key, "sample").read_bytes() == local.file(key, "sample").read_bytes(), key
    other.materialise("graph/edges", scale="sample", alone=True)
    assert other.file("graph/edges", "sample").read_bytes() == local.file("graph/edges", "sample").read_bytes()


@pytest.mark.slow
@on_s3
def test_a_model_of_a_store_without_a_server_has_its_files_in_the_bucket(tmp_path, bucket):
    pytest.importorskip("boto3")
    store = MLflow(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=f"{bucket.address}/mlflow/artifacts"
    )
    registry = store.registry("50m")
    version = planted.register(registry, planted.model(0))
    registry.promote(version, {})
    assert any(name.startswith("mlflow/artifacts/") for name in s3.stored(bucket))
    assert registry.intact(registry.champion())
    assert planted.register(registry, planted.model(0)).number == version.number, "equal files are registered once"


@pytest.mark.parametrize("begin", [SharedLineage.begin, SharedLineage.refresh], ids=["run", "reader"])
@pytest.mark.slow
@on_s3
def test_a_bucket_that_does_not_exist_is_told_in_one_sentence_before_any_work(tmp_path, begin):
    with pytest.raises(BucketError) as raised:
        begin(Machine(tmp_path, Bucket(found := "s3://no-such-bucket-here/home")).records, SCALE)
    said = str(raised.value)
    assert said.startswith(f"MS_ASSETS_HOME: found {found}, a bucket that cannot be used (NoSuchBucket: The specified")
    assert said.endswith("or correct the variable or AWS_ENDPOINT_URL") and "\n" not in said


@pytest.mark.slow
@on_s3
def test_a_store_that_does_not_answer_is_told_in_one_sentence_before_any_work(tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with s3.connected(f"http://127.0.0.1:{nobody.getsockname()[1]}"), pytest.raises(BucketError) as raised:
            Machine(tmp_path, Bucket("s3://bucket/home")).records.begin(SCALE)
    assert "a bucket that cannot be used (EndpointConnectionError: Could not connect" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["pipe_file", "find"])
def test_a_bucket_without_permission_is_told_in_one_sentence_before_any_work(machine, call):
    real = objects._connect(False)

    class Refusing:
        def __getattr__(self, name):
            if name == call:
                raise s3.refusal("AccessDenied", "Access Denied")
            return getattr(real, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_connect", lambda at_once: Refusing())
        with pytest.raises(
            BucketError, match=r"cannot be used \(AccessDenied: Access Denied\); create it, allow these"
        ):
            machine().records.begin(SCALE)


def test_a_store_without_conditional_puts_is_refused(machine):
    def whatever(store, key, content, tag):
        store.pipe_file(key, content)
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_put_if", whatever)
        with pytest.raises(BucketError, match="a store that puts an object whatever the condition"):
            machine().records.begin(SCALE)
    machine().records.begin(SCALE)


def test_without_the_extra_a_request_for_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(BucketError, match=r"package s3fs is missing; install the extra: pip install 'ms_assets\[s3\]'"):
        Machine(tmp_path, Bucket("s3://bucket/home")).records.begin(SCALE)


HOME = f"{KIND}team/music"


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "set MS_ASSETS_DATABASE and MLFLOW_TRACKING_URI, where"),
        ({"MLFLOW_TRACKING_URI": "http://mlflow:5000"}, "set MS_ASSETS_DATABASE, where"),
        ({"MS_ASSETS_DATABASE": "postgresql://host/x"}, "set MLFLOW_TRACKING_URI, where"),
    ],
)
def test_a_home_in_a_bucket_without_the_services_that_keep_the_history_is_refused(monkeypatch, given, missing):
    for name in ("MS_ASSETS_DATABASE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"MS_ASSETS_HOME": HOME, **given}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BucketError, match=f"found s3://team/music, which keeps artefacts alone; {missing}"):
        storage.Runs.from_config_value(None, {})


def test_the_cache_of_each_home_in_a_bucket_is_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MS_ASSETS_HOME", f"{HOME}/")
    assert (Environment.read().home, Environment.read().bucket) == (tmp_path / "var/cache/team/music", HOME)
    assert Environment.read().models == f"{HOME}/mlflow/artifacts"
    monkeypatch.setenv("MS_ASSETS_CACHE", "/fast/disk")
    assert str(Environment.read().data) == "/fast/disk/team/music/data"


@pytest.mark.parametrize("found", ["gs://bucket/home", "s3://bucket", "s3:///home", "s3://bucket//home"])
def test_an_address_of_another_kind_is_no_home(monkeypatch, found):
    monkeypatch.setenv("MS_ASSETS_HOME", found)
    with pytest.raises(ValueError, match=r"MS_ASSETS_HOME: found .*, expected a folder or s3://bucket/prefix"):
        Environment.read()


def test_steps_on_a_cluster_have_a_home_in_a_bucket_with_locks_in_the_database(monkeypatch):
    for name, value in {"HOME": HOME, "EXECUTOR": "ray", "DATABASE": "postgresql://host/x"}.items():
        monkeypatch.setenv(f"MS_ASSETS_{name}", value)
    found = Environment.read()
    assert (found.bucket, found.locks) == (HOME, SessionLocks("postgresql://host/x"))


def test_a_step_elsewhere_reads_what_its_run_has_made_before_it(machine):
    machine("first").make("old")
    elsewhere = machine("second")
    elsewhere.records.join(SCALE, "run")
    assert elsewhere.read_on() == "old"
    machine("first").make("of the run")
    elsewhere.records.join(SCALE, "run")
    assert elsewhere.read_on() == "of the run"


def test_a_step_that_begins_beside_another_one_leaves_what_that_publishes_meanwhile(machine):
    for number in itertools.count(1):
        node = machine(f"node {number}")

        def publish(node=node, content=f"made {number}"):
            node.make(content)

        with s3.at_call(number, publish):
            node.records.refresh(SCALE)
        if machine("reader").read() != f"made {number}":
            break
        assert (node.records.file(KEY, node.records.recorded(KEY, SCALE)[0]) / "a").read_text() == f"made {number}"
    assert number > 3


def test_an_artefact_that_two_steps_of_a_machine_want_at_once_is_downloaded_once(machine, bucket, monkeypatch):
    machine().make("first")
    node, real, asked, found = machine("node"), objects._connect(False), [], []
    node.records.refresh(SCALE)
    other = threading.Thread(target=lambda: found.append(node.read_on()))

    class Slow:
        def __getattr__(self, name):
            return getattr(real, name)

        def get_file(self, key, file, **given):
            asked.append(key)
            if len(asked) == 1:
                other.start()
                other.join(0.05)
            real.get_file(key, file, **given)

    monkeypatch.setattr(objects, "_connect", lambda at_once: Slow())
    found.append(node.read_on())
    other.join()
    assert found == ["first", "first"]
    assert len(asked) == 2, "files of the artefact"


@pytest.mark.parametrize("begins", [True, False])
def test_each_process_of_a_step_elsewhere_takes_over_the_records_once(tmp_path, monkeypatch, begins):
    called = []
    monkeypatch.setattr(SharedLineage, "begin", lambda records, scale: called.append("begin"))
    monkeypatch.setattr(SharedLineage, "join", lambda records, *of: called.append("join"))
    monkeypatch.setattr(io_managers.runs, "writing_turn", lambda *of: nullcontext(begins and not called))
    run = SimpleNamespace(run=SimpleNamespace(run_id="run", tags={PARTITION_TAG: SCALE}))
    on_cluster = {"bucket": HOME, "locks_database": "postgresql://host/x"}
    one, other = (kind(base_dir=str(tmp_path / "data"), **on_cluster) for kind in (FolderIOManager, JsonIOManager))
    with one.yield_for_execution(run), other.yield_for_execution(run):
        assert called == ["begin" if begins else "join"]
    with FolderIOManager(base_dir=str(tmp_path / "data"), bucket=HOME).yield_for_execution(run):
        assert len(called) == 1, "on this machine the executor has prepared its runs"


def test_lists_of_other_programs_lie_in_the_bucket_and_are_those_that_are_there_now(machine, bucket):
    def put(name):
        objects._connect(False).pipe_file(bucket._key(f"recommendations/{name}"), name.encode())

    records = machine().records
    assert own_lists.files_of(records.given("recommendations", SCALE), SCALE) == {}
    for name in ("theirs/50m.parquet", "theirs/sample.parquet", "mine/50m.parquet"):
        put(name)
    found = own_lists.files_of(records.given("recommendations", SCALE), SCALE)
    assert {name: file.read_text() for name, file in found.items()} == {
        "mine": "mine/50m.parquet",
        "theirs": "theirs/50m.parquet",
    }
    objects._connect(False).rm_file(bucket._key("recommendations/mine/50m.parquet"))
    assert list(own_lists.files_of(records.given("recommendations", SCALE), SCALE)) == ["theirs"]


def test_a_revision_is_pinned_once_for_all_machines(tmp_path, bucket, monkeypatch):
    one, other = (
        YambdaSource(
            location="somebody/yambda", revision="main", source_home=str(tmp_path / name), bucket=bucket.address
        ).source
        for name in ("one", "other")
    )
    first, second, third = ("1" * 40, "2" * 40, "3" * 40)
    monkeypatch.setattr(hub, "download", lambda dataset, commit, file, verified: tmp_path / commit)

    def overtaken(*asked):
        other.pin(first, first=True)
        return second

    monkeypatch.setattr(hub, "commit_to_read", overtaken)
    table = RAW["multi_event"]
    assert one.fetch(table, SCALE).revision == other.fetch(table, SCALE).revision == first
    one.pin(third)
    assert other.fetch(table, SCALE).revision == third
    assert replace(other, revision=second).fetch(table, SCALE).revision == second
    assert s3.stored(bucket) == ["records/revisions/somebody%2Fyambda@main"]
    one.pin("main")
    with pytest.raises(
        SourceError, match=f"^{bucket.address}/records/revisions/somebody%2Fyambda@main: found 'main', exp"
    ):
        other.fetch(table, SCALE)
