"""What can be asked and ordered in the terminal: the leaderboard of a scale, and who is its champion.

python -m ms_assets SCALE                     prints the leaderboard, and where to look next
python -m ms_assets champion SCALE            lists the registered models, the champion marked
python -m ms_assets promote SCALE VERSION     makes a version the champion
python -m ms_assets rollback SCALE            gives its place back to the champion before it
"""

import sys
from typing import cast

import polars as pl

from ms_assets.definitions import define
from ms_assets.defs.platform.io_managers import Relation
from ms_assets.defs.platform.resources import Environment, MLflow
from ms_assets.defs.platform.scales import SCALES
from ms_assets.evaluation import champion, leaderboard
from ms_assets.registry import ChampionError, Registry

LEADERBOARD = ("evaluation", "leaderboard")


def main(arguments: list[str]) -> int:
    """Do what the arguments say; exit status 2 where they say nothing known, 1 where it cannot be done."""
    scales = SCALES.get_partition_keys()
    try:
        match arguments:
            case [scale] if scale in scales:
                _print_leaderboard(scale)
            case ["champion", scale] if scale in scales:
                _print_champion(_registry(scale))
            case ["promote", scale, version] if scale in scales and version.isdecimal():
                registry = _registry(scale)
                champion.by_hand(registry, int(version))
                _print_champion(registry)
            case ["rollback", scale] if scale in scales:
                registry = _registry(scale)
                champion.roll_back(registry)
                _print_champion(registry)
            case _:
                known = f"{{{','.join(scales)}}}"
                orders = ("", "champion ", "promote ", "rollback ")
                usages = (f"python -m ms_assets {o}{known}{' VERSION' * (o == 'promote ')}" for o in orders)
                sys.stderr.write("usage: " + "\n       ".join(usages) + "\n")
                return 2
    except (FileNotFoundError, ChampionError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


def _registry(scale: str) -> Registry:
    resources = define(Environment.read()).resources or {}
    return cast(MLflow, resources["mlflow"]).registry(scale)


def _print_leaderboard(scale: str) -> None:
    environment = Environment.read()
    frame = cast(Relation, define(environment).load_asset_value(LEADERBOARD, partition_key=scale)).pl()
    for view, k in frame.select("view", "k").unique().sort("view", "k", descending=[True, False]).rows():
        print(f"\n{scale}, view {view}, K = {k}")
        _print_table(leaderboard.summary(frame, view, k))
    print(
        f"""
Tables, graph, embeddings and index: {environment.data}
Lineage, checks, pictures:           make ui      then http://127.0.0.1:3000
Training curves, registered models:  make mlflow  then http://127.0.0.1:5000"""
    )


def _print_champion(registry: Registry) -> None:
    print(f"\nregistered model {registry.name}, served as models:/{registry.name}@champion")
    _print_table(champion.history(registry))
    former = registry.former()
    print(f"A rollback returns to version {former.number}." if former else "There is no former champion to return to.")


def _print_table(table: pl.DataFrame) -> None:
    with pl.Config(
        tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, float_precision=4, tbl_rows=-1,
        tbl_cols=-1, fmt_str_lengths=200, tbl_width_chars=160,
    ):  # fmt: skip
        print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
