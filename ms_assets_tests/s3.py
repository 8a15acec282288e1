"""A store that speaks S3's protocol on loopback (moto's server), in a thread of this process, and faults of it."""

import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ms_assets.defs.platform import objects
from ms_assets.defs.platform.objects import KIND, Bucket
from ms_assets.defs.platform.shared import SharedLineage
from ms_assets_tests.workplace import Workplace


@cache
def endpoint() -> str:
    """Address of the server, which starts with the first test that asks for it and lasts as long as the process."""
    pytest.importorskip("s3fs")
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    return f"http://127.0.0.1:{server.get_host_and_port()[1]}"


def variables(address: str) -> dict[str, str]:
    """Environment in which a store of this address is found."""
    return {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "ann", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
    }  # fmt: skip


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Let this process find a store by its address."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables(address).items():
            patch.setenv(name, value)
        objects._connect.cache_clear()
        yield
    objects._connect.cache_clear()


@contextmanager
def home_of(place: Workplace) -> Iterator[Bucket]:
    """A bucket as the home of a workplace; its programs find the store, and this process until the block ends."""
    with connected(endpoint()):
        place.environment |= variables(endpoint())
        yield new_bucket()


def read_all(bucket: Bucket, home: Path, scale: str) -> None:
    """Bring the artefacts of a scale from the bucket into a home, as another machine reads them."""
    records = SharedLineage(home / "data", bucket)
    records.refresh(scale)
    for key, _ in records.artefacts():
        records.fetch(key, scale)


def new_bucket() -> Bucket:
    """A home in a bucket of its own."""
    name = f"bucket-{uuid4().hex}"
    objects._connect(False).call_s3("create_bucket", Bucket=name)
    return Bucket(f"{KIND}{name}/team/home")


def stored(bucket: Bucket) -> list[str]:
    """Names of all objects of a home."""
    return sorted(key.removeprefix(bucket._key("")) for key in objects._connect(False).find(bucket._key("")))


def refusal(code: str, message: str) -> Exception:
    """Answer of S3 as s3fs raises it."""
    kinds = {"NoSuchKey": FileNotFoundError, "AccessDenied": PermissionError}
    error = kinds.get(code, OSError)(message)
    error.response = {"Error": {"Code": code, "Message": message}}
    return error


class Memory:
    """Store as S3 promises it, with the methods of s3fs that the platform calls."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, datetime]] = {}

    def call_s3(self, method: str, Bucket: str, Key: str = "") -> dict | None:  # noqa: N803
        if method != "head_object":
            return None
        if (key := f"{Bucket}/{Key}") not in self._objects:
            raise FileNotFoundError(key)
        content, at = self._objects[key]
        return {"ContentLength": len(content), "ETag": self._tag(content), "LastModified": at}

    def pipe_file(self, key: str, content: bytes, IfMatch: str = "", IfNoneMatch: str = "") -> None:  # noqa: N803
        stored = self._objects.get(key)
        if (IfNoneMatch and stored) or (IfMatch and stored and self._tag(stored[0]) != IfMatch):
            raise refusal("PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        if IfMatch and not stored:
            raise refusal("NoSuchKey", "The specified key does not exist.")
        self._objects[key] = content, datetime.now(UTC)

    def put_file(self, file: str, key: str, **_: int) -> None:
        self.pipe_file(key, Path(file).read_bytes())

    def get_file(self, key: str, file: str, **_: int) -> None:
        Path(file).write_bytes(self.cat_file(key))

    def cat_file(self, key: str) -> bytes:
        return self._objects[key][0]

    def cat(self, keys: list[str], on_error: str) -> dict[str, bytes]:
        return {key: self._objects[key][0] for key in keys}

    def find(self, folder: str, detail: bool = False) -> Any:
        found = {
            key: {"LastModified": at}
            for key, (_, at) in self._objects.items()
            if key.startswith(f"{folder.rstrip('/')}/")
        }
        return found if detail else sorted(found)

    def open(self, key: str, block_size: int) -> BytesIO:
        return BytesIO(self.cat_file(key))

    def rm_file(self, key: str) -> None:
        del self._objects[key]

    @staticmethod
    def _tag(content: bytes) -> str:
        return f'"{hashlib.md5(content).hexdigest()}"'


class Calls:
    """Connection that something happens to at the k-th moment: before or after one of its calls."""

    def __init__(self, real: Any, number: int, happens: Callable[[], None]) -> None:
        self._real, self._number, self._happens, self._count = real, number, happens, itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)

        def called(*args: Any, **given: Any) -> Any:
            if next(self._count) == self._number:
                self._happens()
            answer = real(*args, **given)
            if next(self._count) == self._number:
                self._happens()
            return answer

        return called if callable(real) else real


@contextmanager
def at_call(number: int, happens: Callable[[], None]) -> Iterator[None]:
    """Let something happen at the k-th moment: before or after a call of the store."""
    calls = Calls(objects._connect(False), number, happens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_connect", lambda at_once: calls)
        yield
