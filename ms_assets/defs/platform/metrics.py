"""Metrics of stored artefacts for Prometheus: age, duration, rows, bytes and failed checks, by asset and scale."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

import dagster as dg

from ms_assets.defs.platform.lineage import SECONDS, Lineage, Made
from ms_assets.files import DamagedFileError

DAMAGED = "ms_assets_artefact_damaged"


class Gauge(NamedTuple):
    """Metric of an artefact."""

    about: str
    value: Callable[[Made], float | None]
    """Value of the metric; None if the record does not tell it."""


GAUGES = {
    "ms_assets_artefact_made_timestamp_seconds": Gauge(
        "Time of the materialisation, since 1970; its age is time() less that.",
        lambda made: datetime.fromisoformat(made.at).timestamp(),
    ),
    "ms_assets_artefact_step_seconds": Gauge(
        "Time from the start of the step that made the artefact until it was written.",
        lambda made: made.metadata.get(SECONDS),
    ),
    "ms_assets_artefact_rows": Gauge("Rows of a table.", lambda made: made.metadata.get("dagster/row_count")),
    "ms_assets_artefact_bytes": Gauge("Size of the file, or of all files of a folder.", lambda made: made.size),
    "ms_assets_artefact_failed_checks": Gauge("Blocking checks that the artefact failed.", lambda m: len(m.failed)),
}


def exposition(lineage: Lineage) -> str:
    """Metrics of all stored artefacts, as node_exporter's textfile collector reads them."""
    stored, damaged = dict[tuple[dg.AssetKey, str], Made](), dict[tuple[dg.AssetKey, str], float]()
    for key, scale in lineage.artefacts():
        try:
            made = lineage.history(key, scale)
        except DamagedFileError:
            damaged[key, scale] = 1
            continue
        if made:
            stored[key, scale], damaged[key, scale] = made[0], 0
    lines = [*_family(DAMAGED, "1 if the file is not the one that was written, or its record cannot be read.", damaged)]
    for name, gauge in GAUGES.items():
        values = {which: value for which, made in stored.items() if (value := gauge.value(made)) is not None}
        lines += _family(name, gauge.about, values)
    return "".join(f"{line}\n" for line in lines)


def _family(name: str, about: str, values: dict[tuple[dg.AssetKey, str], float]) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} gauge"
    for (key, scale), value in values.items():
        yield f'{name}{{asset="{key.to_user_string()}",scale="{scale}"}} {value!r}'
