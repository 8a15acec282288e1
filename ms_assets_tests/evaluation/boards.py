"""Metrics of made-up users, the input of the leaderboard."""

import duckdb
import numpy as np
import polars as pl

from ms_assets.evaluation.exposure import COMPARED
from ms_assets.evaluation.leaderboard import MEANS, pane
from ms_assets.evaluation.metrics import METRICS


def frames(n_users=40, methods=("popular", "lightgcn"), views=("discovery", "all"), ks=(100, 10), **columns):
    """Metrics per user, random unless given, and the exposure of every list."""
    rng, parts, covered = np.random.default_rng(1), [], []
    for method in methods:
        for view in views:
            for k in ks:
                values = {name: columns.get(name, rng.random(n_users)) for name in METRICS}
                key = {"method": method, "view": view, "k": pl.Series([k] * n_users, dtype=pl.Int32)}
                ids = pl.DataFrame({"uid": rng.permutation(n_users)})
                part = ids.with_columns(**{n: pl.lit(v) if isinstance(v, str) else v for n, v in key.items()})
                parts.append(part.with_columns(**{n: pl.Series(n, v, pl.Float64) for n, v in values.items()}))
                covered.append((method, view, k, *rng.random(len(COMPARED))))
    shown = pl.DataFrame(covered, schema=["method", "view", "k", *COMPARED], orient="row")
    return pl.concat(parts), shown.cast({"k": pl.Int32})


def panes(per_user, metrics=MEANS):
    return [pane(relation(rows), metrics) for _, rows in per_user.group_by("view", "k")]


def relation(rows):
    """Rows of a frame as the platform reads those of a table."""
    return duckdb.connect().from_arrow(rows.to_arrow())
