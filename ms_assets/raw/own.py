"""Imported data, the source of the scale `own`: a folder in Yambda's layout, with a report of what was imported."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ms_assets.files import reading
from ms_assets.raw.schema import SourceError
from ms_assets.streams import Relation

OWN = "own"
IMPORTED = "imported"
"""Origin of tables that were imported."""
REPORT = "report.json"
REQUEST, STATE = "request", "state"
"""Entries of the report: arguments of the import, and the state of the files that it read."""


def folder_in(home: Path) -> Path:
    """Folder of the import in a home."""
    return home / "source" / OWN


@dataclass(frozen=True)
class Import:
    """Import as its report describes it."""

    folder: Path
    report: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the report of the import in a folder.

        Raises:
            SourceError: nothing was imported.
        """
        if not (folder / REPORT).exists():
            raise SourceError(
                f"{folder}: no events were imported for the scale {OWN}; run `python -m ms_assets import EVENTS…` first"
            )
        with reading(folder / REPORT, "import the events again"):
            return cls(folder, json.loads((folder / REPORT).read_text()))

    @property
    def files(self) -> Mapping[str, str]:
        """SHA-256 of every file by its path in the folder."""
        return self.report["files"]

    @property
    def identity(self) -> str:
        """Identity of the whole import; equal for equal files."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()

    @property
    def revision(self) -> str:
        """Identity as it is shown."""
        return self.identity[:12]


def own_ids(numbers: NDArray[np.int64], ids: Relation | None) -> NDArray[Any]:
    """Ids of the imported data that numbers stand for, int64 or text; the numbers where there are none.

    ids: raw/user_ids or song_ids, whose numbers are dense; None if the table is missing.
    """
    if ids is None or not len(ids.limit(1)):
        return numbers
    number, own, *_ = ids.columns
    found = ids.order(number).project(f'"{own}"').to_arrow_table().column(0).to_numpy()[numbers]
    return found.astype(str) if found.dtype == object else found


def with_own_ids(table: Relation, ids: Relation) -> Relation:
    """Table with the ids of the imported data in place of their numbers; as it is where `ids` is empty.

    ids: raw/user_ids, song_ids, artist_ids or album_ids: the number's column, which the table has too, and the id.
    """
    if not len(ids.limit(1)):
        return table
    number, own, *_ = ids.columns
    named = ids.project(f'{number}, "{own}" AS own_id').set_alias("named")
    return table.set_alias("numbered").join(named, number).project(f"* EXCLUDE (own_id) REPLACE (own_id AS {number})")
