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
        folder = Path(self.location).expanduser()
        if folder.is_dir():
            if not (folder / file).is_file():
                raise SourceError(f"{folder / file}: no such file; expected {table.name} in the hub's layout")
            return SourceFile((folder / file).absolute(), str(folder.absolute()), "local folder", layout)
        if self.location.count("/") != 1 or self.location.startswith((".", "~", "/")):
            raise SourceError(
                f"MS_ASSETS_SOURCE: found {self.location!r}, which is no folder here; "
                "expected a folder in the hub's layout or a dataset id such as yandex/yambda"
            )
        from ms_assets.raw import hub

        commit = self._pinned_commit()
        path = hub.download(self.location, commit, file, Path(self.source_home) / "verified")
        return SourceFile(path, self.location, commit, layout)

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

        pin = Path(self.source_home) / "revisions" / quote(f"{self.location}@{self.revision}", safe="@")
        if not pin.exists():
            commit = hub.resolve_revision(self.location, self.revision)
            with published(pin) as unfinished:
                unfinished.write_text(commit)
        return pin.read_text()
