"""Registered models of a scale in MLflow: their versions, and the champion among them.

Serving looks at the alias `champion` alone, which moves in one operation of the store. Tags of the versions explain it
and are written before the alias moves: if the process is killed in between, the former champion stays, and the next
decision is made again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_assets.files import sha256_of_all, temporary_folder
from ms_assets.tracking import active, local_path

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

ALIAS = "champion"
CONTENT = "content"
"""Tag: SHA-256 over the model's files."""
ORDER = "champion_order"
"""Tag: position in the sequence of champions; a counter, because clocks can be set back."""
SINCE = "champion_since"
"""Tag: time when the version became champion, for people to read."""
ROLLED_BACK = "rolled_back"
"""Tag: time when a person took the alias away; no decision gives it back to the version, only a person can."""
DECISION = "decision"
"""Tag: result of the version's comparison with the champion, as JSON."""
MODEL = "models:/"
DATA = "artifacts"
"""Folder of a model's data files, by MLflow's layout."""


class ChampionError(LookupError):
    """A version does not exist, or cannot become champion."""


@dataclass(frozen=True)
class Candidate:
    """Model to register."""

    data: list[Path]
    """Data files that the model reads."""
    code: Path
    """Module that MLflow runs to load the model: readable code instead of a pickle."""
    signature: "ModelSignature"
    example: "pd.DataFrame"
    requirements: list[str]
    run_id: str | None
    """MLflow run of the training, if the store has it."""
    metrics: dict[str, float]
    inputs: dict[str, str]
    """Data version of each asset that the model was trained on, by asset key."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    number: int
    model_id: str
    """Id of MLflow's logged model."""
    run_id: str | None
    registered: datetime
    tags: dict[str, str]

    @property
    def order(self) -> int:
        """Position in the sequence of champions, from 1; 0 if the version never was champion."""
        return int(self.tags.get(ORDER, 0))

    @property
    def decision(self) -> dict[str, Any] | None:
        """Result of the last comparison with the champion; None if there was none."""
        return json.loads(self.tags[DECISION]) if DECISION in self.tags else None


@dataclass(frozen=True)
class Registry:
    """All versions of one registered model."""

    name: str
    tracking_uri: str

    @property
    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(self.tracking_uri, self.tracking_uri)

    def versions(self) -> list[Version]:
        """All versions, the oldest first."""
        found = self._client.search_model_versions(f"name = '{self.name}'")
        return sorted(
            (
                Version(
                    number=int(version.version),
                    # The database keeps the model's id in the source alone.
                    model_id=str(version.source).removeprefix(MODEL),
                    run_id=version.run_id or None,
                    registered=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
                    tags=dict(version.tags),
                )
                for version in found
            ),
            key=lambda version: version.number,
        )

    def version(self, number: int) -> Version:
        """Find a version by its number.

        Raises:
            ChampionError: there is no version of this number.
        """
        versions = {version.number: version for version in self.versions()}
        if number not in versions:
            there = ", ".join(map(str, versions)) or "none yet, materialise reranking/served_model first"
            raise ChampionError(f"{self.name} has no version {number}; registered versions: {there}")
        return versions[number]

    def champion(self) -> Version | None:
        """Version that the alias names; None if there is none."""
        models = self._client.search_registered_models(f"name = '{self.name}'")
        number = models[0].aliases.get(ALIAS) if models else None
        return self.version(int(number)) if number else None

    def former(self) -> Version | None:
        """Previous champion, to which a rollback returns; versions that were rolled back are skipped."""
        champion = self.champion()
        if champion is None:
            return None
        before = [
            version
            for version in self.versions()
            # A champion whose alias was set by hand has no order, and comes after all others.
            if version.number != champion.number
            and 0 < version.order < (champion.order or version.order + 1)
            and ROLLED_BACK not in version.tags
        ]
        return max(before, key=lambda version: version.order, default=None)

    def location(self, version: Version) -> str:
        """Address of the version's files: a path if they are local."""
        address = self._client.get_model_version_download_uri(self.name, str(version.number))
        return str(local_path(address) or address)

    @contextmanager
    def files(self, version: Version) -> Iterator[Path]:
        """Local folder with the version's files: their place in the store, or a copy that lasts as long as the context.

        Raises:
            FileNotFoundError: the store no longer has the files.
        """
        from mlflow.artifacts import download_artifacts

        location = self.location(version)
        if (folder := local_path(location)) is not None:
            if not folder.is_dir():
                raise FileNotFoundError(f"the files of {self.name} version {version.number} are gone: {folder}")
            yield folder
            return
        with temporary_folder() as copy:
            yield Path(download_artifacts(artifact_uri=location, dst_path=str(copy), tracking_uri=self.tracking_uri))

    def intact(self, version: Version) -> bool:
        """Check that the version's files exist and are those that were registered.

        Raises:
            OSError: they cannot be read for another reason, which tells nothing about their content.
        """
        try:
            with self.files(version) as folder:
                code = (file for file in folder.iterdir() if file.suffix == ".py")
                return sha256_of_all([*code, *(folder / DATA).iterdir()]) == version.tags.get(CONTENT)
        except FileNotFoundError:
            return False

    def register(self, candidate: Candidate) -> tuple[Version, bool]:
        """Register a candidate, unless a version has equal content; returns the version and whether it is new.

        A version counts only if its files are whole: what a killed process began is never seen, and what was damaged
        is registered again.
        """
        wanted = sha256_of_all([candidate.code, *candidate.data])
        for version in reversed(self.versions()):
            if version.tags.get(CONTENT) == wanted and self.intact(version):
                return version, False
        client, model_id = self._client, self._log(candidate)
        if not client.search_registered_models(f"name = '{self.name}'"):
            client.create_registered_model(self.name)
        made = client.create_model_version(
            self.name,
            f"{MODEL}{model_id}",
            candidate.run_id,
            # Set in the operation that creates the version, so that no version is ever without them.
            tags={CONTENT: wanted, "inputs": json.dumps(candidate.inputs)},
            model_id=model_id,
        )
        return self.version(int(made.version)), True

    def _log(self, candidate: Candidate) -> str:
        import mlflow
        from mlflow.entities import LoggedModelOutput

        model = mlflow.initialize_logged_model(self.name, candidate.run_id)
        mlflow.pyfunc.log_model(
            name=self.name,
            model_id=model.model_id,
            python_model=str(candidate.code),
            artifacts={file.stem: str(file) for file in candidate.data},
            signature=candidate.signature,
            input_example=candidate.example,
            pip_requirements=candidate.requirements,
            metadata={"inputs": candidate.inputs, "metrics": candidate.metrics},
        )
        if candidate.run_id:
            self._client.log_outputs(candidate.run_id, [LoggedModelOutput(model.model_id, step=0)])
            mlflow.log_metrics(candidate.metrics, run_id=candidate.run_id, model_id=model.model_id)
        return model.model_id

    def log_metrics(self, version: Version, metrics: dict[str, float]) -> None:
        """Log metrics with the version, if the store has the run of its training and nobody deleted it."""
        import mlflow

        if active(version.run_id):
            mlflow.log_metrics(metrics, run_id=version.run_id, model_id=version.model_id)

    def note(self, version: Version, decision: dict[str, Any]) -> None:
        """Store the result of the comparison with the champion."""
        self._tag(version, DECISION, json.dumps(decision))

    def promote(self, version: Version, decision: dict[str, Any]) -> None:
        """Make a version the champion, and store the decision with it.

        Raises:
            ChampionError: the version's files are gone or damaged.
        """
        self._refuse_damaged(version)
        self.note(version, decision)
        self._tag(version, ORDER, str(1 + max(other.order for other in self.versions())))
        self._tag(version, SINCE, _now())
        if ROLLED_BACK in version.tags:
            self._client.delete_model_version_tag(self.name, str(version.number), ROLLED_BACK)
        self._client.set_registered_model_alias(self.name, ALIAS, str(version.number))

    def return_to(self, former: Version, decision: dict[str, Any]) -> None:
        """Give the alias back to a former champion, and mark the present one so that no decision promotes it again.

        Raises:
            ChampionError: the files of the former champion are gone or damaged.
        """
        self._refuse_damaged(former)
        champion = self.champion()
        self.note(former, decision)
        if champion:
            self._tag(champion, ROLLED_BACK, _now())
        self._client.set_registered_model_alias(self.name, ALIAS, str(former.number))

    def _refuse_damaged(self, version: Version) -> None:
        if not self.intact(version):
            raise ChampionError(
                f"the files of {self.name} version {version.number} are gone or not those that were registered, so it "
                "cannot be served; nothing was changed. Promote another version"
            )

    def _tag(self, version: Version, name: str, value: str) -> None:
        self._client.set_model_version_tag(self.name, str(version.number), name, value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
