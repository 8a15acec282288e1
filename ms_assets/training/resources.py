"""Where hyper-parameter studies are kept between runs."""

from pathlib import Path

import dagster as dg


class StudyStorage(dg.ConfigurableResource):
    """Optuna's trials, an SQLite file per scale, which several processes may share."""

    folder: str

    def url(self, scale: str) -> str:
        """Where Optuna and its dashboard find the studies of a scale."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder / scale}.db"
