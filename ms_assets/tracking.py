"""Logging to the open MLflow run of a training."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


@dataclass(frozen=True)
class MLflowRun:
    """Open MLflow run, to which a training logs."""

    run_id: str
    url: str

    @contextmanager
    def child(self, name: str) -> Iterator["MLflowRun"]:
        """Open a nested run, such as a trial of a study."""
        import mlflow

        with mlflow.start_run(run_name=name, nested=True) as run:
            yield MLflowRun(run.info.run_id, self.url.replace(self.run_id, run.info.run_id))

    def log_settings(self, settings: dict[str, Any]) -> None:
        """Record the settings as parameters."""
        import mlflow

        mlflow.log_params(settings)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Add a point to each metric's series."""
        import mlflow

        mlflow.log_metrics(metrics, step=step)

    def log_summary(self, numbers: dict[str, float]) -> None:
        """Record single numbers, which have no series."""
        import mlflow

        mlflow.log_metrics(numbers)

    def log_picture(self, image: bytes, name: str) -> None:
        """Store a PNG among the run's artefacts."""
        import mlflow

        with TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(image)
            mlflow.log_artifact(str(Path(folder) / name))
