"""Lineage of a home in a bucket, which several machines share: the home of each is a cache of what is published there.

An artefact is published by the put of its record, once its files are in the bucket and verified. A machine takes over
the records of a scale when a run begins there, so that a run reads one state of the home from beginning to end, and
downloads an artefact when it is first read. What is killed in between is never seen, and is removed a day later.
"""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import dagster as dg

from ms_assets.defs.platform.lineage import KEPT, Lineage, Made, as_json
from ms_assets.defs.platform.objects import Bucket, BucketError
from ms_assets.files import DamagedFileError, alone, published, remove

logger = logging.getLogger(__name__)
PLACES = 2
"""Publications of an artefact whose files stay: the one on record, and the one before, which a run may be reading."""


@dataclass(frozen=True)
class SharedLineage(Lineage):
    """Records of all artefacts in a bucket, and those of them that were taken over by this machine."""

    bucket: Bucket

    def begin(self, scale: str) -> None:
        """Check that the bucket can be written, and take over the records of a scale.

        Raises:
            BucketError: it cannot be used.
        """
        self.bucket.check(at_once=True)
        self.refresh(scale)

    def join(self, scale: str, run_id: str) -> None:
        """Take over the records of a scale for a step: what was there when its run began, and what the run has made.

        Other steps of the run may be under way here: what they publish is no input of this one.

        Raises:
            BucketError: the bucket cannot be used from this machine.
        """
        self.bucket.check()
        self.refresh(scale)

    def refresh(self, scale: str) -> None:
        """Take over the records of a scale as they are now; no other run of the scale may be under way here."""
        before = [*self.artefacts()]  # or what a step publishes here while the bucket is asked would be lost
        found = self.bucket.records(scale)
        for key, of in before:
            if of == scale and _name(key, scale) not in found:
                with suppress(DamagedFileError):
                    remove(self.file(key, self.recorded(key, scale)[0]))
                remove(self._record(key, scale))
        for name, content in found.items():
            key = dg.AssetKey(name.removeprefix(f"{scale}/").removesuffix(".json").split("/"))
            try:
                now, here = _parsed(content), self.recorded(key, scale)
            except (DamagedFileError, ValueError, TypeError):  # whoever reads it is told
                with published(self._record(key, scale)) as unfinished:
                    unfinished.write_bytes(content)
                continue
            if here and now and _is_same(here[0], now[0]):
                now[0] = replace(now[0], modified=here[0].modified)
            if now != here:
                self._write(key, scale, now)

    def history(self, key: dg.AssetKey, scale: str) -> list[Made]:
        """Materialisations of an asset, the published one first; its files are verified when they are fetched."""
        return self.recorded(key, scale)

    def fetch(self, key: dg.AssetKey, scale: str, link: Callable[[Made, Path], None] | None = None) -> None:
        """Download the artefact of the record that is here, unless it is here too; once for all steps that want it.

        link: makes the link to a source that is published by reference.

        Raises:
            BucketError: its files are gone, or the bucket cannot be used.
        """
        with alone(Path(self.base.parent, "locks", *key.path, scale)):
            made = self.recorded(key, scale)
            path = self.file(key, made[0]) if made else None
            if path is None or (path.exists() and made[0].describes(path)):
                return
            with published(path) as unfinished:
                if made[0].place:
                    self._download(key, scale, made[0], unfinished)
                elif link:
                    link(made[0], unfinished)
            self._write(key, scale, [replace(made[0], modified=path.stat().st_mtime_ns), *made[1:]])

    def _download(self, key: dg.AssetKey, scale: str, made: Made, path: Path) -> None:
        try:
            self.bucket.download(made.files, made.place, made.name, path)
        except FileNotFoundError as error:
            name = key.to_user_string()
            raise BucketError(
                f"{self.bucket.address}/{made.place}: files of {name} for {scale} are gone; run the same again if "
                f"{name} was materialised elsewhere meanwhile, otherwise materialise it"
            ) from error

    def publish(self, key: dg.AssetKey, scale: str, made: Made, written: Path) -> None:
        """Upload an artefact and put its record; materialisations that others have published meanwhile stay on it."""
        own = f"data/{key.to_user_string()}/{scale}/{quote(made.version, safe='')}.{uuid4().hex}"

        def on_top(stored: list[Made]) -> list[Made]:
            if stored and _is_same(stored[0], made):  # put by an attempt whose answer was lost
                return stored
            if self._is_reference(written):
                return [made, *stored][:KEPT]
            # Nobody removes the place of the record that this one is put over.
            is_equal = bool(stored) and stored[0].version == made.version and stored[0].place
            place = stored[0].place if is_equal else own
            files = self.bucket.upload(written, place, made.name)
            return [replace(made, place=place, files=files), *stored][:KEPT]

        now = self._update(key, scale, on_top)
        self._write(key, scale, now)
        places = dict.fromkeys(each.place for each in now if each.place)
        try:
            self.bucket.tidy(f"data/{key.to_user_string()}/{scale}", [*places][:PLACES])
        except BucketError as error:  # what is left is removed by the next one
            logger.warning("%s was published, but its former files stay: %s", key.to_user_string(), error)

    def address(self, key: dg.AssetKey, scale: str, path: Path) -> str:
        """Address of the published artefact in the bucket; of a reference, its path on this machine."""
        [made, *_] = self.recorded(key, scale)
        return f"{self.bucket.address}/{made.place}/{made.name}" if made.place else path.as_uri()

    def given(self, folder: str, scale: str) -> Path:
        """Folder with the files of a scale that people have put into a folder of the bucket, as they are now."""
        here = self.base.parent / folder / scale
        with published(here) as unfinished:
            self.bucket.copy(folder, f"/{scale}.parquet", unfinished)
        return here

    def _is_reference(self, written: Path) -> bool:
        home = self.base.parent.resolve()
        return written.is_symlink() and not written.resolve().is_relative_to(home)

    def note_check(self, key: dg.AssetKey, scale: str, check: str, problem: str | None) -> None:
        """Record the outcome of a blocking check, unless the artefact was published anew meanwhile."""
        here = self.recorded(key, scale)

        def with_outcome(stored: list[Made]) -> list[Made]:
            if not (here and stored and _is_same(here[0], stored[0])):
                return stored
            return [stored[0].with_outcome(check, problem), *stored[1:]]

        self._update(key, scale, with_outcome)
        super().note_check(key, scale, check, problem)

    def _update(self, key: dg.AssetKey, scale: str, change: Callable[[list[Made]], list[Made]]) -> list[Made]:
        """Replace the record in the bucket by what a function makes of it, as often as others were faster."""
        name = _name(key, scale)
        while True:
            content, tag = self.bucket.record(name)
            stored = list[Made]()
            with suppress(ValueError, TypeError):
                stored = _parsed(content)
            now = change(stored)
            if now == stored or self.bucket.put_record(name, as_json(now).encode(), tag):
                return now


def _name(key: dg.AssetKey, scale: str) -> str:
    return f"{scale}/{key.to_user_string()}.json"


def _parsed(content: bytes) -> list[Made]:
    return [Made(**each) for each in json.loads(content)]


def _is_same(one: Made, other: Made) -> bool:
    """Tell whether two are one materialisation; the time of the file is each machine's own."""
    return (one.version, one.run_id, one.at) == (other.version, other.run_id, other.at)
