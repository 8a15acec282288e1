"""Where Yambda's files come from: the hub, a folder, or, for the scale `sample`, the project's own generator."""

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import dagster as dg

from ms_assets.files import published
from ms_assets.raw import sample, schema
from ms_assets.raw.schema import SourceError, SourceTable
from ms_assets.resources import Environment


@dataclass(frozen=True)
class SourceFile:
    """A source file on this machine, and where it came from."""

    path: Path
    origin: str
    revision: str
    layout: str = "flat"


LAYOUTS = ("flat", "sequential")
HUB_RETRIES = dg.RetryPolicy(max_retries=3, delay=60, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""About one, three and seven minutes: a download has waited for minutes itself before it gives up."""


class YambdaSource(dg.ConfigurableResource):
    """One reader for three sources: each gives files in the hub's layout."""

    location: str
    revision: str
    layout: str = Environment.layout
    source_home: str
    """Folder of the generated sample, of the commit that each revision of a dataset is pinned to, and of notes
    about which downloads have been verified."""

    def fetch(self, table: SourceTable, scale: str) -> SourceFile:
        """The table's file at this scale, downloaded or generated when it is not here yet.

        Raises:
            SourceError: the folder or the file is missing.
            HubError: the hub cannot give the file.
        """
        if scale == "sample":
            folder, version = self._sample()
            return SourceFile(folder / table.file(scale), "generated", version)
        if self.layout not in LAYOUTS:
            raise SourceError(f"MS_ASSETS_LAYOUT: found {self.layout!r}, expected {' or '.join(LAYOUTS)}")
        layout = self.layout if table.of_interactions else "flat"
        file = table.file(scale, layout)
        if here := self._folder():
            if not (here / file).is_file():
                raise SourceError(f"{here / file}: no such file; expected {table.name} in the hub's layout")
            return SourceFile((here / file).absolute(), str(here.absolute()), "local folder", layout)
        from ms_assets.raw import hub

        commit = self._pinned_commit()
        path = hub.download(self.location, commit, file, Path(self.source_home) / "verified")
        return SourceFile(path, self.location, commit, layout)

    def fetch_for(self, context: dg.AssetExecutionContext, table: SourceTable) -> SourceFile:
        """The table's file for a step, which is tried again later if the hub is away; no other error would pass."""
        from ms_assets.raw.transfer import HubError

        try:
            return self.fetch(table, context.partition_key)
        except HubError as error:
            if not error.may_pass or context.retry_number == HUB_RETRIES.max_retries:
                raise
            wait = HUB_RETRIES.calculate_delay(context.retry_number + 1)
            raise dg.RetryRequested(HUB_RETRIES.max_retries, wait) from error

    def newest_commit(self) -> str:
        """The commit that the revision names today, which need not be the pinned one; asks once.

        Raises:
            SourceError: there are no newer commits: of a folder, or of a revision that is a commit itself.
            HubError: the hub does not tell.
        """
        if self._folder():
            raise SourceError(f"MS_ASSETS_SOURCE: {self.location} is a folder, which has no revisions")
        from ms_assets.raw import hub

        commit = hub.resolve_revision(self.location, self.revision, attempts=1)
        if commit == self.revision:
            raise SourceError(f"MS_ASSETS_REVISION: {commit} is a commit, which never changes")
        return commit

    def pin(self, commit: str) -> None:
        """Have later runs read this commit."""
        with published(self._pin()) as unfinished:
            unfinished.write_text(commit)

    def _folder(self) -> Path | None:
        folder = Path(self.location).expanduser()
        if folder.is_dir():
            return folder
        if self.location.count("/") != 1 or self.location.startswith((".", "~", "/")):
            raise SourceError(
                f"MS_ASSETS_SOURCE: found {self.location!r}, which is no folder here; "
                "expected a folder in the hub's layout or a dataset id such as yandex/yambda"
            )
        return None

    def _sample(self) -> tuple[Path, str]:
        # The generator's own source is its version: a changed generator never meets files of the former one.
        sources = "".join(inspect.getsource(module) for module in (sample, schema))
        version = hashlib.sha256(sources.encode()).hexdigest()[:12]
        folder = Path(self.source_home) / "sample" / version
        if not folder.is_dir():
            sample.generate(folder, sample.SampleShape())
        return folder, version

    def _pinned_commit(self) -> str:
        """The commit that the revision named when it was first used here: later runs read the same files."""
        from ms_assets.raw import hub

        if not self._pin().exists():
            self.pin(hub.resolve_revision(self.location, self.revision))
        commit = self._pin().read_text()
        if not hub.COMMIT.fullmatch(commit):
            raise SourceError(f"{self._pin()}: found {commit!r}, expected 40 hexadecimal digits; remove it to pin anew")
        return commit

    def _pin(self) -> Path:
        return Path(self.source_home) / "revisions" / quote(f"{self.location}@{self.revision}", safe="@")
