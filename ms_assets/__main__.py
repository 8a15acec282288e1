"""`python -m ms_assets SCALE` prints the leaderboard of a scale, and where to look next."""

import sys
from typing import cast

import polars as pl

from ms_assets.definitions import define
from ms_assets.evaluation import leaderboard
from ms_assets.io_managers import Relation
from ms_assets.resources import Environment
from ms_assets.scales import SCALES

LEADERBOARD = ("evaluation", "leaderboard")


def main(arguments: list[str]) -> int:
    """Print the leaderboard; exit status 2 for an unknown scale, 1 when there is no leaderboard yet."""
    if len(arguments) != 1 or arguments[0] not in SCALES.get_partition_keys():
        sys.stderr.write(f"usage: python -m ms_assets {{{','.join(SCALES.get_partition_keys())}}}\n")
        return 2
    [scale], environment = arguments, Environment.read()
    try:
        board = cast(Relation, define(environment).load_asset_value(LEADERBOARD, partition_key=scale))
    except FileNotFoundError as missing:
        sys.stderr.write(f"{missing}\n")
        return 1
    frame = board.pl()
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, float_precision=4, tbl_rows=-1):
        for view, k in frame.select("view", "k").unique().sort("view", "k", descending=[True, False]).rows():
            print(f"\n{scale}, view {view}, K = {k}")
            print(leaderboard.summary(frame, view, k))
    print(
        f"""
Tables, graph, embeddings and index: {environment.data}
Lineage, checks, pictures:           make ui      then http://127.0.0.1:3000
Training curves:                     make mlflow  then http://127.0.0.1:5000"""
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
