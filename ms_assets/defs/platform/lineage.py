"""Lineage of artefacts: beside each lies a record of its version, its inputs, and the origins of these.

A record is JSON, `<room>/<asset>/<scale>.origin.json`. It travels with its artefact when a home is copied or renamed,
and nothing that is decided here depends on Dagster's event log, which people may share, clear or lose.

A version is the SHA-256 of an artefact's content, so that an artefact made again with equal content makes nothing
after it stale; for a source file that is only linked, it is the source's `SourceFile.content` (`raw/source.py`).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from socket import gethostname
from typing import Any, Self

import dagster as dg

from ms_assets.defs.platform.locks import FileLocks
from ms_assets.files import DamagedFileError, published, reading, sha256, size_of

INPUTS, ORIGINS, MLFLOW_RUN = "inputs", "origins", "mlflow_run"
"""Metadata of a materialisation: its inputs; the versions of these and of all artefacts before them; and the page of
the training behind it, if there is one."""
MADE_TOGETHER = "made_together"
"""Metadata of the outputs of one step that only make sense together: their common identity by name, an origin too."""
SECONDS = "step_seconds"
"""Metadata: seconds from the start of the step until the artefact was written."""
RECORD = ".origin.json"
KEPT = 3
LONGEST_VALUE = 2_000
"""Characters of a metadata value that a record keeps; longer ones, such as pictures, are Dagster's alone."""


class OtherHomeError(RuntimeError):
    """The home of a step is not the one of its run; the message names the machine and the next step."""


class InconsistentInputsError(ValueError):
    """Inputs of an asset that were made from two versions of one artefact, or that failed a blocking check."""


@dataclass(frozen=True)
class Made:
    """Materialisation of an asset for a scale, as its record states it."""

    version: str
    name: str
    """Name of the artefact's file or folder."""
    size: int
    """Bytes of the file, or of all files of a folder."""
    modified: int
    """Time of the file's last change, ns since 1970."""
    run_id: str
    at: str
    """Time of the materialisation, ISO 8601 in UTC."""
    inputs: Mapping[str, Mapping[str, str]]
    """Version, run and time of each input, by key."""
    origins: Mapping[str, str]
    """Version of everything that the artefact was made from, directly or not, by key."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Metadata of the materialisation as plain values, long ones left out."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Blocking checks that the artefact failed, with their descriptions."""
    place: str = ""
    """Folder of its files in the bucket of a shared home; empty in others, and for a source that is linked."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the files in that folder, by name."""

    @classmethod
    def of(cls, path: Path, inputs: Mapping[str, Self], scale: str, metadata: Mapping[str, Any], **told: Any) -> Self:
        """Describe a file that is about to be published, or a link by what it points to.

        Raises:
            InconsistentInputsError: the inputs do not belong together.
        """
        named = {key: {"data_version": i.version, "run_id": i.run_id, "at": i.at} for key, i in inputs.items()}
        known = _plain(metadata)
        return cls(
            size=size_of(path), modified=path.stat().st_mtime_ns, at=datetime.now(UTC).isoformat(), inputs=named,
            origins=origins_of(inputs, scale) | known.get(MADE_TOGETHER, {}),
            metadata={**trainings_behind(inputs), **known}, **told,
        )  # fmt: skip

    def with_outcome(self, check: str, problem: str | None) -> Self:
        """Add a blocking check that the artefact failed, or, with None, that it passed."""
        failed = {name: text for name, text in self.failed.items() if name != check}
        return replace(self, failed=failed if problem is None else {**failed, check: problem})

    def describes(self, path: Path) -> bool:
        """Tell whether a file is the published one: by size and time, or by content where a copy has another time."""
        if path.is_dir():
            return sha256(path) == self.version
        now = size_of(path), path.stat().st_mtime_ns
        return now == (self.size, self.modified) or _hashed(path, *now) == self.version


@cache
def _hashed(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file as of a size and time, computed once a process: each input of each step asks for it."""
    return sha256(path)


@dataclass(frozen=True)
class Lineage:
    """Records of all artefacts below a folder."""

    base: Path

    def artefacts(self) -> Iterator[tuple[dg.AssetKey, str]]:
        """Assets with the scales that they have a record for, in the order of their names."""
        for record in sorted(self.base.glob(f"*/*/*{RECORD}")):
            yield dg.AssetKey([*record.relative_to(self.base).parent.parts]), record.name.removesuffix(RECORD)

    def history(self, key: dg.AssetKey, scale: str) -> list[Made]:
        """Materialisations of an asset, the stored one first, then up to two before it; empty if none is stored.

        Raises:
            DamagedFileError: the stored file is not the one that was published, or its record cannot be read.
        """
        made = self.recorded(key, scale)
        path = self.file(key, made[0]) if made else None
        if path is None or not path.exists():
            return []
        for number, each in enumerate(made):
            if each.describes(path):
                return made[number:]
        what = f"its source {path.resolve()}" if path.is_symlink() else "the file"
        raise DamagedFileError(
            f"{path}: {what} has changed since {key.to_user_string()} was materialised for {scale} "
            f"({path.stat().st_size:,} bytes found, {made[0].size:,} recorded); materialise it again"
        )

    def inputs(self, keys: Iterable[dg.AssetKey], scale: str, checked: Iterable[dg.AssetKey] = ()) -> dict[str, Made]:
        """Stored materialisations of some assets by key, which were all made from one version of everything before.

        checked: assets that may have failed a blocking check, because they are being checked now.

        Raises:
            InconsistentInputsError: they contradict each other, or one failed a blocking check; names them.
            DamagedFileError: a stored file is not the one that was published.
        """
        found = {key: history[0] for key in keys if (history := self.history(key, scale))}
        for key, made in found.items():
            if made.failed and key not in checked:
                said = "; ".join(f"{check}: {text}" for check, text in made.failed.items())
                raise InconsistentInputsError(
                    f"{key.to_user_string()} of {scale} failed a blocking check ({said}); mend its cause and "
                    "materialise it again"
                )
        inputs = {key.to_user_string(): made for key, made in sorted(found.items())}
        origins_of(inputs, scale)
        return inputs

    def together(self, keys: Sequence[dg.AssetKey], scale: str) -> dict[str, Made]:
        """Stored materialisations of some assets, which are all there and do not contradict each other, by key.

        Raises:
            FileNotFoundError: some were never materialised; names them.
            InconsistentInputsError, DamagedFileError: as `inputs`.
        """
        found = self.inputs(keys, scale)
        if missing := [name for key in keys if (name := key.to_user_string()) not in found]:
            raise FileNotFoundError(f"materialise {', '.join(missing)} for {scale} first")
        return found

    def begin(self, scale: str) -> None:
        """Prepare a run of a scale, which has its lock: nothing to do where nobody else writes."""

    def join(self, scale: str, run_id: str) -> None:
        """Check that a step, which may be on another machine than its run, has the home of that run.

        Raises:
            OtherHomeError: another folder lies in its place.
        """
        home = self.base.parent
        if not FileLocks(home).knows(run_id):
            raise OtherHomeError(
                f"MS_ASSETS_HOME: found {home} on {gethostname()}, where run {run_id} has not begun; let all machines "
                "of the cluster share the folder under this path, or a bucket"
            )

    def refresh(self, scale: str) -> None:
        """Take over what other machines have published: nothing where nobody else writes."""

    def fetch(self, key: dg.AssetKey, scale: str, link: Callable[[Made, Path], None] | None = None) -> None:
        """Bring a stored artefact here, where it is not: nothing to do where all are."""

    def publish(self, key: dg.AssetKey, scale: str, made: Made, written: Path) -> None:
        """Publish a materialisation, which is written and about to take its place."""
        self.note(key, scale, made)

    def note(self, key: dg.AssetKey, scale: str, made: Made) -> None:
        """Record a materialisation whose file is about to take its place; the one before stays on record."""
        before: list[Made] = []
        with suppress(DamagedFileError):
            before = self.recorded(key, scale)
            before = self.history(key, scale)
        self._write(key, scale, [made, *before][:KEPT])

    def note_check(self, key: dg.AssetKey, scale: str, check: str, problem: str | None) -> None:
        """Record that the stored artefact failed a blocking check, or, with None, that it passed."""
        made = self.history(key, scale)
        if made and (now := made[0].with_outcome(check, problem)) != made[0]:
            self._write(key, scale, [now, *made[1:]])

    def address(self, key: dg.AssetKey, scale: str, path: Path) -> str:
        """Address at which programs on other machines find a stored artefact, whose path here is given."""
        return path.as_uri()

    def given(self, folder: str, scale: str) -> Path:
        """Folder with the files of a scale that people have put into a folder of the home."""
        return self.base.parent / folder

    def file(self, key: dg.AssetKey, made: Made) -> Path:
        """Place of a stored artefact."""
        return Path(self.base, *key.path, made.name)

    def _record(self, key: dg.AssetKey, scale: str) -> Path:
        return Path(self.base, *key.path, f"{scale}{RECORD}")

    def recorded(self, key: dg.AssetKey, scale: str) -> list[Made]:
        """Materialisations as they are on record, whatever the files are now; see `history`.

        Raises:
            DamagedFileError: the record cannot be read.
        """
        record = self._record(key, scale)
        if not record.exists():
            return []
        with reading(record, f"materialise {key.to_user_string()} for {scale} again"):
            return [Made(**each) for each in json.loads(record.read_text())]

    def _write(self, key: dg.AssetKey, scale: str, made: list[Made]) -> None:
        with published(self._record(key, scale)) as unfinished:
            unfinished.write_text(as_json(made))


def as_json(made: Sequence[Made]) -> str:
    """Record of materialisations as it is stored."""
    return json.dumps([asdict(each) for each in made], indent=1)


_of_runs: dict[str, Lineage] = {}
"""Records of the runs that this process executes, by run id."""


@contextmanager
def opened(records: Lineage, run_id: str) -> Iterator[bool]:
    """Let `of_run` find the records of a run's artefacts until the end of the block; yields whether it could before."""
    before = _of_runs.get(run_id)
    _of_runs[run_id] = records
    try:
        yield before is not None
    finally:
        if before is None:
            del _of_runs[run_id]


def of_run(run_id: str) -> Lineage:
    """Records of the artefacts of a run that this process executes: Dagster gives checks no resource unasked."""
    return _of_runs[run_id]


def origins_of(inputs: Mapping[str, Made], scale: str) -> dict[str, str]:
    """Versions of some inputs and of everything behind them, by key.

    Raises:
        InconsistentInputsError: two inputs were made from two versions of the same artefact.
    """
    origins, through = dict[str, str](), dict[str, str]()
    for key, made in inputs.items():
        for origin, version in {**made.origins, key: made.version}.items():
            if origins.setdefault(origin, version) != version:
                older, newer = sorted((key, through[origin]), key=lambda name: (name == origin, inputs[name].at))
                raise InconsistentInputsError(
                    f"{older} and {newer} of {scale} do not belong together: they come from two versions of {origin}; "
                    f"materialise {older} again, with what lies between it and {origin}, or run the job pipeline"
                )
            through.setdefault(origin, key)
    return origins


def identity(*parts: Any) -> str:
    """SHA-256 of some values that JSON knows."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def trainings_behind(inputs: Mapping[str, Made]) -> dict[str, str]:
    """Metadata that names the MLflow pages of the trainings behind some inputs."""
    pages = {page for made in inputs.values() for page in str(made.metadata.get(MLFLOW_RUN, "")).split()}
    return {MLFLOW_RUN: " ".join(sorted(pages))} if pages else {}


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as values that JSON knows, without long ones."""
    values = {name: getattr(value, "value", value) for name, value in metadata.items()}
    return {name: value for name, value in values.items() if _is_short(value)}


def _is_short(value: Any) -> bool:
    return isinstance(value, str | int | float | dict | list | None) and len(str(value)) <= LONGEST_VALUE
