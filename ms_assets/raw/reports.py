"""Reports on the raw files: their columns, and the spread of events over users and songs."""

import polars as pl

from ms_assets.streams import Relation

# Computed from integers, because sums of floats would depend on the order in which threads process the rows.
VARIANCE = "(sum(n * n) * count(*) - sum(n) * sum(n))::DOUBLE / (count(*) * (count(*) - 1))"
SPREAD = {
    "mean": "sum(n) / count(*)",
    "std": f"CASE WHEN count(*) > 1 THEN sqrt({VARIANCE}) WHEN count(*) = 1 THEN 0 END",
    "min": "min(n)",
    "q25": "quantile_cont(n, 0.25)",
    "median": "quantile_cont(n, 0.5)",
    "q75": "quantile_cont(n, 0.75)",
    "max": "max(n)",
}


def column_report(tables: dict[str, Relation]) -> pl.DataFrame:
    """One row per file and column: file, n_rows, column, type, and the first row's value as text."""
    rows = []
    for name, table in tables.items():
        published = table.project("* EXCLUDE (file_row_number)")
        n_rows = table.count("*").fetchall()[0][0]
        first = (published.limit(1).fetchall() or [(None,) * len(published.columns)])[0]
        for column, type_, value in zip(published.columns, published.types, first, strict=True):
            shown = None if value is None else str(value)[:80]
            rows.append((name, n_rows, column, str(type_), shown))
    texts = dict.fromkeys(("file", "n_rows", "column", "type", "first_row"), pl.String)
    return pl.DataFrame(rows, {**texts, "n_rows": pl.Int64}, orient="row")


def interaction_statistics(tables: dict[str, Relation]) -> pl.DataFrame:
    """One row per interaction file: its events, users and songs, and the spread of events per user and per song.

    The standard deviation is the sample's (n − 1); quartiles interpolate. Rows without an id count as events
    but belong to no user or song.
    """
    rows = []
    for name, table in tables.items():
        n_events = table.count("*").fetchall()[0][0]
        row = {"file": name, "n_events": n_events, "n_users": 0, "n_songs": 0}
        for label, column in (("user", "uid"), ("song", "item_id")):
            counts = table.filter(f"{column} IS NOT NULL").aggregate(f"{column}, count(*)::HUGEINT AS n")
            spread = counts.aggregate("count(*), " + ", ".join(SPREAD.values())).fetchall()[0]
            row[f"n_{label}s"] = spread[0]
            numbers = zip(SPREAD, spread[1:], strict=True)
            row |= {f"per_{label}_{key}": None if value is None else float(value) for key, value in numbers}
        rows.append(row)
    wholes = dict.fromkeys(("n_events", "n_users", "n_songs"), pl.Int64)
    floats = {f"per_{label}_{key}": pl.Float64 for label in ("user", "song") for key in SPREAD}
    return pl.DataFrame(rows, {"file": pl.String, **wholes, **floats})
