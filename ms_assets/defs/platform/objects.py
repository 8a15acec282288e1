"""Objects of a bucket on S3 or what speaks its protocol, by s3fs (the extra `s3`): files of artefacts, and records.

Files lie under a key that no other publication has, and are verified. A record is one object, put only over the one
that was read before, which takes a store that knows conditional puts: AWS since 2024, MinIO, Ceph, R2.
"""

import hashlib
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from ms_assets.defs.platform.extras import missing
from ms_assets.files import sha256
from ms_assets.tracking import AT_ONCE

logger = logging.getLogger(__name__)

KIND = "s3://"
PART = 16 << 20
"""Bytes of a part of a file that is sent or fetched in several."""
PARTS = 10_000
"""Largest number of parts of an object."""
AT_A_TIME = 4
"""Parts that are under way at a time; each is held in memory."""
GRACE = timedelta(days=1)
"""Age from which objects of no publication count as left by a killed process, and not as an upload under way."""
MARK = "ms_assets.home"
"""Object at the top of a home, which tells that it can be written."""
CHANGED = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey"}
"""Codes of S3's answers to a put over an object that is no longer the one that was read."""


class BucketError(RuntimeError):
    """The bucket cannot be used as it is; the message names the setting and the next step."""


@dataclass(frozen=True)
class Bucket:
    """Folder of a bucket; names of objects are relative to it."""

    address: str
    """`s3://bucket/prefix`."""

    def check(self, at_once: bool = False) -> None:
        """Check that objects can be written here, and that a put on a condition is refused where that does not hold.

        at_once: a store that does not answer within some AT_ONCE seconds is not asked again.

        Raises:
            BucketError: they cannot, or it is not; or the store does not answer.
        """
        with self._asking(at_once) as store:
            is_new = _put_if(store, self._key(MARK), b"", None)
            if is_new and _put_if(store, self._key(MARK), b"", None):
                raise BucketError(
                    f"MS_ASSETS_HOME: found {self.address}, a store that puts an object whatever the condition "
                    "(If-None-Match), so that two writers could lose an artefact; use one that knows conditional puts"
                )

    def records(self, scale: str) -> dict[str, bytes]:
        """Records of a scale by name, as `record` takes it."""
        with self._asking() as store:
            keys = store.find(self._key(f"records/{scale}"))
            found = store.cat(keys, on_error="omit") if keys else {}
        return {key.removeprefix(self._key("records/")): content for key, content in found.items()}

    def record(self, name: str) -> tuple[bytes, str | None]:
        """Content of a record, and the tag by which `put_record` knows it; nothing and None if there is none."""
        key = self._key(f"records/{name}")
        with self._asking() as store:
            # The tag first: with a content that is newer than its tag, a put is refused.
            head = _head(store, key)
            return (store.cat_file(key), head["ETag"]) if head else (b"", None)

    def put_record(self, name: str, content: bytes, tag: str | None) -> bool:
        """Put a record, unless the stored one is another than the one with this tag; tells whether it did."""
        with self._asking() as store:
            return _put_if(store, self._key(f"records/{name}"), content, tag)

    def upload(self, path: Path, place: str, name: str) -> dict[str, str]:
        """Upload a file, or all files of a folder, under this name; what is there already is not sent again.

        Returns: SHA-256 of each file by its name below the place.

        Raises:
            BucketError: the bucket cannot be used, or holds other bytes than were sent.
        """
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = {f"{name}{str(file).removeprefix(str(path))}": file for file in inside if file.is_file()}
        for below, file in files.items():
            self._send(file, self._key(f"{place}/{below}"))
        return {below: sha256(file) for below, file in files.items()}

    def _send(self, file: Path, key: str) -> None:
        with self._asking() as store:
            if _holds(store, key, file):
                return
            store.put_file(str(file), key, chunksize=_part(file), max_concurrency=AT_A_TIME)
            if not _holds(store, key, file):
                raise BucketError(
                    f"{KIND}{key}: found other bytes than were sent; nothing was published, run the same again"
                )

    def download(self, files: Mapping[str, str], place: str, name: str, path: Path) -> None:
        """Download what was uploaded under a name to a path that does not exist.

        Raises:
            FileNotFoundError: a file is gone.
            BucketError: the bucket cannot be used, or a file is not the one that was uploaded.
        """
        for below, content in files.items():
            key, file = self._key(f"{place}/{below}"), Path(f"{path}{below.removeprefix(name)}")
            file.parent.mkdir(parents=True, exist_ok=True)
            with self._asking() as store:
                if _head(store, key) is None:
                    raise FileNotFoundError(key)
                store.get_file(key, str(file), chunksize=PART, max_concurrency=AT_A_TIME)
            if sha256(file) != content:
                raise BucketError(f"{KIND}{key}: found other bytes than were published; materialise it again")

    def copy(self, folder: str, ending: str, to: Path) -> None:
        """Copy the objects below a folder whose names end so to a new folder, by their names there."""
        to.mkdir()
        with self._asking() as store:
            for key in store.find(self._key(folder)):
                if key.endswith(ending):
                    file = to / key.removeprefix(self._key(f"{folder}/"))
                    file.parent.mkdir(parents=True, exist_ok=True)
                    store.get_file(key, str(file), chunksize=PART, max_concurrency=AT_A_TIME)

    def tidy(self, folder: str, kept: Collection[str]) -> None:
        """Remove files of publications below a folder, except some, that are older than GRACE by the store's clock."""
        with self._asking() as store:
            found = store.find(self._key(folder), detail=True)
            newest = max((each["LastModified"] for each in found.values()), default=None)
            for key, each in found.items():
                is_kept = any(key.startswith(self._key(f"{place}/")) for place in kept)
                if not is_kept and newest - each["LastModified"] >= GRACE:
                    store.rm_file(key)

    def _key(self, name: str) -> str:
        return f"{self.address.removeprefix(KIND)}/{name}"

    @contextmanager
    def _asking(self, at_once: bool = False) -> Iterator[Any]:
        """Connection to the store, whose errors, of many libraries, name the setting and the next step."""
        installed(self.address)
        try:
            yield _connect(at_once)
        except (BucketError, FileNotFoundError) as error:
            if isinstance(error, BucketError) or _code(error) != "NoSuchBucket":
                raise
            raise self._unusable(error) from error
        except Exception as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> BucketError:
        reason = f"{_code(error) or type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return BucketError(
            f"MS_ASSETS_HOME: found {self.address}, a bucket that cannot be used ({reason}); create it, allow these "
            "credentials to list, read, write and delete there, or correct the variable or AWS_ENDPOINT_URL"
        )


def installed(address: str) -> None:
    """Check that the extra `s3` is installed, which a bucket needs.

    Raises:
        BucketError: it is not.
    """
    try:
        import s3fs  # noqa: F401
    except ModuleNotFoundError as error:
        raise BucketError(missing(f"MS_ASSETS_HOME: found {address}", "s3", error)) from error


@lru_cache
def _connect(at_once: bool) -> Any:
    """File system of this process; credentials, region and endpoint are found as the AWS tools find them.

    at_once: a store that does not answer is not asked again.
    """
    import s3fs

    waits = {"connect_timeout": AT_ONCE, "read_timeout": AT_ONCE, "retries": {"max_attempts": 0}} if at_once else {}
    store = s3fs.S3FileSystem(
        config_kwargs=waits, max_concurrency=1, use_listings_cache=False, skip_instance_cache=True
    )
    if at_once:
        store.retries = 1
    return store


def _head(store: Any, key: str) -> Any:
    """Size, tag and time of an object; None if there is none."""
    bucket, _, name = key.partition("/")
    try:
        return store.call_s3("head_object", Bucket=bucket, Key=name)
    except FileNotFoundError:
        return None


def _put_if(store: Any, key: str, content: bytes, tag: str | None) -> bool:
    """Put an object over the one with this tag, or, with None, over none; tells whether it did."""
    try:
        store.pipe_file(key, content, **({"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}))
    except OSError as error:
        if _code(error) not in CHANGED:
            raise
        return False
    return True


def _code(error: BaseException) -> str:
    """Code of S3's answer behind an error; empty if there is none."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _holds(store: Any, key: str, file: Path) -> bool:
    """Tell whether an object has a file's content: by the tag that S3 makes of MD5, or else by reading it back."""
    head = _head(store, key)
    if head is None or head["ContentLength"] != file.stat().st_size:
        return False
    if head["ETag"].strip('"') == _tag(file):
        return True
    with store.open(key, block_size=PART) as stored:
        return hashlib.file_digest(stored, "sha256").hexdigest() == sha256(file)


def _part(file: Path) -> int:
    return max(PART, math.ceil(file.stat().st_size / PARTS))


def _tag(file: Path) -> str:
    """Tag of an object that has a file's content, unless the store encrypts it with a key of its owner."""
    part, digests = _part(file), list[bytes]()
    with file.open("rb") as content:
        while read := content.read(part):
            digests.append(hashlib.md5(read, usedforsecurity=False).digest())
    if file.stat().st_size < 2 * part:  # s3fs sends it whole
        with file.open("rb") as content:
            return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"
